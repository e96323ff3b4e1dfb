use prometheus_client::registry::Registry;

use super::*;
use crate::testing::machine::{FusedNode, FusedRecords, Machine};

type TestPlugin = Plugin<Arc<crate::testing::machine::Api>, FusedRecords, FusedNode>;

fn plugin(machine: &Machine) -> TestPlugin {
    let metrics = Metrics::new(&mut Registry::default(), "gpu.nvidia.com");
    Plugin::new(Arc::new(machine.start()), metrics)
}

fn wanted(name: &str) -> Claim {
    Claim {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("{name}-uid"),
    }
}

fn soon() -> Instant {
    Instant::now() + MARGIN + Duration::from_millis(200)
}

#[tokio::test]
async fn a_claim_that_fails_or_meets_a_defect_fails_alone() {
    let machine = Machine::new();
    machine.api.allocate("good", &[0]);
    machine.api.allocate("defect", &[1]);
    *machine.api.panics_at.lock().unwrap() = Some("defect".to_owned());
    let hostile = Claim {
        uid: "../../etc/passwd".to_owned(),
        ..wanted("hostile")
    };
    let claims = vec![wanted("good"), wanted("absent"), wanted("defect"), hostile];

    let outcomes = plugin(&machine)
        .node_prepare_resources(claims, soon())
        .await;
    assert_eq!(outcomes.len(), 4);
    assert_eq!(outcomes["good-uid"].error, "");
    assert!(outcomes["absent-uid"].error.contains("does not exist"));
    assert!(outcomes["defect-uid"].error.contains("a defect"));
    assert!(
        outcomes["../../etc/passwd"]
            .error
            .contains("is not 1 to 64 of")
    );
}

#[tokio::test]
async fn a_prepared_device_is_reported_as_the_kubelet_wants_it() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    let outcomes = plugin(&machine)
        .node_prepare_resources(vec![wanted("a")], soon())
        .await;
    assert_eq!(
        outcomes["a-uid"].devices,
        [Device {
            request_names: vec!["gpu".to_owned()],
            pool_name: "node0".to_owned(),
            device_name: "gpu-3".to_owned(),
            cdi_device_ids: vec!["k8s.gpu.nvidia.com/claim=a-uid-gpu-3".to_owned()],
            share_id: None,
        }]
    );
}

#[tokio::test]
async fn a_claim_that_was_never_prepared_is_unprepared_without_error() {
    let machine = Machine::new();
    let outcomes = plugin(&machine)
        .node_unprepare_resources(vec![wanted("a")], soon())
        .await;
    assert_eq!(outcomes["a-uid"].error, "");
}
