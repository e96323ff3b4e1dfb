//! Claims that are not what the kubelet thinks they are when Prepare reads them.

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};

use super::prepared::PATIENCE;
use super::*;

/// A claim `a` as the API has it, with these results and this UID.
fn object(uid: &str, results: &Value) -> ResourceClaim {
    let object = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": "default", "name": "a", "uid": uid}, "spec": {},
        "status": {"allocation": {"devices": {"results": results}}},
    });
    serde_json::from_value(object).unwrap()
}

fn result(driver: &str, pool: &str, device: &str) -> Value {
    json!({"request": "any", "driver": driver, "pool": pool, "device": device})
}

#[tokio::test]
async fn a_claim_that_is_not_what_it_was_is_refused_with_its_reason_and_leaves_nothing() {
    let ours = result("gpu.nvidia.com", "node0", "gpu-3");
    let theirs = result("nic.example.com", "node0", "gpu-3");
    let cases = [
        ("deleted", None, "ClaimNotFound"),
        (
            "another under its name",
            Some(object("b-uid", &json!([ours]))),
            "ClaimReplaced",
        ),
        (
            "let go",
            Some(object("a-uid", &json!([]))),
            "ClaimWithoutDevice",
        ),
        (
            "of other drivers alone",
            Some(object("a-uid", &json!([theirs]))),
            "ClaimWithoutDevice",
        ),
        (
            "of a device that is gone",
            Some(object(
                "a-uid",
                &json!([result("gpu.nvidia.com", "node0", "gpu-9")]),
            )),
            "UnknownDevice",
        ),
    ];
    for (case, stored, reason) in cases {
        let machine = Machine::new();
        if let Some(object) = stored {
            machine.api.put("a", object);
        }
        let claims = machine.start();
        let error = claims.prepare(&claim("a"), soon()).await.unwrap_err();
        assert_eq!(error.label(), reason, "{case}: {error}");
        assert!(error.to_string().contains("default/a"), "{case}: {error}");
        assert_eq!(machine.files("claims"), [""; 0], "{case}");
        assert_eq!(machine.files("cdi"), [""; 0], "{case}");
    }
}

#[tokio::test]
async fn of_a_claim_that_several_drivers_serve_only_our_devices_are_prepared() {
    let machine = Machine::new();
    let results = json!([
        result("nic.example.com", "node0", "gpu-5"),
        result("gpu.nvidia.com", "node0", "gpu-3"),
        result("storage.example.com", "elsewhere", "disk"),
    ]);
    machine.api.put("a", object("a-uid", &results));
    let claims = machine.start();
    let devices = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(names(&devices), [&DeviceName::whole_gpu(3)]);
    // The device of another driver that bears a GPU's name is no GPU.
    machine.api.allocate("b", &[5]);
    claims.prepare(&claim("b"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_prepared_claim_is_answered_from_the_journal_long_before_the_kubelet_gives_up() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    let claims = machine.start();
    let limit = || Deadline::after(Duration::from_secs(45));
    let first = claims.prepare(&claim("a"), limit()).await.unwrap();
    machine.api.silent.store(true, Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    assert_eq!(claims.prepare(&claim("a"), limit()).await.unwrap(), first);
    assert_eq!(begun.elapsed(), PATIENCE);
}
