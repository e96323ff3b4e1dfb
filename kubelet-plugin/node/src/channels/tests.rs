//! Claims for channels on a node's files, beside an API server and a kernel that tests change.

mod crashes;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tessera_device::DeviceName;
use tessera_device::testing::inventory_in_clique;
use tessera_prepare::cdi;
use tessera_prepare::channel::{ImexChannels, channel_kind};
use tessera_prepare::reason::Reason;
use tessera_prepare::record::BootId;
use tokio_util::sync::CancellationToken;

use tessera_device::mig::MigLayouts;

use super::*;
use crate::cdi_dir::CdiDir;
use crate::claims::UnownedMig;
use crate::claims::{Grace, LetGo, Outcome};
use crate::events::Notices;
use crate::executor::{LocalNode, StepError};
use crate::journal::JournalOf;
use crate::testing::api::Api;
use crate::testing::claim;
use crate::testing::cutting::Cutting;
use crate::testing::fuse::{Fuse, FusedNode, FusedRecords, Slices};
use crate::testing::machine::hardware;

const DRIVER: &str = "compute-domain.nvidia.com";

/// What the API server says of domains.
#[derive(Default)]
struct Domains {
    slices: Mutex<Vec<ResourceSlice>>,
    by_namespace: Mutex<BTreeMap<String, Vec<String>>>,
}

impl DomainReader for Arc<Domains> {
    async fn slices(
        &self,
        _: &str,
        _: &DeviceName,
        _: Deadline,
    ) -> Result<Vec<ResourceSlice>, DomainReadError> {
        Ok(self.slices.lock().unwrap().clone())
    }

    async fn domains_in(
        &self,
        namespace: &str,
        _: Deadline,
    ) -> Result<Vec<String>, DomainReadError> {
        let domains = self.by_namespace.lock().unwrap();
        Ok(domains.get(namespace).cloned().unwrap_or_default())
    }
}

/// The kernel of the node.
#[derive(Clone)]
struct Numbers(Arc<Mutex<Option<ImexChannels>>>);

impl Kernel for Numbers {
    fn channels(&self) -> Result<Option<ImexChannels>, StepError> {
        Ok(*self.0.lock().unwrap())
    }
}

type TestClaims =
    ChannelClaims<Arc<Api>, Arc<Domains>, FusedRecords<PreparedChannel>, FusedNode, Numbers>;

/// A node of a clique, on which one process runs after the other.
struct Machine {
    root: TempDir,
    api: Arc<Api>,
    domains: Arc<Domains>,
    kernel: Numbers,
    session: NodeSession,
}

impl Machine {
    fn new() -> Self {
        let node = ImexChannels {
            major: 234,
            count: 2048,
        };
        Self {
            root: tempfile::tempdir().unwrap(),
            api: Arc::default(),
            domains: Arc::default(),
            kernel: Numbers(Arc::new(Mutex::new(Some(node)))),
            session: NodeSession::Unasked,
        }
    }

    fn start(&self) -> TestClaims {
        self.start_with(Fuse::default())
    }

    fn start_with(&self, fuse: Fuse) -> TestClaims {
        let hardware = Hardware {
            inventory: inventory_in_clique(1, 0..4),
            ..hardware()
        };
        self.start_on(HardwareWatch::fixed(hardware), fuse)
    }

    fn start_on(&self, hardware: HardwareWatch, fuse: Fuse) -> TestClaims {
        let fuse = Arc::new(fuse);
        let path = |name: &str| self.root.path().join(name);
        let cdi = CdiDir::open(&path("cdi")).unwrap();
        let journal = JournalOf::open(&path("claims"), channel_kind()).unwrap();
        let (notices, _) = Notices::open();
        let local = LocalNode {
            cdi,
            mig: None,
            time_slices: None,
        };
        let identity = Identity {
            driver: DRIVER.to_owned(),
            pool: "node0".to_owned(),
            cdi_kind: channel_kind(),
            mig_layouts: MigLayouts::Static,
            unowned_mig: UnownedMig::Destroy,
            boot: BootId("boot".to_owned()),
            sharing: tessera_sharing::ConsumableShares::Disabled,
            features: tessera_api::AVAILABLE,
        };
        let registry = &mut Registry::default();
        let ports = Ports {
            session: self.session.clone(),
            claims: self.api.clone(),
            domains: self.domains.clone(),
            records: FusedRecords(journal, fuse.clone()),
            node: FusedNode(local, fuse, Cutting::default(), Slices::default()),
            kernel: self.kernel.clone(),
            lock: ChannelsLock::in_directory(&path("locks")),
            hardware,
            waits: Waits::new(registry, DRIVER, notices, CancellationToken::new()),
        };
        ChannelClaims::new(identity, ports)
    }

    /// The controller gives a domain of namespace `default` a channel and some slots.
    fn domain(&self, uid: &str, channel: u32) {
        self.domain_in("default", uid, channel);
    }

    fn domain_in(&self, namespace: &str, uid: &str, channel: u32) {
        let slot = |n: u32| {
            json!({"name": format!("slot-{n}"), "attributes": {
                "type": {"string": "channel"},
                "domain": {"string": uid},
                "namespace": {"string": namespace},
                "channel": {"int": channel},
            }})
        };
        let slice = json!({
            "metadata": {"name": format!("domain-{uid}")},
            "spec": {
                "driver": DRIVER,
                "pool": {"name": format!("domain-{uid}"), "generation": 1, "resourceSliceCount": 1},
                "devices": [slot(0), slot(1)],
            },
        });
        let slice = serde_json::from_value(slice).unwrap();
        self.domains.slices.lock().unwrap().push(slice);
        let mut domains = self.domains.by_namespace.lock().unwrap();
        let uids = domains.entry(namespace.to_owned()).or_default();
        uids.push(uid.to_owned());
    }

    /// The scheduler gives a claim of namespace `default` a device; its configuration names `domain`.
    fn allocate(&self, name: &str, pool: &str, device: &str, domain: &str) {
        let config = json!({
            "apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomainChannelConfig",
            "domainID": domain,
        });
        self.allocate_with(name, pool, device, &config);
    }

    fn allocate_with(&self, name: &str, pool: &str, device: &str, config: &Value) {
        let object = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "default", "name": name, "uid": format!("{name}-uid")},
            "spec": {},
            "status": {"allocation": {"devices": {
                "results": [
                    {"request": "channel", "driver": DRIVER, "pool": pool, "device": device},
                ],
                "config": [{"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": config}}],
            }}},
        });
        self.api.put(name, serde_json::from_value(object).unwrap());
    }

    fn slot(&self, name: &str, domain: &str) {
        self.allocate(name, &format!("domain-{domain}"), "slot-0", domain);
    }

    /// The channels in the spec of a claim, as major and minor number.
    fn channels_of(&self, name: &str) -> Vec<(u64, u64)> {
        let file = cdi::file_name(&channel_kind(), &claim(name).uid);
        let bytes = std::fs::read(self.root.path().join("cdi").join(file)).unwrap();
        let spec: Value = serde_json::from_slice(&bytes).unwrap();
        let nodes = spec["devices"][0]["containerEdits"]["deviceNodes"]
            .as_array()
            .cloned();
        let numbers = |node: &Value| {
            (
                node["major"].as_u64().unwrap(),
                node["minor"].as_u64().unwrap(),
            )
        };
        nodes.iter().flatten().map(numbers).collect()
    }

    /// All files of the node with their bytes, but for locks.
    fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for directory in ["claims", "claims/copies", "cdi"] {
            let listing = std::fs::read_dir(self.root.path().join(directory)).unwrap();
            for file in listing.map(Result::unwrap) {
                if file.file_type().unwrap().is_file() {
                    let name = file.file_name().into_string().unwrap();
                    let bytes = std::fs::read(file.path()).unwrap();
                    files.insert(format!("{directory}/{name}"), bytes);
                }
            }
        }
        files
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(300))
}

async fn refused(claims: &TestClaims, name: &str) -> Reason {
    let error = claims.prepare(&claim(name), soon()).await.unwrap_err();
    error.reason()
}

#[tokio::test]
async fn a_claim_waits_for_the_nodes_session_and_a_prepared_one_does_not() {
    let mut machine = Machine::new();
    let socket = machine.root.path().join("session.sock");
    machine.session = NodeSession::Hosted(socket.clone());
    machine.domain("d1", 3);
    machine.allocate("pod", "domain-d1", "slot-0", "d1");
    let claims = machine.start();
    let claim = claim("pod");
    let soon = || Deadline::after(Duration::from_millis(500));
    let refused = claims.prepare(&claim, soon()).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::SessionNotReady);
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let told = async {
        let (peer, _) = listener.accept().await.unwrap();
        let report = tessera_session::Report {
            state: "READY".to_owned(),
            ..tessera_session::Report::default()
        };
        peer.try_write(report.line().as_bytes()).unwrap();
    };
    let later = Deadline::after(Duration::from_secs(30));
    let (prepared, ()) = tokio::join!(claims.prepare(&claim, later), told);
    let prepared = prepared.unwrap();
    drop(listener);
    assert_eq!(claims.prepare(&claim, soon()).await.unwrap(), prepared);
}

#[tokio::test]
async fn a_pod_gets_the_channel_of_its_domain_and_leaves_nothing() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.slot("a", "d1");
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(machine.channels_of("a"), [(234, 5)]);
    let [device] = &first[..] else {
        panic!("{first:?}")
    };
    assert_eq!((&*device.request, &*device.pool), ("channel", "domain-d1"));
    assert_eq!(
        device.cdi_id,
        "k8s.compute-domain.nvidia.com/claim=a-uid-slot-0"
    );
    let files = machine.everything();
    assert_eq!(claims.prepare(&claim("a"), soon()).await.unwrap(), first);
    assert_eq!(machine.everything(), files);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(machine.everything(), BTreeMap::new());
}

#[tokio::test]
async fn the_reference_drivers_channel_is_number_zero_and_wants_a_domain_of_the_namespace() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.domain_in("team-b", "d2", 6);
    let claims = machine.start();
    machine.allocate("a", "node0", "channel-0", "d1");
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(machine.channels_of("a"), [(234, 0)]);
    machine.allocate("b", "node0", "channel-0", "d2");
    assert_eq!(refused(&claims, "b").await, Reason::DomainNotFound);
}

#[tokio::test]
async fn a_claim_that_is_forged_or_of_another_namespace_gets_nothing() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.domain_in("team-b", "d2", 6);
    let claims = machine.start();
    machine.slot("foreign", "d2");
    assert_eq!(refused(&claims, "foreign").await, Reason::DomainMismatch);
    machine.allocate("forged", "domain-d2", "slot-0", "d1");
    assert_eq!(refused(&claims, "forged").await, Reason::DomainMismatch);
    machine.allocate("elsewhere", "domain-d1", "slot-9", "d1");
    assert_eq!(refused(&claims, "elsewhere").await, Reason::DomainNotFound);
    let daemon = json!({
        "apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomainDaemonConfig",
        "domainID": "d1",
    });
    machine.allocate_with("daemon", "node0", "daemon-0", &daemon);
    assert_eq!(refused(&claims, "daemon").await, Reason::DeviceNotServed);
    assert_eq!(machine.everything(), BTreeMap::new());
}

#[tokio::test]
async fn two_domains_on_a_node_hold_different_channels_and_pods_of_one_share_it() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.domain("d2", 6);
    machine.domain("d3", 5);
    let claims = machine.start();
    for (name, domain) in [("a", "d1"), ("b", "d1"), ("c", "d2"), ("rival", "d3")] {
        machine.slot(name, domain);
    }
    for name in ["a", "b", "c"] {
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    assert_eq!(claims.held(), HeldChannels::These([5, 6].into()));
    let given = ["a", "b", "c"].map(|name| machine.channels_of(name));
    assert_eq!(given, [[(234, 5)], [(234, 5)], [(234, 6)]]);
    // A controller that has given one number out twice.
    assert_eq!(refused(&claims, "rival").await, Reason::ChannelHeld);
    for name in ["a", "b"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    claims.prepare(&claim("rival"), soon()).await.unwrap();
    claims.unprepare(&claim("c"), soon()).await.unwrap();
    assert_eq!(claims.held(), HeldChannels::These([5].into()));
}

#[tokio::test]
async fn all_channels_are_given_to_one_domain_alone() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.domain("d2", 6);
    let claims = machine.start();
    let all = json!({
        "apiVersion": "resource.nvidia.com/v1beta1", "kind": "ComputeDomainChannelConfig",
        "domainID": "d1", "allocationMode": "All",
    });
    machine.allocate_with("all", "domain-d1", "slot-0", &all);
    machine.slot("other", "d2");
    claims.prepare(&claim("all"), soon()).await.unwrap();
    assert_eq!(machine.channels_of("all").len(), 2048);
    assert_eq!(refused(&claims, "other").await, Reason::ChannelHeld);
    assert_eq!(claims.held(), HeldChannels::Any);
}

#[tokio::test]
async fn a_claim_of_another_domain_that_has_been_let_go_is_waited_for() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.domain("d2", 5);
    machine.slot("former", "d1");
    machine.slot("next", "d2");
    let claims = Arc::new(machine.start());
    claims.prepare(&claim("former"), soon()).await.unwrap();
    machine.api.forget("former");
    assert_eq!(refused(&claims, "next").await, Reason::ChannelBeingReleased);
    let waiting = tokio::spawn({
        let claims = claims.clone();
        let long = Deadline::after(Duration::from_secs(20));
        async move { claims.prepare(&claim("next"), long).await.is_ok() }
    });
    tokio::task::yield_now().await;
    claims.unprepare(&claim("former"), soon()).await.unwrap();
    assert!(waiting.await.unwrap());
}

#[tokio::test]
async fn what_is_prepared_is_answered_without_the_api_server_and_without_a_driver() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.slot("a", "d1");
    machine.slot("b", "d1");
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.api.away.store(true, Ordering::Relaxed);
    assert_eq!(claims.prepare(&claim("a"), soon()).await.unwrap(), first);
    assert_eq!(refused(&claims, "b").await, Reason::ApiUnavailable);
    machine.api.away.store(false, Ordering::Relaxed);
    let (hand, watch) = HardwareWatch::test();
    hand.set(None);
    let claims = machine.start_on(watch, Fuse::default());
    assert_eq!(claims.prepare(&claim("a"), soon()).await.unwrap(), first);
    assert_eq!(refused(&claims, "b").await, Reason::DriverNotReady);
}

#[tokio::test]
async fn a_node_without_a_fabric_prepares_a_claim_without_channels_and_one_with_a_fabric_does_not()
{
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.slot("a", "d1");
    *machine.kernel.0.lock().unwrap() = None;
    assert_eq!(refused(&machine.start(), "a").await, Reason::ChannelMissing);
    let claims = machine.start_on(HardwareWatch::fixed(hardware()), Fuse::default());
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(machine.channels_of("a"), []);
}

#[tokio::test]
async fn a_driver_that_is_loaded_anew_gives_prepared_claims_its_new_numbers() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.slot("a", "d1");
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let renumber = |major| {
        *machine.kernel.0.lock().unwrap() = Some(ImexChannels { major, count: 2048 });
    };
    renumber(235);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(machine.channels_of("a"), [(235, 5)]);
    renumber(236);
    let grace = Grace(Duration::from_mins(2));
    let done = claims.look_after(&mut LetGo::default(), grace).await;
    assert_eq!(done, [Outcome::Restored]);
    assert_eq!(machine.channels_of("a"), [(236, 5)]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_about_is_repaired_or_taken_back_after_its_grace() {
    let machine = Machine::new();
    machine.domain("d1", 5);
    machine.slot("a", "d1");
    let claims = machine.start();
    let deadline = Deadline::after(Duration::from_secs(5));
    claims.prepare(&claim("a"), deadline).await.unwrap();
    let files = machine.everything();
    for file in files.keys().filter(|file| !file.contains("copies")) {
        std::fs::remove_file(machine.root.path().join(file)).unwrap();
        let grace = Grace(Duration::from_mins(2));
        let done = claims.look_after(&mut LetGo::default(), grace).await;
        assert!(!done.is_empty(), "{file}");
        assert_eq!(machine.everything(), files, "{file}");
    }
    machine.api.forget("a");
    let grace = Grace(Duration::from_mins(2));
    let mut let_go = LetGo::default();
    assert_eq!(claims.look_after(&mut let_go, grace).await, []);
    tokio::time::advance(Duration::from_mins(2)).await;
    assert_eq!(
        claims.look_after(&mut let_go, grace).await,
        [Outcome::TakenBack]
    );
    assert_eq!(machine.everything(), BTreeMap::new());
}
