//! Claims that ask for a time slice of their GPUs.

use tessera_api::Interval::{self, Long, Short};
use tessera_device::testing::gpu_uuid;

use super::*;

/// The GPUs that are set, by number.
fn set(machine: &Machine) -> Vec<(u32, Interval)> {
    let slices = machine.slices.lock().unwrap();
    (0..8)
        .filter_map(|minor| Some((minor, *slices.get(&gpu_uuid(minor))?)))
        .collect()
}

/// Prepares a claim with a share of GPU 3 that asks for this.
async fn share(
    machine: &Machine,
    claims: &TestClaims,
    name: &str,
    interval: Option<Interval>,
) -> Result<Vec<PreparedDevice>, ClaimError> {
    machine.api.allocate_shares(name, 3, &[("s", 5)]);
    if let Some(interval) = interval {
        machine.api.ask_for_slices(name, interval);
    }
    claims.prepare(&claim(name), soon()).await
}

#[tokio::test]
async fn a_gpu_is_set_for_the_claim_that_asks_and_set_back_after_it_and_no_other_is_touched() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0, 3]);
    machine.api.ask_for_slices("a", Long);
    machine.api.allocate("plain", &[5]);
    // Somebody else has set it; nobody asked us.
    machine
        .slices
        .lock()
        .unwrap()
        .insert(gpu_uuid(5), Interval::Medium);
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("plain"), soon()).await.unwrap();
    let medium = (5, Interval::Medium);
    assert_eq!(set(&machine), [(0, Long), (3, Long), medium]);
    assert_eq!(claims.prepare(&claim("a"), soon()).await.unwrap(), first);
    for name in ["plain", "a", "a"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    assert_eq!(set(&machine), [medium]);
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}

#[tokio::test]
async fn ten_claims_share_a_gpu_with_its_time_slice_until_the_last_of_them_is_gone() {
    let machine = Machine::new();
    let claims = machine.start();
    let names: Vec<String> = (0..10).map(|n| format!("claim{n}")).collect();
    for name in &names {
        share(&machine, &claims, name, Some(Short)).await.unwrap();
    }
    share(&machine, &claims, "quiet", None).await.unwrap();
    for name in &names {
        assert_eq!(set(&machine), [(3, Short)]);
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    // Whoever wants nothing is still there, and keeps nothing set.
    assert_eq!(set(&machine), []);
    claims.unprepare(&claim("quiet"), soon()).await.unwrap();
    assert!(machine.files("claims").is_empty());
}

#[tokio::test]
async fn a_claim_that_wants_another_time_slice_is_refused_with_both_names_and_changes_nothing() {
    let machine = Machine::new();
    let claims = machine.start();
    share(&machine, &claims, "a", Some(Short)).await.unwrap();
    let error = share(&machine, &claims, "b", Some(Long)).await.unwrap_err();
    assert_eq!(error.label(), "SettingConflict", "{error}");
    let text = error.to_string();
    for said in ["default/a", "default/b", "Short", "Long"] {
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(set(&machine), [(3, Short)]);
    assert_eq!(machine.files("claims").len(), 1);
    claims.unprepare(&claim("b"), soon()).await.unwrap();
    assert_eq!(set(&machine), [(3, Short)]);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    share(&machine, &claims, "b", Some(Long)).await.unwrap();
    assert_eq!(set(&machine), [(3, Long)]);
}

#[tokio::test]
async fn a_claim_waits_for_another_time_slice_to_go_with_a_claim_that_is_gone_from_the_api() {
    let machine = Machine::new();
    let claims = Arc::new(machine.start());
    share(&machine, &claims, "former", Some(Short))
        .await
        .unwrap();
    machine.api.forget("former");
    machine.api.allocate_shares("next", 3, &[("s", 5)]);
    machine.api.ask_for_slices("next", Long);
    let waiting = claims.clone();
    let next = tokio::spawn(async move {
        waiting
            .prepare(&claim("next"), Deadline::after(Duration::from_secs(10)))
            .await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!next.is_finished());
    claims.unprepare(&claim("former"), soon()).await.unwrap();
    next.await.unwrap().unwrap();
    assert_eq!(set(&machine), [(3, Long)]);
}

#[tokio::test]
async fn after_a_boot_the_time_slice_is_set_anew_with_the_rest() {
    let machine = Machine::new();
    let claims = machine.start();
    for name in ["a", "b"] {
        share(&machine, &claims, name, Some(Short)).await.unwrap();
    }
    machine.slices.lock().unwrap().clear();
    std::fs::remove_dir_all(machine.path("cdi")).unwrap();
    let claims = machine.start_with(Fuse::default(), "next boot");
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(set(&machine), [(3, Short)]);
    claims.prepare(&claim("b"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(set(&machine), [(3, Short)]);
    claims.unprepare(&claim("b"), soon()).await.unwrap();
    assert_eq!(set(&machine), []);
}

#[tokio::test]
async fn what_is_made_anew_by_looking_is_set_anew_and_what_is_taken_back_is_set_back() {
    let machine = Machine::new();
    let claims = machine.start();
    machine.api.allocate("a", &[0]);
    machine.api.ask_for_slices("a", Long);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.slices.lock().unwrap().clear();
    std::fs::remove_file(machine.spec_of("a")).unwrap();
    let mut let_go = LetGo::default();
    claims
        .look_after(&mut let_go, LATER, Some(&hardware()))
        .await;
    assert_eq!(set(&machine), [(0, Long)]);
    machine.api.forget("a");
    claims.look_after(&mut let_go, NOW, Some(&hardware())).await;
    assert_eq!(set(&machine), []);
}

#[tokio::test]
async fn a_damaged_record_counts_by_its_copy_when_others_leave_and_when_it_is_taken_back() {
    let machine = Machine::new();
    let claims = machine.start();
    for name in ["a", "b"] {
        share(&machine, &claims, name, Some(Short)).await.unwrap();
    }
    std::fs::write(machine.record_of("a"), "damage").unwrap();
    claims.unprepare(&claim("b"), soon()).await.unwrap();
    assert_eq!(set(&machine), [(3, Short)]);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(set(&machine), []);
}
