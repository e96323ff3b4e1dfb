//! The process dies at each of its changes to the node, before and after it (invariant I8).

use super::*;

/// Does `work` in a process that dies at the change number `at`; says whether it lived.
async fn lives_through<F>(
    machine: &Machine,
    at: usize,
    effect_first: bool,
    work: impl FnOnce(TestClaims) -> F,
) -> bool
where
    F: Future<Output = bool>,
{
    let fuse = Fuse {
        burns_at: Some(at),
        effect_first,
        ..Fuse::default()
    };
    work(machine.start_with(fuse)).await
}

fn prepared_machine() -> Machine {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.slot("a", "d1");
    machine
}

#[tokio::test]
async fn wherever_prepare_dies_the_next_process_ends_as_if_it_had_not() {
    let whole = prepared_machine();
    let devices = whole.start().prepare(&claim("a"), soon()).await.unwrap();
    let files = whole.everything();
    for effect_first in [false, true] {
        for at in 0.. {
            let machine = prepared_machine();
            let prepare =
                async |claims: TestClaims| claims.prepare(&claim("a"), soon()).await.is_ok();
            let lived = lives_through(&machine, at, effect_first, prepare).await;
            let again = machine.start().prepare(&claim("a"), soon()).await.unwrap();
            assert_eq!(again, devices, "{at}");
            assert_eq!(machine.everything(), files, "{at}");
            if lived {
                assert!(
                    at > 2,
                    "a record and its copy, a spec, and the record once more"
                );
                break;
            }
        }
    }
}

#[tokio::test]
async fn wherever_unprepare_dies_the_next_one_leaves_nothing() {
    for effect_first in [false, true] {
        for at in 0.. {
            let machine = prepared_machine();
            machine.start().prepare(&claim("a"), soon()).await.unwrap();
            let unprepare =
                async |claims: TestClaims| claims.unprepare(&claim("a"), soon()).await.is_ok();
            let lived = lives_through(&machine, at, effect_first, unprepare).await;
            machine
                .start()
                .unprepare(&claim("a"), soon())
                .await
                .unwrap();
            assert_eq!(machine.everything(), BTreeMap::new(), "{at}");
            if lived {
                assert!(at > 0);
                break;
            }
        }
    }
}
