use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tessera_device::follow::Look;
use tessera_prepare::cdi::DriverInstall;

use super::*;
use crate::deadline::Deadline;
use crate::testing::machine::hardware;

/// What a test may wait for on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A node that shows what the test says.
#[derive(Default)]
struct Stage {
    print: AtomicUsize,
    there: Mutex<bool>,
    /// Looks end when something arrives here, where there is something to wait for.
    gate: Mutex<Option<mpsc::Receiver<()>>>,
    looks: AtomicUsize,
    glances: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// So many looks end in a panic.
    panics: AtomicUsize,
}

impl Stage {
    fn show(&self, there: bool) {
        *self.there.lock().unwrap() = there;
        self.print.fetch_add(1, Ordering::Relaxed);
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    fn glances(&self) -> usize {
        self.glances.load(Ordering::Relaxed)
    }
}

struct OnStage(Arc<Stage>);

impl Sight for OnStage {
    type Print = usize;

    fn print(&self) -> usize {
        self.0.glances.fetch_add(1, Ordering::Relaxed);
        self.0.print.load(Ordering::Relaxed)
    }

    fn look(&self) -> Seen {
        let look = self.0.looks.fetch_add(1, Ordering::Relaxed);
        assert!(look >= self.0.panics.load(Ordering::Relaxed), "injected");
        let at_once = self.0.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        if let Some(gate) = &*self.0.gate.lock().unwrap() {
            gate.recv().unwrap();
        }
        self.0.at_once.fetch_sub(1, Ordering::Relaxed);
        let look = if *self.0.there.lock().unwrap() {
            Look::Found {
                inventory: hardware().inventory,
                silent: Vec::new(),
            }
        } else {
            Look::NoDriver {
                why: "there is none".to_owned(),
            }
        };
        Seen {
            look,
            install: DriverInstall::default(),
            lacks: Vec::new(),
        }
    }
}

/// Fast enough for a test; full looks come only of a changed print or a missing driver, and no look
/// is late, however busy the machine is.
const PACE: Pace = Pace {
    glance: Duration::from_millis(5),
    full: Duration::from_hours(1),
    limit: Duration::from_hours(1),
};

fn follow(stage: &Arc<Stage>) -> (HardwareWatch, CancellationToken) {
    begin(PACE, stage, Notices::open().0)
}

fn follow_and_tell(stage: &Arc<Stage>, notices: Notices) -> (HardwareWatch, CancellationToken) {
    begin(PACE, stage, notices)
}

fn follow_at(pace: Pace, stage: &Arc<Stage>) -> (HardwareWatch, CancellationToken) {
    begin(pace, stage, Notices::open().0)
}

fn begin(pace: Pace, stage: &Arc<Stage>, notices: Notices) -> (HardwareWatch, CancellationToken) {
    let (probe, watch) = HardwareProbe::new(OnStage(stage.clone()), pace, notices);
    let stop = CancellationToken::new();
    tokio::spawn(probe.run(stop.clone()));
    (watch, stop)
}

async fn until(watch: &HardwareWatch, wanted: impl Fn(&HardwareWatch) -> bool) {
    let mut changes = watch.clone();
    let waiting = async {
        while !wanted(watch) {
            changes.changed().await;
        }
    };
    Deadline::after(LIMIT).run(waiting).await.unwrap();
}

#[tokio::test]
async fn a_driver_that_comes_late_goes_away_and_comes_back_is_followed() {
    let stage = Arc::new(Stage::default());
    let (notices, mut inbox) = Notices::open();
    let (watch, _stop) = follow_and_tell(&stage, notices);
    watch.settled().await;
    let problem = watch.problem().unwrap();
    assert_eq!(problem, "there is none");
    for there in [true, false, true] {
        stage.show(there);
        until(&watch, |watch| watch.now().is_some() == there).await;
        assert_eq!(watch.problem().is_none(), there);
    }
    let told = std::iter::from_fn(|| inbox.waiting()).map(|notice| notice.reason);
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["NoDriver", "DriverFound", "DriverGone", "DriverFound"]
    );
}

#[tokio::test]
async fn a_prepare_that_comes_before_the_driver_waits_for_it() {
    let stage = Arc::new(Stage::default());
    let (watch, _stop) = follow(&stage);
    watch.settled().await;
    let waiting = watch.ready(Deadline::after(LIMIT));
    let coming = async { stage.show(true) };
    let (found, ()) = tokio::join!(waiting, coming);
    assert_eq!(found.unwrap().inventory.gpus().len(), 8);
}

#[tokio::test]
async fn while_nothing_changes_nobody_is_told_and_the_driver_is_left_alone() {
    let stage = Arc::new(Stage::default());
    stage.show(true);
    let (watch, _stop) = follow(&stage);
    until(&watch, |watch| watch.now().is_some()).await;
    let mut changes = watch.clone();
    changes.0.mark_unchanged();
    // A full look that sees the same: another print makes it come.
    let looks = stage.looks();
    stage.show(true);
    while stage.looks() == looks || stage.glances() < 10 {
        tokio::time::sleep(PACE.glance).await;
    }
    assert_eq!(
        stage.looks(),
        looks + 1,
        "the print stayed the same after that"
    );
    assert_eq!(changes.0.has_changed().ok(), Some(false));
}

#[tokio::test]
async fn a_look_that_hangs_is_told_of_while_what_is_known_is_served_and_is_over_when_it_returns() {
    let stage = Arc::new(Stage::default());
    stage.show(true);
    let limit = Duration::from_millis(50);
    let (watch, _stop) = follow_at(Pace { limit, ..PACE }, &stage);
    until(&watch, |watch| watch.now().is_some()).await;

    let (open, gate) = mpsc::channel();
    *stage.gate.lock().unwrap() = Some(gate);
    stage.show(true);
    let is_told = |watch: &HardwareWatch| {
        let problem = watch.problem();
        problem.is_some_and(|problem| problem.contains("what was known is still served"))
    };
    until(&watch, is_told).await;
    assert!(watch.ready(Deadline::after(LIMIT)).await.is_ok());

    // For the look that hangs, and for those that follow it.
    for _ in 0..1000 {
        open.send(()).unwrap();
    }
    until(&watch, |watch| watch.problem().is_none()).await;
    assert_eq!(stage.most_at_once.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_look_that_panics_costs_only_itself() {
    let stage = Arc::new(Stage::default());
    stage.show(true);
    stage.panics.store(1, Ordering::Relaxed);
    let (watch, _stop) = follow(&stage);
    until(&watch, |watch| watch.now().is_some()).await;
    assert_eq!(stage.looks(), 2);
}
