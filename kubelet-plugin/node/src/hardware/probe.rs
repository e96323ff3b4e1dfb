//! Follows the driver: looks again and again, each time on a thread of its own.
//!
//! # Guarantees
//! - One look at a time. One that takes too long is said to hang, in the log and to everybody who
//!   asks; what was known is served meanwhile, and when it comes back at last, looking goes on.
//! - Nobody is told of a look that saw nothing new.
//! - The process can end while a look hangs: no thread is waited for.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tessera_device::follow::{Change, Known};
use tessera_device::mig::MigLayouts;
use tessera_prepare::notice::Happening;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Hardware, HardwareWatch, Seen, Sight, View};
use crate::events::Notices;

/// How often to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time between two cheap looks, or between two full ones while there is no driver. A driver
    /// container takes minutes to install.
    pub glance: Duration,
    /// Time between two full looks at a driver whose files do not change. A GPU that falls off the
    /// bus changes no file; a full look starts NVML anew, which on a node whose GPUs sleep while
    /// nobody uses them (no persistence mode) wakes them.
    pub full: Duration,
    /// What a look may take. NVML answers in milliseconds, and in seconds where it has to wake
    /// GPUs first.
    pub limit: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            glance: Duration::from_secs(2),
            full: Duration::from_secs(30),
            limit: Duration::from_secs(10),
        }
    }
}

/// Makes what is known known.
#[derive(Debug)]
pub struct HardwareProbe<S> {
    sight: Arc<S>,
    pace: Pace,
    views: watch::Sender<View>,
    notices: Notices,
    layouts: MigLayouts,
}

/// What came of one look.
struct Glance<P> {
    print: P,
    /// Nothing: the cheap look saw no reason for a full one.
    seen: Option<Seen>,
}

impl<S: Sight> HardwareProbe<S> {
    /// Will look through `sight` and tell `notices` what is not as it was.
    pub fn new(sight: S, pace: Pace, notices: Notices) -> (Self, HardwareWatch) {
        let (views, watch) = watch::channel(View::default());
        let sight = Arc::new(sight);
        let probe = Self {
            sight,
            pace,
            views,
            notices,
            layouts: MigLayouts::Static,
        };
        (probe, HardwareWatch(watch))
    }

    /// On a node whose GPUs are cut in this way. Where the driver cuts them, that they are is no news.
    #[must_use]
    pub fn with(self, layouts: MigLayouts) -> Self {
        Self { layouts, ..self }
    }

    /// Looks until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let mut former = None;
        let mut full_due = Instant::now();
        loop {
            let full = Instant::now() >= full_due || self.views.borrow().hardware.is_none();
            let (glance, late) = self.answer(self.begin(former.take(), full)).await;
            if let Some(Glance { print, seen }) = glance {
                if let Some(seen) = seen {
                    self.take(seen);
                    full_due = Instant::now() + self.pace.full;
                }
                former = Some(print);
            }
            if late {
                // Much may have happened since that look began.
                full_due = Instant::now();
            }
            sleep(self.pace.glance).await;
        }
    }

    /// Begins a look. Without a former print it is a full one.
    fn begin(&self, former: Option<S::Print>, full: bool) -> oneshot::Receiver<Glance<S::Print>> {
        let (done, answer) = oneshot::channel();
        let sight = self.sight.clone();
        let look = move || {
            // The print comes first: what changes during the look is seen by the next one.
            let print = sight.print();
            let is_new = full || former.is_none_or(|former| former != print);
            let seen = is_new.then(|| sight.look());
            // Nobody takes the answer when the process is ending.
            let _ = done.send(Glance { print, seen });
        };
        // Not one of the runtime's threads: the runtime waits for those when it ends.
        if let Err(error) = thread::Builder::new()
            .name("hardware".to_owned())
            .spawn(look)
        {
            warn!(%error, "the driver cannot be looked at; trying again");
        }
        answer
    }

    /// The answer, however long it takes, and whether it took too long. No answer if the look
    /// could not begin or ended in a panic, which the log has then.
    async fn answer<T>(&self, mut answer: oneshot::Receiver<T>) -> (Option<T>, bool) {
        let began = Instant::now();
        if let Ok(answered) = timeout(self.pace.limit, &mut answer).await {
            return (answered.ok(), false);
        }
        warn!(
            limit = ?self.pace.limit,
            "the NVIDIA driver does not answer (a call of NVML hangs); what is known is served"
        );
        self.views
            .send_modify(|view| view.silent_since = Some(began));
        let late = answer.await;
        self.views.send_modify(|view| view.silent_since = None);
        info!(after = ?began.elapsed(), "the NVIDIA driver answers again");
        (late.ok(), true)
    }

    /// Takes in what was seen, and tells of it if it is new.
    fn take(&self, seen: Seen) {
        let Seen {
            look,
            install,
            lacks,
        } = seen;
        let former = self.views.borrow().known.clone();
        let first_look = former == Known::Unseen;
        let (known, changes) = former.next(look);
        let is_news =
            |change: &&Change| self.layouts == MigLayouts::Static || !change.is_layout_alone();
        for change in changes.iter().filter(is_news) {
            self.notices.tell(Happening::Changed { change, first_look });
            if change.is_loss() {
                warn!("{change}");
            } else {
                info!("{change}");
            }
        }
        let hardware = match &known {
            Known::Present(inventory) => Some(Hardware {
                inventory: inventory.clone(),
                install,
            }),
            Known::Absent { .. } | Known::Unseen => None,
        };
        self.views.send_if_modified(|view| {
            let same_hardware = view.hardware.as_deref() == hardware.as_ref();
            if same_hardware && view.known == known {
                return false;
            }
            if !same_hardware {
                for lacking in &lacks {
                    warn!(missing = %lacking, "containers go without a part of the driver");
                }
                view.hardware = hardware.map(Arc::new);
            }
            view.known = known;
            true
        });
    }
}

#[cfg(test)]
mod tests;
