mod crashes;
mod damage;
mod driver;
mod dynamic_mig;
mod faults;
mod mig;
mod odd;
mod shares;
mod time_slices;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tessera_device::DeviceName;
use tessera_prepare::record::PreparedDevice;

use super::*;
use crate::testing::claim;
use crate::testing::fuse::Fuse;
use crate::testing::machine::{Machine, TestClaims, hardware};

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(200))
}

fn names(devices: &[PreparedDevice]) -> Vec<&DeviceName> {
    devices.iter().map(|device| &device.device).collect()
}

#[tokio::test]
async fn a_prepared_claim_gets_the_same_answer_again_and_leaves_nothing_when_unprepared() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0, 3]);
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(
        names(&first),
        [&DeviceName::whole_gpu(0), &DeviceName::whole_gpu(3)]
    );
    machine.assert_specs_match_the_journal();
    let again = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(first, again);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}

#[tokio::test]
async fn a_gpu_is_given_to_one_claim_at_a_time_and_the_refused_one_leaves_no_trace() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    machine.api.allocate("b", &[2, 3]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");
    assert_eq!(machine.files("claims").len(), 1);
    machine.assert_specs_match_the_journal();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("b"), soon()).await.unwrap();
}

#[tokio::test]
async fn a_claim_whose_predecessor_is_gone_from_the_api_waits_for_its_unprepare() {
    let machine = Machine::new();
    machine.api.allocate("former", &[3]);
    machine.api.allocate("next", &[3]);
    let claims = Arc::new(machine.start());
    claims.prepare(&claim("former"), soon()).await.unwrap();
    machine.api.forget("former");

    let waiting = claims.clone();
    let next = tokio::spawn(async move {
        waiting
            .prepare(&claim("next"), Deadline::after(Duration::from_secs(10)))
            .await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!next.is_finished());
    claims.unprepare(&claim("former"), soon()).await.unwrap();
    assert_eq!(
        names(&next.await.unwrap().unwrap()),
        [&DeviceName::whole_gpu(3)]
    );
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_release_by_another_process_is_noticed_too() {
    let machine = Machine::new();
    machine.api.allocate("former", &[3]);
    machine.api.allocate("next", &[3]);
    let ours = Arc::new(machine.start());
    let theirs = machine.start();
    theirs.prepare(&claim("former"), soon()).await.unwrap();
    machine.api.forget("former");
    let waiting = ours.clone();
    let next = tokio::spawn(async move {
        waiting
            .prepare(&claim("next"), Deadline::after(Duration::from_secs(10)))
            .await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    theirs.unprepare(&claim("former"), soon()).await.unwrap();
    next.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_predecessor_that_does_not_let_go_in_time_is_named() {
    let machine = Machine::new();
    machine.api.allocate("former", &[3]);
    machine.api.allocate("next", &[3]);
    let claims = machine.start();
    claims.prepare(&claim("former"), soon()).await.unwrap();
    machine.api.forget("former");
    let error = claims.prepare(&claim("next"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuBeingReleased");
    assert!(error.to_string().contains("default/former"), "{error}");
}

#[tokio::test]
async fn a_removed_or_altered_spec_of_a_prepared_claim_is_made_anew() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let spec = machine.spec_of("a");
    let good = std::fs::read(&spec).unwrap();
    std::fs::write(&spec, "{}").unwrap();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(std::fs::read(&spec).unwrap(), good);
    std::fs::remove_file(&spec).unwrap();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(std::fs::read(&spec).unwrap(), good);
}

#[tokio::test]
async fn while_the_api_server_is_away_only_what_is_prepared_already_is_answered() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    machine.api.allocate("b", &[1]);
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.api.away.store(true, Ordering::Relaxed);
    assert_eq!(claims.prepare(&claim("a"), soon()).await.unwrap(), first);
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "ApiUnavailable");
}

#[tokio::test]
async fn what_another_boot_left_is_prepared_afresh() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    machine.start().prepare(&claim("a"), soon()).await.unwrap();
    std::fs::remove_dir_all(machine.path("cdi")).unwrap();
    let claims = machine.start_with(Fuse::default(), "next boot");
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_claim_that_was_allocated_again_elsewhere_moves_with_its_allocation() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.api.allocate("a", &[5]);
    let moved = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(names(&moved), [&DeviceName::whole_gpu(5)]);
    machine.api.allocate("b", &[0]);
    claims.prepare(&claim("b"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_damaged_record_holds_its_own_gpu_and_no_other() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    machine.api.allocate("same", &[3]);
    machine.api.allocate("other", &[4]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    for damage in [&b""[..], b"damage"] {
        std::fs::write(machine.record_of("a"), damage).unwrap();
        let error = claims.prepare(&claim("same"), soon()).await.unwrap_err();
        assert_eq!(error.label(), "GpuHeld", "{error}");
        claims.prepare(&claim("other"), soon()).await.unwrap();
    }
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("same"), soon()).await.unwrap();
}

#[tokio::test]
async fn a_record_that_nothing_accounts_for_blocks_new_claims_until_it_is_unprepared() {
    let machine = Machine::new();
    machine.api.allocate("b", &[1]);
    let claims = machine.start();
    std::fs::write(machine.record_of("lost"), b"damage").unwrap();
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuUnaccounted", "{error}");
    claims.unprepare(&claim("lost"), soon()).await.unwrap();
    claims.prepare(&claim("b"), soon()).await.unwrap();
}

#[tokio::test]
async fn a_prepared_claim_whose_spec_cannot_be_made_anew_keeps_its_gpu() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    machine.api.allocate("b", &[3]);
    machine.start().prepare(&claim("a"), soon()).await.unwrap();
    std::fs::remove_file(machine.spec_of("a")).unwrap();
    for burns_at in 0..2 {
        let fuse = Fuse {
            burns_at: Some(burns_at),
            ..Fuse::default()
        };
        let doomed = machine.start_with(fuse, "boot");
        doomed.prepare(&claim("a"), soon()).await.unwrap_err();
    }
    let error = machine
        .start()
        .prepare(&claim("b"), soon())
        .await
        .unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");
}

const NOW: Grace = Grace(Duration::ZERO);
const LATER: Grace = Grace(Duration::from_hours(1));

#[tokio::test]
async fn what_the_kubelet_forgot_is_taken_back_after_the_grace_and_not_before() {
    let machine = Machine::new();
    machine.api.allocate("kept", &[0]);
    machine.api.allocate("gone", &[1]);
    let claims = machine.start();
    for name in ["kept", "gone"] {
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    machine.api.forget("gone");
    let mut let_go = LetGo::default();
    assert_eq!(
        claims
            .look_after(&mut let_go, LATER, Some(&hardware()))
            .await,
        []
    );
    assert!(let_go.is_waiting());
    assert_eq!(
        claims.look_after(&mut let_go, NOW, Some(&hardware())).await,
        [Outcome::TakenBack]
    );
    assert_eq!(
        claims.look_after(&mut let_go, NOW, Some(&hardware())).await,
        []
    );
    assert!(!let_go.is_waiting());
    assert_eq!(machine.told(), ["ClaimTakenBack"]);
    assert_eq!(machine.files("claims"), ["kept-uid.record"]);
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn while_the_api_server_is_away_nothing_is_taken_back() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.api.away.store(true, Ordering::Relaxed);
    assert_eq!(
        claims
            .look_after(&mut LetGo::default(), NOW, Some(&hardware()))
            .await,
        []
    );
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn lost_specs_and_lost_records_are_made_anew_by_looking() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    machine.api.allocate("b", &[1]);
    let claims = machine.start();
    for name in ["a", "b"] {
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    std::fs::remove_file(machine.spec_of("a")).unwrap();
    std::fs::remove_file(machine.record_of("b")).unwrap();
    let done = claims
        .look_after(&mut LetGo::default(), LATER, Some(&hardware()))
        .await;
    let done: BTreeSet<String> = done.iter().map(|outcome| format!("{outcome:?}")).collect();
    assert_eq!(
        done,
        BTreeSet::from(["Rebuilt".to_owned(), "Restored".to_owned()])
    );
    assert_eq!(machine.told(), ["RecordRebuilt", "PreparationRestored"]);
    machine.assert_specs_match_the_journal();
    machine.api.allocate("c", &[1]);
    let error = claims.prepare(&claim("c"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");
    assert_eq!(
        claims
            .look_after(&mut LetGo::default(), LATER, Some(&hardware()))
            .await,
        []
    );
}

#[tokio::test]
async fn claims_on_different_gpus_are_prepared_side_by_side() {
    let machine = Machine::new();
    let claims = Arc::new(machine.start());
    let mut tasks = tokio::task::JoinSet::new();
    for minor in 0..8 {
        let name = format!("claim{minor}");
        machine.api.allocate(&name, &[minor]);
        let claims = claims.clone();
        tasks.spawn(async move { claims.prepare(&claim(&name), soon()).await.map(|_| ()) });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(
        crate::metrics::prepared::count(&claims.records).unwrap()["gpu"],
        8
    );
    machine.assert_specs_match_the_journal();
}
