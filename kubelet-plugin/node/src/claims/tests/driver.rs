//! What becomes of claims when the driver goes away, is replaced, or loses a GPU.

use tessera_prepare::cdi::DriverFile;

use super::*;
use crate::hardware::HardwareWatch;
use crate::testing::fuse::Fuse;
use crate::testing::machine::hardware_without;

/// A driver of this version.
fn driver(version: &str) -> Hardware {
    let mut hardware = hardware();
    let name = format!("libcuda.so.{version}");
    hardware.install.libraries = vec![DriverFile {
        host: format!("/run/nvidia/driver/usr/lib64/{name}"),
        container: format!("/usr/lib64/{name}"),
    }];
    hardware
}

#[tokio::test]
async fn without_a_driver_a_prepared_claim_keeps_its_devices_and_a_new_one_waits() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    machine.api.allocate("b", &[1]);
    let (hand, watch) = HardwareWatch::test();
    hand.set(Some(hardware()));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();

    hand.set(None);
    let again = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(again, first);
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "DriverNotReady", "{error}");

    let (claim, deadline) = (claim("b"), Deadline::after(Duration::from_secs(30)));
    let coming = async { hand.set(Some(hardware())) };
    let (prepared, ()) = tokio::join!(claims.prepare(&claim, deadline), coming);
    assert_eq!(names(&prepared.unwrap()), [&DeviceName::whole_gpu(1)]);
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_lost_gpu_is_refused_to_new_claims_and_stays_with_the_one_that_has_it() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    let (hand, watch) = HardwareWatch::test();
    hand.set(Some(hardware()));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();

    hand.set(Some(hardware_without(0)));
    let again = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(again, first);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    let error = claims.prepare(&claim("a"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuLost", "{error}");
    machine.api.allocate("b", &[1]);
    claims.prepare(&claim("b"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn without_a_driver_what_is_gone_is_taken_back_and_what_is_damaged_waits_for_one() {
    let machine = Machine::new();
    machine.api.allocate("gone", &[0]);
    machine.api.allocate("kept", &[1]);
    let claims = machine.start();
    for name in ["gone", "kept"] {
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    machine.api.forget("gone");
    for file in machine.files("cdi") {
        std::fs::remove_file(machine.path("cdi").join(file)).unwrap();
    }
    let mut let_go = LetGo::default();
    let done = claims.look_after(&mut let_go, NOW, None).await;
    assert_eq!(done, [Outcome::TakenBack]);
    let done = claims.look_after(&mut let_go, NOW, Some(&hardware())).await;
    assert_eq!(done, [Outcome::Restored]);
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_spec_follows_the_driver_that_replaces_its_own_and_only_once_that_is_there() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    let (hand, watch) = HardwareWatch::test();
    hand.set(Some(driver("580.95.05")));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    let mut let_go = LetGo::default();
    let (old, new) = (driver("580.95.05"), driver("590.48.01"));
    for (hardware, done, names) in [
        (Some(&old), vec![], "libcuda.so.580.95.05"),
        (None, vec![], "libcuda.so.580.95.05"),
        (Some(&new), vec![Outcome::Restored], "libcuda.so.590.48.01"),
        (Some(&new), vec![], "libcuda.so.590.48.01"),
    ] {
        assert_eq!(claims.look_after(&mut let_go, NOW, hardware).await, done);
        let file = machine.spec_of("a");
        let spec = std::fs::read_to_string(file).unwrap();
        assert!(spec.contains(names), "{spec}");
    }
    hand.set(Some(new));
    let again = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(again, first);
}
