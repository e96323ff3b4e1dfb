//! Devices of which the journal does not tell, and claims whose devices are gone.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_nobody_accounts_for_is_destroyed_after_the_grace_and_nothing_else() {
    let machine = node();
    for (name, device) in [("a", HALF), ("b", SMALL), ("c", OTHER)] {
        allocate(&machine, name, &[device]);
    }
    let claims = machine.start();
    for name in ["a", "b", "c"] {
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    // Of one every trace is lost, of another the record and its copy.
    for file in [
        machine.record_of("a"),
        machine.record_of("b"),
        machine.spec_of("a"),
    ] {
        std::fs::remove_file(file).unwrap();
    }
    for name in ["a", "b"] {
        std::fs::remove_file(
            machine
                .path("claims/copies")
                .join(format!("{name}-uid.record")),
        )
        .unwrap();
    }
    let mut let_go = LetGo::default();
    let mut look_after = async || {
        let hardware = machine.looked_at_now();
        let outcomes = claims.look_after(&mut let_go, LATER, Some(&hardware)).await;
        (outcomes, let_go.is_waiting())
    };
    let (outcomes, is_waiting) = look_after().await;
    assert_eq!(outcomes, [Outcome::Rebuilt]);
    assert!(is_waiting);
    assert_eq!(machine.cutting.instances(), [HALF, SMALL, OTHER]);
    tokio::time::sleep(LATER.0).await;
    // A claim is allocated it, of which nothing is known here; or nobody says whether one is.
    assert_eq!(look_after().await, (vec![], true));
    machine.api.forget("a");
    machine.api.away.store(true, Ordering::Relaxed);
    assert_eq!(look_after().await, (vec![Outcome::Failed], true));
    machine.api.away.store(false, Ordering::Relaxed);
    assert_eq!(machine.cutting.instances(), [HALF, SMALL, OTHER]);
    assert_eq!(look_after().await, (vec![Outcome::Destroyed], true));
    assert_eq!(machine.cutting.instances(), [SMALL, OTHER]);
    assert_eq!(look_after().await, (vec![], false));
    // The rebuilt record knows what was made for its claim.
    claims.unprepare(&claim("b"), soon()).await.unwrap();
    assert_eq!(machine.cutting.instances(), [OTHER]);
}

#[tokio::test]
async fn a_claim_whose_device_somebody_destroys_is_told_so() {
    let machine = node();
    allocate(&machine, "a", &[HALF]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let look_after = async || {
        let mut let_go = LetGo::default();
        let hardware = machine.hardware();
        claims.look_after(&mut let_go, LATER, Some(&hardware)).await
    };
    assert_eq!(look_after().await, []);
    assert_eq!(machine.told(), [""; 0]);
    machine
        .cutting
        .change(&gpu_uuid(0), |mig| mig.instances.clear());
    assert_eq!(look_after().await, []);
    assert_eq!(machine.told(), ["MigDeviceGone"]);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn while_a_record_cannot_be_read_no_device_counts_as_nobodys() {
    let machine = node();
    allocate(&machine, "a", &[HALF]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    std::fs::write(machine.record_of("a"), "damage").unwrap();
    std::fs::remove_file(machine.path("claims/copies").join("a-uid.record")).unwrap();
    std::fs::remove_file(machine.spec_of("a")).unwrap();
    let hardware = machine.hardware();
    let mut let_go = LetGo::default();
    let outcomes = claims.look_after(&mut let_go, NOW, Some(&hardware)).await;
    assert_eq!(outcomes, [Outcome::Unaccounted]);
    assert_eq!(machine.cutting.instances(), [HALF]);
}
