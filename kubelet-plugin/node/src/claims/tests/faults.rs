//! Calls that fail and pass: a full tmpfs, a read-only file system, a bad block.

use rustix::io::Errno;

use super::*;
use crate::testing::fuse::Fault;

const ERRNOS: [Errno; 3] = [Errno::NOSPC, Errno::ROFS, Errno::IO];

/// What is done while a call fails.
#[derive(Clone, Copy, Debug)]
enum Work {
    Prepare,
    PrepareAgain,
    Unprepare,
    LookAfterLost,
    LookAfterDamaged,
    LookAfterGone,
}

const WORK: [Work; 6] = [
    Work::Prepare,
    Work::PrepareAgain,
    Work::Unprepare,
    Work::LookAfterLost,
    Work::LookAfterDamaged,
    Work::LookAfterGone,
];

impl Work {
    /// What has happened before. Claim `b` is prepared throughout.
    async fn set_up(self) -> Machine {
        let machine = Machine::new();
        machine.api.allocate("a", &[0, 3]);
        machine.api.allocate("b", &[1]);
        let claims = machine.start();
        claims.prepare(&claim("b"), soon()).await.unwrap();
        if !matches!(self, Self::Prepare) {
            claims.prepare(&claim("a"), soon()).await.unwrap();
        }
        match self {
            Self::Prepare | Self::Unprepare => {}
            Self::PrepareAgain | Self::LookAfterLost => {
                std::fs::remove_file(machine.spec_of("a")).unwrap();
            }
            Self::LookAfterDamaged => std::fs::write(machine.record_of("a"), "damage").unwrap(),
            Self::LookAfterGone => machine.api.forget("a"),
        }
        machine
    }

    /// Whether it has succeeded.
    async fn run(self, claims: &TestClaims) -> bool {
        match self {
            Self::Prepare | Self::PrepareAgain => claims.prepare(&claim("a"), soon()).await.is_ok(),
            Self::Unprepare => claims.unprepare(&claim("a"), soon()).await.is_ok(),
            Self::LookAfterLost | Self::LookAfterDamaged | Self::LookAfterGone => {
                let mut let_go = LetGo::default();
                let done = claims.look_after(&mut let_go, NOW, Some(&hardware())).await;
                !done.contains(&Outcome::Failed)
            }
        }
    }
}

/// Runs `work` with one failing call, then again without; returns whether that call was reached.
async fn fails_and_passes(work: Work, errno: Errno, burns_at: usize, effect_first: bool) -> bool {
    let unharmed = work.set_up().await;
    assert!(work.run(&unharmed.start()).await);
    let machine = work.set_up().await;
    let fuse = Fuse {
        burns_at: Some(burns_at),
        effect_first,
        fault: Fault::Error(errno),
        ..Fuse::default()
    };
    let claims = machine.start_with(fuse, "boot");
    let succeeded = work.run(&claims).await;
    if claims.records.1.calls.load(Ordering::Relaxed) <= burns_at {
        return false;
    }
    if matches!(work, Work::Prepare) && !succeeded {
        machine.assert_specs_match_the_journal();
        assert_eq!(
            machine.files("claims"),
            ["b-uid.record"],
            "nothing is leaked"
        );
    }
    // A reconciler whose look was hindered looks again, and so does a kubelet.
    assert!(work.run(&claims).await, "the next try works");
    assert_eq!(machine.everything(), unharmed.everything());
    machine.assert_specs_match_the_journal();
    true
}

#[tokio::test]
async fn whichever_call_fails_the_next_try_ends_up_where_an_unhindered_one_does() {
    let mut points = 0;
    for work in WORK {
        for errno in ERRNOS {
            for effect_first in [false, true] {
                for burns_at in 0.. {
                    println!(
                        "{work:?}: {errno:?} at call {burns_at}, after its effect: {effect_first}"
                    );
                    if !fails_and_passes(work, errno, burns_at, effect_first).await {
                        break;
                    }
                    points += 1;
                }
            }
        }
    }
    println!("{points} failing calls");
    assert!(points >= 200, "the calls to the ports were not all reached");
}

/// What is in the way of every write into a directory, for as long as it is there.
#[tokio::test]
async fn a_directory_that_takes_no_files_fails_the_claim_with_the_path_and_leaves_nothing() {
    for directory in ["cdi", "claims", "claims/copies", "locks"] {
        let machine = Machine::new();
        machine.api.allocate("a", &[0]);
        let claims = machine.start();
        let path = machine.path(directory);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::write(&path, "in the way").unwrap();
        let error = claims.prepare(&claim("a"), soon()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("move that away"), "{text}");
        std::fs::remove_file(&path).unwrap();
        assert!(machine.files("claims").is_empty(), "{directory}");
        assert!(machine.files("cdi").is_empty(), "{directory}");
        claims.prepare(&claim("a"), soon()).await.unwrap();
        machine.assert_specs_match_the_journal();
    }
}

#[tokio::test]
async fn directories_that_vanish_are_made_again_and_what_they_held_is_remembered() {
    for directory in ["cdi", "claims", "claims/copies", "locks"] {
        let machine = Machine::new();
        machine.api.allocate("a", &[0]);
        machine.api.allocate("b", &[1]);
        machine.api.allocate("same", &[0]);
        let claims = machine.start();
        claims.prepare(&claim("a"), soon()).await.unwrap();
        std::fs::remove_dir_all(machine.path(directory)).unwrap();
        claims.prepare(&claim("b"), soon()).await.unwrap();
        claims.prepare(&claim("same"), soon()).await.unwrap_err();
        claims.unprepare(&claim("a"), soon()).await.unwrap();
        claims.prepare(&claim("same"), soon()).await.unwrap();
        claims
            .look_after(&mut LetGo::default(), LATER, Some(&hardware()))
            .await;
        machine.assert_specs_match_the_journal();
    }
}
