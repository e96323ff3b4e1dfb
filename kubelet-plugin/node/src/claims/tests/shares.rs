//! Claims that share a GPU, of 81559 MiB each.

use tessera_device::{DriverFacts, Inventory, MemoryLimiting};

use super::*;

fn ids(devices: &[PreparedDevice]) -> Vec<&str> {
    devices
        .iter()
        .map(|device| device.cdi_id.as_str())
        .collect()
}

#[tokio::test]
async fn claims_share_a_gpu_as_long_as_there_is_room_and_nobody_has_it_alone_meanwhile() {
    let machine = Machine::new();
    let claims = machine.start();
    for name in ["a", "b", "c"] {
        machine.api.allocate_shares(name, 3, &[("s", 20)]);
        let prepared = claims.prepare(&claim(name), soon()).await.unwrap();
        let id = format!("k8s.gpu.nvidia.com/claim={name}-uid-gpu-3_s");
        assert_eq!(ids(&prepared), [id.as_str()]);
        let again = claims.prepare(&claim(name), soon()).await.unwrap();
        assert_eq!(again, prepared);
    }
    machine.assert_specs_match_the_journal();
    machine.api.allocate_shares("d", 3, &[("s", 20)]);
    let error = claims.prepare(&claim("d"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuOverdrawn", "{error}");
    machine.api.allocate("whole", &[3]);
    let error = claims.prepare(&claim("whole"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");

    claims.unprepare(&claim("b"), soon()).await.unwrap();
    claims.prepare(&claim("d"), soon()).await.unwrap();
    for name in ["a", "c", "d"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    claims.prepare(&claim("whole"), soon()).await.unwrap();
    let error = claims.prepare(&claim("a"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");
    claims.unprepare(&claim("whole"), soon()).await.unwrap();
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}

#[tokio::test]
async fn a_claim_can_have_several_shares_of_a_gpu_and_each_is_a_device_of_its_own() {
    let machine = Machine::new();
    let claims = machine.start();
    machine
        .api
        .allocate_shares("a", 3, &[("one", 20), ("two", 5)]);
    let prepared = claims.prepare(&claim("a"), soon()).await.unwrap();
    let expected = ["one", "two"].map(|id| format!("k8s.gpu.nvidia.com/claim=a-uid-gpu-3_{id}"));
    assert_eq!(ids(&prepared), expected);
    let shares: Vec<_> = prepared.iter().map(|device| &device.share_id).collect();
    assert_eq!(shares, [&Some("one".to_owned()), &Some("two".to_owned())]);
    let spec = std::fs::read_to_string(machine.spec_of("a")).unwrap();
    assert!(spec.contains("TESSERA_SHARE_TWO=device=gpu-3,"), "{spec}");
}

#[tokio::test]
async fn a_share_waits_for_one_that_is_gone_from_the_api_and_takes_its_room() {
    let machine = Machine::new();
    let claims = Arc::new(machine.start());
    for name in ["stays", "former"] {
        machine.api.allocate_shares(name, 3, &[("s", 35)]);
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    machine.api.allocate_shares("next", 3, &[("s", 35)]);
    machine.api.forget("former");
    let error = claims.prepare(&claim("next"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuBeingReleased", "{error}");
    assert!(error.to_string().contains("default/former"), "{error}");

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
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_share_of_which_only_the_spec_tells_counts_as_all_of_its_gpu_until_its_claim_is_asked_for()
 {
    let machine = Machine::new();
    let claims = machine.start();
    for name in ["a", "b"] {
        machine.api.allocate_shares(name, 3, &[("s", 20)]);
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    let before = claims.prepare(&claim("a"), soon()).await.unwrap();
    std::fs::remove_file(machine.record_of("a")).unwrap();
    std::fs::remove_file(machine.path("claims").join("copies/a-uid.record")).unwrap();
    machine.api.allocate_shares("next", 3, &[("s", 20)]);
    let error = claims.prepare(&claim("next"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuBeingReleased", "{error}");
    claims.prepare(&claim("b"), soon()).await.unwrap();

    // The claim itself is known again as soon as the kubelet asks for it.
    let after = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(ids(&after), ids(&before));
    claims.prepare(&claim("next"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_share_that_must_be_held_is_refused_and_one_that_need_not_be_is_prepared() {
    let machine = Machine::new();
    let claims = machine.start();
    for (enforcement, expected) in [("BestEffort", None), ("Required", Some("ShareNotHeld"))] {
        machine.api.allocate_shares("a", 3, &[("s", 20)]);
        let memory = serde_json::json!({"enforcement": enforcement});
        machine.api.configure_share("a", &memory);
        let prepared = claims.prepare(&claim("a"), soon()).await;
        assert_eq!(prepared.as_ref().err().map(ClaimError::label), expected);
        claims.unprepare(&claim("a"), soon()).await.unwrap();
    }
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}

/// A node whose driver takes memory limits.
fn limiting(machine: &Machine, memory_limiting: MemoryLimiting) -> HardwareWatch {
    let hardware = machine.hardware();
    let facts = DriverFacts {
        memory_limiting,
        ..tessera_device::testing::driver("615.71.09")
    };
    let gpus = hardware.inventory.gpus().to_vec();
    HardwareWatch::fixed(Hardware {
        inventory: Inventory::new(facts, gpus).unwrap(),
        ..hardware
    })
}

#[tokio::test]
async fn where_the_driver_limits_every_share_is_held_and_one_that_wants_to_grow_is_refused() {
    let machine = Machine::new();
    let fixed = limiting(&machine, MemoryLimiting::PerCgroup);
    let claims = machine.start_on(fixed, Fuse::default(), "boot");
    for (name, memory, expected) in [
        ("plain", None, Ok(true)),
        ("strict", Some(serde_json::json!({})), Ok(true)),
        (
            "lax",
            Some(serde_json::json!({"enforcement": "BestEffort"})),
            Ok(true),
        ),
        (
            "growing",
            Some(serde_json::json!({"limit": "100%"})),
            Err("ShareNotHeld"),
        ),
    ] {
        machine.api.allocate_shares(name, 3, &[(name, 10)]);
        if let Some(memory) = memory {
            machine.api.configure_share(name, &memory);
        }
        let prepared = claims.prepare(&claim(name), soon()).await;
        let held = prepared.map(|devices| {
            let spec = std::fs::read_to_string(machine.spec_of(name)).unwrap();
            let told = spec.contains("memoryEnforcement=native");
            assert_eq!(told, spec.contains("createRuntime"), "{spec}");
            assert_eq!(told, devices[0].memory_limit.is_some());
            told
        });
        let held = held.as_ref().map(|held| *held).map_err(ClaimError::label);
        assert_eq!(held, expected, "{name}");
    }
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn where_limits_are_moved_a_share_may_grow_as_far_as_its_claim_says() {
    let machine = Machine::new();
    let moved = limiting(&machine, MemoryLimiting::Moved);
    let claims = machine.start_on(moved, Fuse::default(), "boot");
    let gib = |gib: u64| tessera_device::Bytes::from_mib(gib << 10);
    for (name, memory, expected) in [
        ("plain", serde_json::json!({}), Ok(None)),
        ("same", serde_json::json!({"limit": "10Gi"}), Ok(None)),
        (
            "growing",
            serde_json::json!({"limit": "40Gi"}),
            Ok(Some(gib(40))),
        ),
        (
            "lax",
            serde_json::json!({"limit": "40Gi", "enforcement": "BestEffort"}),
            Ok(Some(gib(40))),
        ),
        (
            "too-much",
            serde_json::json!({"limit": "100Ti"}),
            Err("ShareNotHeld"),
        ),
    ] {
        machine.api.allocate_shares(name, 3, &[(name, 10)]);
        machine.api.configure_share(name, &memory);
        let prepared = claims.prepare(&claim(name), soon()).await;
        let range = prepared.map(|devices| {
            assert_eq!(devices[0].memory_limit, Some(gib(10)), "{name}");
            devices[0].memory_ceiling
        });
        let range = range
            .as_ref()
            .map(|range| *range)
            .map_err(ClaimError::label);
        assert_eq!(range, expected, "{name}");
    }
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn an_allocation_that_says_nothing_certain_of_a_share_is_refused() {
    let machine = Machine::new();
    let claims = machine.start();
    machine.api.allocate_shares("a", 3, &[("../s", 20)]);
    let error = claims.prepare(&claim("a"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "ImpossibleShare", "{error}");
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}
