//! The process dies at every call that changes something, while GPUs are cut.

use super::*;

/// What is done while the process dies.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Devices on two GPUs, the second beside one that is there; and one that is refused.
    Prepare,
    /// Two claims of one GPU, while a third stays.
    Unprepare,
    /// The whole GPU, after its last MIG device has gone.
    Whole,
    /// A claim that was allocated anew, on another part of the GPU.
    Move,
}

const LIVES: [Life; 4] = [Life::Prepare, Life::Unprepare, Life::Whole, Life::Move];

type Answers = BTreeMap<&'static str, Vec<PreparedDevice>>;

/// What is left on the node, and what the kubelet was told.
#[derive(Debug, PartialEq)]
struct End {
    files: BTreeMap<String, Vec<u8>>,
    instances: Vec<String>,
    modes: Vec<MigMode>,
    answers: Answers,
}

const CLAIMS: [(&str, &[&str]); 4] = [
    ("a", &[HALF, OTHER]),
    ("b", &[SMALL]),
    ("c", &[NEXT]),
    ("d", &[WHOLE]),
];

impl Life {
    async fn set_up(self) -> Machine {
        let machine = node();
        for (name, devices) in CLAIMS {
            allocate(&machine, name, devices);
        }
        let claims = machine.start();
        let prepared: &[&str] = match self {
            Self::Prepare | Self::Move => &["b"],
            Self::Unprepare => &["a", "b", "c"],
            Self::Whole => &["c"],
        };
        for name in prepared {
            claims.prepare(&claim(name), soon()).await.unwrap();
        }
        match self {
            Self::Prepare | Self::Unprepare => {}
            Self::Whole => claims.unprepare(&claim("c"), soon()).await.unwrap(),
            Self::Move => allocate(&machine, "b", &[HALF]),
        }
        machine
    }

    async fn act(self, claims: &TestClaims) -> Answers {
        let names: &[&str] = match self {
            Self::Prepare => &["a", "d"],
            Self::Unprepare => {
                for name in ["a", "b"] {
                    let _ = claims.unprepare(&claim(name), soon()).await;
                }
                &[]
            }
            Self::Whole => &["d"],
            Self::Move => &["b"],
        };
        let mut answers = Answers::new();
        for name in names {
            if let Ok(devices) = claims.prepare(&claim(name), soon()).await {
                answers.insert(name, devices);
            }
        }
        answers
    }
}

fn end(machine: &Machine, answers: Answers) -> End {
    End {
        files: machine.everything(),
        instances: machine.cutting.instances(),
        modes: modes(machine),
        answers,
    }
}

async fn dead(life: Life, burns_at: usize, effect_first: bool) -> Option<Machine> {
    let machine = life.set_up().await;
    let fuse = Fuse {
        burns_at: Some(burns_at),
        effect_first,
        ..Fuse::default()
    };
    let doomed = machine.start_with(fuse, "boot");
    life.act(&doomed).await;
    (doomed.records.1.calls.load(Ordering::Relaxed) > burns_at).then_some(machine)
}

async fn assert_unprepare_leaves_nothing(machine: &Machine) {
    let claims = machine.start();
    for (name, _) in CLAIMS {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
    assert_eq!(machine.cutting.instances(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn wherever_the_process_dies_the_gpus_end_up_cut_as_without_the_death() {
    for life in LIVES {
        let machine = life.set_up().await;
        let answers = life.act(&machine.start()).await;
        let unharmed = end(&machine, answers);
        let mut points = 0;
        for effect_first in [false, true] {
            for burns_at in 0.. {
                let Some(machine) = dead(life, burns_at, effect_first).await else {
                    break;
                };
                points += 1;
                let answers = life.act(&machine.start()).await;
                let at = format!("{life:?} at call {burns_at}, after its effect: {effect_first}");
                assert_eq!(end(&machine, answers), unharmed, "{at}");
                machine.assert_specs_match_the_journal();
                assert_unprepare_leaves_nothing(&machine).await;
            }
        }
        println!("{life:?}: {points} points");
        assert!(points >= 8, "{life:?}: the calls were not reached");
    }
}

#[tokio::test(start_paused = true)]
async fn wherever_the_process_dies_an_unprepare_alone_leaves_no_instance() {
    for life in LIVES {
        for effect_first in [false, true] {
            for burns_at in 0.. {
                let Some(machine) = dead(life, burns_at, effect_first).await else {
                    break;
                };
                assert_unprepare_leaves_nothing(&machine).await;
            }
        }
    }
}
