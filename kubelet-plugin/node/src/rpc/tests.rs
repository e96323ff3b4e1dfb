use std::sync::atomic::Ordering;

use prometheus_client::registry::Registry;
use tessera_device::mig::MigLayouts;
use tessera_proto::client::connect;
use tessera_proto::dra::v1::NodePrepareResourcesRequest;
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::{Ending, ServeError, Served, SocketPaths, Sockets};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::hardware::HardwareWatch;
use crate::health::GpuHealth;
use crate::testing::machine::{Machine, TestClaims, hardware};

type TestPlugin = Plugin<TestClaims>;

fn plugin(machine: &Machine) -> TestPlugin {
    let metrics = Metrics::new(&mut Registry::default(), "gpu.nvidia.com");
    Plugin::new(Arc::new(machine.start()), metrics, machine.notices.clone())
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
    // What has no name has no object that could be told.
    let mut told = machine.told();
    told.sort_unstable();
    assert_eq!(told, ["ClaimNotFound", "Defect"]);
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

#[tokio::test]
async fn a_success_is_not_told() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    let plugin = plugin(&machine);
    for _ in 0..2 {
        plugin
            .node_prepare_resources(vec![wanted("a")], soon())
            .await;
    }
    plugin
        .node_unprepare_resources(vec![wanted("a")], soon())
        .await;
    assert_eq!(machine.told(), [""; 0]);
}

/// A plugin behind its sockets, on a machine where claim `next` waits for claim `former`.
struct Waiting {
    machine: Machine,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    call: JoinHandle<String>,
}

/// Far more than a test needs; what never comes fails the test and does not hang it.
const LIMIT: Duration = Duration::from_secs(20);

async fn waiting() -> Waiting {
    let machine = Machine::new();
    for claim in ["former", "next"] {
        machine.api.allocate(claim, &[3]);
    }
    let plugin = plugin(&machine);
    plugin
        .node_prepare_resources(vec![wanted("former")], soon())
        .await;
    machine.api.claims.lock().unwrap().remove("former");

    let (registry, plugins) = (machine.path("registry"), machine.path("plugins"));
    let paths = SocketPaths::new(&registry, &plugins, "gpu.nvidia.com", None).unwrap();
    let hardware = HardwareWatch::fixed(hardware());
    let served = Served {
        driver: "gpu.nvidia.com".to_owned(),
        plugin: Arc::new(plugin),
        health: Arc::new(GpuHealth::new(
            "node0".to_owned(),
            hardware,
            MigLayouts::Static,
        )),
        observer: Arc::new(drop),
    };
    let stop = CancellationToken::new();
    let sockets = Sockets::bind(&paths).unwrap();
    let ending = Ending {
        told: stop.clone(),
        calls: LIMIT,
        hang_up: Duration::ZERO,
    };
    let serving = tokio::spawn(sockets.serve(served, stop.clone(), ending));
    let channel = connect(&paths.dra, LIMIT).await.unwrap();
    let call = tokio::spawn(async move {
        let claims = vec![wanted("next")];
        let request = NodePrepareResourcesRequest { claims };
        let reply = DraPluginClient::new(channel)
            .node_prepare_resources(request)
            .await;
        reply.unwrap().into_inner().claims["next-uid"].error.clone()
    });
    // The call waits once it has looked whether the former claim is still allocated.
    while machine.api.reads.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    Waiting {
        machine,
        stop,
        serving,
        call,
    }
}

impl Waiting {
    /// The answer to the waiting call; the plugin has ended well.
    async fn answer(self) -> String {
        let both = async { (self.call.await.unwrap(), self.serving.await.unwrap()) };
        let (answer, ended) = timeout(LIMIT, both).await.unwrap();
        ended.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_plugin_that_is_told_to_stop_goes_on_waiting_for_what_another_plugin_may_do() {
    let waiting = waiting().await;
    waiting.stop.cancel();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.call.is_finished());
    let successor = waiting.machine.start();
    let deadline = Deadline::after(LIMIT);
    successor
        .unprepare(&crate::testing::claim("former"), deadline)
        .await
        .unwrap();
    assert_eq!(waiting.answer().await, "");
}

#[tokio::test]
async fn a_call_that_waits_for_too_long_after_the_stop_is_answered_with_the_truth() {
    let waiting = waiting().await;
    waiting.stop.cancel();
    waiting.machine.hurry.cancel();
    let answer = waiting.answer().await;
    assert!(answer.contains("default/former"), "{answer}");
    assert!(answer.contains("is being stopped"), "{answer}");
}
