//! The process dies at every call to a port that changes something, before and after the call's
//! effect. The next process finds the same folders, the kubelet repeats its calls, and the end must
//! be that of a life without a crash.
//!
//! A death at a call that only looks leaves what the change before it has left, so such calls are not
//! counted.

use std::collections::BTreeMap;

use tessera_api::Interval::{self, Long, Short};

use super::*;
use crate::testing::machine::TestClaims;

/// What is done while the process dies.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Three claims on different GPUs at once, then one whose GPU is held.
    Prepare,
    /// Two claims with shares of one GPU at once, one of them with two, then one for which there is no room.
    Share,
    /// Two claims with shares of one GPU that want the same time slice, then one that wants another.
    Slice,
    /// One of two claims with such shares at once with a claim that had a GPU of its own set, while the other
    /// stays.
    Unslice,
    /// A claim whose GPU is held by one that is let go and unprepared meanwhile.
    Wait,
    /// A claim that was allocated anew, on other GPUs.
    Move,
    /// Three claims at once, while a fourth stays.
    Unprepare,
    /// A lost spec, an altered one, a lost record, a damaged one, and a claim that is gone.
    LookAfter,
}

const LIVES: [Life; 8] = [
    Life::Prepare,
    Life::Share,
    Life::Slice,
    Life::Unslice,
    Life::Wait,
    Life::Move,
    Life::Unprepare,
    Life::LookAfter,
];

/// Each claim of a life with its GPUs.
const CLAIMS: [(&str, &[u32]); 5] = [
    ("a", &[0, 1]),
    ("b", &[2]),
    ("c", &[3]),
    ("d", &[4]),
    ("e", &[5]),
];

type Answers = BTreeMap<&'static str, Vec<PreparedDevice>>;

/// What is left on the node, and what the kubelet was told.
#[derive(Debug, PartialEq)]
struct End {
    files: BTreeMap<String, Vec<u8>>,
    slices: BTreeMap<GpuUuid, Interval>,
    answers: Answers,
}

impl End {
    fn of(machine: &Machine, answers: Answers) -> Self {
        Self {
            files: machine.everything(),
            slices: machine.slices.lock().unwrap().clone(),
            answers,
        }
    }
}

impl Life {
    /// A node on which everything has happened that is no part of it.
    async fn set_up(self) -> Machine {
        let machine = Machine::new();
        for (name, gpus) in CLAIMS {
            machine.api.allocate(name, gpus);
        }
        if let Self::Slice | Self::Unslice = self {
            let api = &machine.api;
            for (name, interval) in [("a", Short), ("b", Short), ("held", Long)] {
                api.allocate_shares(name, 0, &[(name, 5)]);
                api.ask_for_slices(name, interval);
            }
            api.ask_for_slices("c", Long);
        }
        let claims = machine.start();
        let prepared: &[&str] = match self {
            Self::Prepare | Self::Share | Self::Slice => &[],
            Self::Unslice => &["a", "b", "c"],
            Self::Wait | Self::Move => &["a"],
            Self::Unprepare => &["a", "b", "c", "d"],
            Self::LookAfter => &["a", "b", "c", "d", "e"],
        };
        for name in prepared {
            claims.prepare(&claim(name), soon()).await.unwrap();
        }
        match self {
            Self::Prepare => machine.api.allocate("held", &[1, 6]),
            Self::Share => {
                let api = &machine.api;
                api.allocate_shares("a", 0, &[("s1", 20), ("s2", 5)]);
                api.allocate_shares("b", 0, &[("s3", 30)]);
                api.allocate_shares("held", 0, &[("s4", 40)]);
            }
            Self::Wait => {
                machine.api.forget("a");
                machine.api.allocate("next", &[1]);
            }
            Self::Move => machine.api.allocate("a", &[1, 6]),
            Self::Slice | Self::Unslice | Self::Unprepare => {}
            Self::LookAfter => damage(&machine),
        }
        machine
    }

    /// Does it once, as the kubelet and the clock would. A dead process answers nothing.
    async fn act(self, claims: &TestClaims) -> Answers {
        let outcomes = match self {
            Self::Prepare => {
                let refs = ["a", "b", "c", "held"].map(claim);
                let prepare = |n: usize| claims.prepare(&refs[n], soon());
                let (a, b, c) = tokio::join!(prepare(0), prepare(1), prepare(2));
                vec![("a", a), ("b", b), ("c", c), ("held", prepare(3).await)]
            }
            Self::Share | Self::Slice => {
                let refs = ["a", "b", "held"].map(claim);
                let prepare = |n: usize| claims.prepare(&refs[n], soon());
                let (a, b) = tokio::join!(prepare(0), prepare(1));
                vec![("a", a), ("b", b), ("held", prepare(2).await)]
            }
            Self::Wait => {
                let (next, former) = (claim("next"), claim("a"));
                let unprepare = async {
                    // The next one is waiting by then.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    claims.unprepare(&former, soon()).await
                };
                let (next, _) = tokio::join!(claims.prepare(&next, soon()), unprepare);
                vec![("next", next)]
            }
            Self::Move => vec![("a", claims.prepare(&claim("a"), soon()).await)],
            Self::Unslice => {
                let refs = ["a", "c"].map(claim);
                let unprepare = |n: usize| claims.unprepare(&refs[n], soon());
                let _ = tokio::join!(unprepare(0), unprepare(1));
                vec![]
            }
            Self::Unprepare => {
                let refs = ["a", "b", "c"].map(claim);
                let unprepare = |n: usize| claims.unprepare(&refs[n], soon());
                let _ = tokio::join!(unprepare(0), unprepare(1), unprepare(2));
                vec![]
            }
            Self::LookAfter => {
                let mut let_go = LetGo::default();
                claims.look_after(&mut let_go, NOW, Some(&hardware())).await;
                vec![]
            }
        };
        let answered = |(name, outcome): (_, Result<_, _>)| Some((name, outcome.ok()?));
        outcomes.into_iter().filter_map(answered).collect()
    }
}

fn damage(machine: &Machine) {
    std::fs::remove_file(machine.spec_of("a")).unwrap();
    std::fs::write(machine.spec_of("b"), "{}").unwrap();
    std::fs::remove_file(machine.record_of("c")).unwrap();
    std::fs::write(machine.record_of("d"), "damage").unwrap();
    machine.api.forget("e");
}

/// No GPU is in two specs, whatever the journal says; or in shares that are together no more than it has.
fn assert_no_gpu_is_given_twice(machine: &Machine) {
    let mut given: BTreeMap<u32, u64> = BTreeMap::new();
    for file in machine.files("cdi") {
        let spec = std::fs::read_to_string(machine.path("cdi").join(&file)).unwrap();
        for minor in 0..8 {
            if spec.contains(&format!("\"/dev/nvidia{minor}\"")) {
                let part = shares_of(&spec, minor).unwrap_or(WHOLE);
                let sum = given.entry(minor).or_default();
                *sum += part;
                assert!(*sum <= WHOLE, "GPU {minor} is in {file} and another");
            }
        }
    }
}

/// The memory of the test GPU.
const WHOLE: u64 = 81559 << 20;

/// How much memory the shares of this GPU have together that a spec tells of, if it tells of any.
fn shares_of(spec: &str, minor: u32) -> Option<u64> {
    let device = format!("=device=gpu-{minor},");
    let told = spec.split(&device).skip(1);
    let memory = told.map(|share| {
        let (_, amount) = share.split_once(",memory=").unwrap();
        amount.split(',').next().unwrap().parse::<u64>().unwrap()
    });
    let memory: Vec<u64> = memory.collect();
    (!memory.is_empty()).then(|| memory.iter().sum())
}

/// A node on which the process died at this call; nothing if there is no such call.
async fn dead(life: Life, burns_at: usize, effect_first: bool) -> Option<Machine> {
    let machine = life.set_up().await;
    let fuse = Fuse {
        burns_at: Some(burns_at),
        effect_first,
        ..Fuse::default()
    };
    let doomed = machine.start_with(fuse, "boot");
    life.act(&doomed).await;
    if doomed.records.1.calls.load(Ordering::Relaxed) <= burns_at {
        return None;
    }
    assert_no_gpu_is_given_twice(&machine);
    Some(machine)
}

/// An unprepare alone cleans up, whatever was before.
async fn assert_unprepare_leaves_nothing(machine: &Machine) {
    let claims = machine.start();
    for name in ["a", "b", "c", "d", "e", "next", "held"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    assert!(machine.files("cdi").is_empty());
    assert!(machine.files("claims").is_empty());
    assert!(machine.slices.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn wherever_the_process_dies_the_next_one_ends_up_where_an_unharmed_one_does() {
    for life in LIVES {
        let machine = life.set_up().await;
        let answers = life.act(&machine.start()).await;
        let unharmed = End::of(&machine, answers);
        let mut points = 0;
        for effect_first in [false, true] {
            for burns_at in 0.. {
                let Some(machine) = Box::pin(dead(life, burns_at, effect_first)).await else {
                    break;
                };
                points += 1;
                let answers = life.act(&machine.start()).await;
                let at = format!("{life:?} at call {burns_at}, after its effect: {effect_first}");
                assert_eq!(End::of(&machine, answers), unharmed, "{at}");
                machine.assert_specs_match_the_journal();
                assert_no_gpu_is_given_twice(&machine);
                assert_unprepare_leaves_nothing(&machine).await;
            }
        }
        println!("{life:?}: {points} points");
        assert!(points >= 6, "{life:?}: the calls were not reached");
    }
}

#[tokio::test(start_paused = true)]
async fn wherever_the_process_dies_an_unprepare_alone_cleans_up() {
    for life in LIVES {
        for effect_first in [false, true] {
            for burns_at in 0.. {
                let Some(machine) = Box::pin(dead(life, burns_at, effect_first)).await else {
                    break;
                };
                assert_unprepare_leaves_nothing(&machine).await;
            }
        }
    }
}
