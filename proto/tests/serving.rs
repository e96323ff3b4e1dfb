//! Both sockets as the kubelet meets them.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use tessera_proto::client::connect;
use tessera_proto::dra::v1::{
    Claim, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest,
};
use tessera_proto::dra::{v1, v1beta1};
use tessera_proto::health;
use tessera_proto::health::v1::{DeviceHealth, NodeWatchResourcesRequest};
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::pluginregistration::{InfoRequest, RegistrationStatus};
use tessera_proto::{
    DraPlugin, DraResourceHealth, Ending, RegistrationEvent, ServeError, Served, SocketPaths,
    Sockets, remove_dead_instances,
};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Far more than a test needs; what never comes fails the test and does not hang it.
const LIMIT: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);
/// The clients of these tests often stay connected, so nobody is waited for.
const HANG_UP: Duration = Duration::from_millis(20);

/// A driver whose behaviour hangs on the name of the claim.
#[derive(Default)]
struct Driver {
    entered: Notify,
    release: Notify,
    finished: Mutex<Vec<String>>,
}

impl DraPlugin for Driver {
    async fn node_prepare_resources(
        &self,
        claims: Vec<Claim>,
        deadline: Instant,
    ) -> BTreeMap<String, NodePrepareResourceResponse> {
        let mut outcomes = BTreeMap::new();
        for claim in claims {
            match claim.name.as_str() {
                "panics" => panic!("a bug in the driver"),
                "forgotten" => continue,
                "slow" => {
                    self.entered.notify_one();
                    self.release.notified().await;
                }
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let error = format!("{}s", left.as_secs_f64().round());
            self.finished.lock().unwrap().push(claim.uid.clone());
            let devices = Vec::new();
            outcomes.insert(claim.uid, NodePrepareResourceResponse { devices, error });
        }
        outcomes
    }

    async fn node_unprepare_resources(
        &self,
        claims: Vec<Claim>,
        _: Instant,
    ) -> BTreeMap<String, NodeUnprepareResourceResponse> {
        let released = |claim: Claim| (claim.uid, NodeUnprepareResourceResponse::default());
        claims.into_iter().map(released).collect()
    }
}

impl DraResourceHealth for Driver {
    fn watch(&self) -> BoxStream<'static, Vec<DeviceHealth>> {
        let report = DeviceHealth {
            message: "fine".to_owned(),
            ..DeviceHealth::default()
        };
        stream::once(async { vec![report] })
            .chain(stream::pending())
            .boxed()
    }
}

struct Running {
    root: tempfile::TempDir,
    paths: SocketPaths,
    driver: Arc<Driver>,
    events: mpsc::UnboundedReceiver<RegistrationEvent>,
    stop: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
}

fn paths(root: &Path) -> SocketPaths {
    SocketPaths::new(&root.join("reg"), &root.join("p"), "gpu.nvidia.com", None).unwrap()
}

fn run(grace: Duration) -> Running {
    run_with(grace, HANG_UP)
}

fn run_with(grace: Duration, hang_up: Duration) -> Running {
    let root = tempfile::tempdir().unwrap();
    let paths = paths(root.path());
    let driver = Arc::new(Driver::default());
    let (sender, events) = mpsc::unbounded_channel();
    let driving = Served {
        driver: "gpu.nvidia.com".to_owned(),
        plugin: Arc::clone(&driver),
        health: Arc::clone(&driver),
        observer: Arc::new(move |event| drop(sender.send(event))),
    };
    let stop = CancellationToken::new();
    let sockets = Sockets::bind(&paths).unwrap();
    let ending = Ending {
        told: stop.clone(),
        calls: grace,
        hang_up,
    };
    let server = tokio::spawn(sockets.serve(driving, stop.clone(), ending));
    Running {
        root,
        paths,
        driver,
        events,
        stop,
        server,
    }
}

impl Running {
    async fn dra(&self) -> Channel {
        connect(&self.paths.dra, LIMIT).await.unwrap()
    }

    async fn registration(&self) -> Channel {
        connect(self.paths.registration.as_socket_path(), LIMIT)
            .await
            .unwrap()
    }

    async fn next_event(&mut self) -> RegistrationEvent {
        within(self.events.recv()).await.unwrap()
    }

    async fn stop(self) -> Result<(), ServeError> {
        self.stop.cancel();
        within(self.server).await.unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap()
}

fn claim(name: &str) -> Claim {
    Claim {
        namespace: "default".to_owned(),
        uid: format!("uid-of-{name}"),
        name: name.to_owned(),
    }
}

fn prepare(names: &[&str]) -> NodePrepareResourcesRequest {
    NodePrepareResourcesRequest {
        claims: names.iter().copied().map(claim).collect(),
    }
}

fn errors(reply: tonic::Response<NodePrepareResourcesResponse>) -> BTreeMap<String, String> {
    let claims = reply.into_inner().claims;
    claims.into_iter().map(|(k, v)| (k, v.error)).collect()
}

#[tokio::test]
async fn the_kubelet_registers_the_driver_and_the_driver_hears_of_it() {
    let mut running = run(GRACE);
    let mut kubelet = RegistrationClient::new(running.registration().await);
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.r#type, "DRAPlugin");
    assert_eq!(info.name, "gpu.nvidia.com");
    assert_eq!(info.endpoint, running.paths.dra.as_str());
    assert_eq!(info.supported_versions[0], "v1.DRAPlugin");
    assert_eq!(running.next_event().await, RegistrationEvent::InfoRead);
    for (plugin_registered, error, event) in [
        (true, "", RegistrationEvent::Registered),
        (
            false,
            "no",
            RegistrationEvent::Refused {
                reason: "no".to_owned(),
            },
        ),
    ] {
        let error = error.to_owned();
        let status = RegistrationStatus {
            plugin_registered,
            error,
        };
        kubelet.notify_registration_status(status).await.unwrap();
        assert_eq!(running.next_event().await, event);
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn both_versions_of_both_services_answer_on_the_dra_socket() {
    let running = run(GRACE);
    let channel = running.dra().await;
    let wanted = BTreeMap::from([("uid-of-a".to_owned(), "45s".to_owned())]);
    let unprepare = NodeUnprepareResourcesRequest {
        claims: vec![claim("a")],
    };

    let mut newer = v1::dra_plugin_client::DraPluginClient::new(channel.clone());
    let reply = newer.node_prepare_resources(prepare(&["a"])).await.unwrap();
    assert_eq!(errors(reply).into_keys().collect::<Vec<_>>(), ["uid-of-a"]);
    let reply = newer.node_unprepare_resources(unprepare.clone()).await;
    assert_eq!(reply.unwrap().into_inner().claims["uid-of-a"].error, "");

    let mut older = v1beta1::dra_plugin_client::DraPluginClient::new(channel.clone());
    let mut request = tonic::Request::new(prepare(&["a"]));
    request.set_timeout(Duration::from_hours(1));
    let reply = older.node_prepare_resources(request).await.unwrap();
    assert_eq!(
        errors(reply),
        wanted,
        "the deadline is the kubelet's at most"
    );
    let reply = older.node_unprepare_resources(unprepare).await;
    assert_eq!(reply.unwrap().into_inner().claims["uid-of-a"].error, "");

    let watch = NodeWatchResourcesRequest {};
    let mut newer =
        health::v1::dra_resource_health_client::DraResourceHealthClient::new(channel.clone());
    let mut reports = newer
        .node_watch_resources(watch)
        .await
        .unwrap()
        .into_inner();
    let report = within(reports.message()).await.unwrap().unwrap();
    assert_eq!(report.devices[0].message, "fine");
    let mut older =
        health::v1alpha1::dra_resource_health_client::DraResourceHealthClient::new(channel);
    let mut reports = older
        .node_watch_resources(watch)
        .await
        .unwrap()
        .into_inner();
    let report = within(reports.message()).await.unwrap().unwrap();
    assert_eq!(report.devices[0].message, "fine");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn every_claim_has_an_outcome_whatever_the_driver_does() {
    let running = run(GRACE);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    for names in [&["a", "forgotten"][..], &["a", "panics"]] {
        let reply = kubelet
            .node_prepare_resources(prepare(names))
            .await
            .unwrap();
        let errors = errors(reply);
        assert_eq!(errors.len(), 2, "{errors:?}");
        let error = &errors[&claim(names[1]).uid];
        assert!(error.contains("without an outcome"), "{error}");
    }
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_call_whose_caller_hung_up_runs_to_its_end_before_the_driver_stops() {
    let running = run(GRACE);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    let mut caller = kubelet.clone();
    let call = tokio::spawn(async move { caller.node_prepare_resources(prepare(&["slow"])).await });
    within(running.driver.entered.notified()).await;
    call.abort();
    assert!(within(call).await.unwrap_err().is_cancelled());
    // On the same connection, so its answer comes after the hang-up was noticed.
    kubelet
        .node_prepare_resources(prepare(&["a"]))
        .await
        .unwrap();

    let driver = Arc::clone(&running.driver);
    let stopped = tokio::spawn(running.stop());
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!stopped.is_finished(), "a call still runs");
    driver.release.notify_one();
    within(stopped).await.unwrap().unwrap();
    assert_eq!(
        *driver.finished.lock().unwrap(),
        ["uid-of-a", "uid-of-slow"]
    );
}

#[tokio::test]
async fn stopping_ends_health_streams_and_unlinks_both_sockets() {
    let running = run(GRACE);
    let client = running.dra().await;
    let mut client = health::v1::dra_resource_health_client::DraResourceHealthClient::new(client);
    let watch = NodeWatchResourcesRequest {};
    let mut reports = client
        .node_watch_resources(watch)
        .await
        .unwrap()
        .into_inner();
    within(reports.message()).await.unwrap().unwrap();
    let paths = running.paths.clone();
    running.stop().await.unwrap();
    assert!(within(reports.message()).await.unwrap().is_none());
    assert!(!paths.dra.as_path().exists());
    assert!(!paths.registration.as_socket_path().as_path().exists());
}

#[tokio::test]
async fn while_calls_run_on_after_a_stop_the_driver_stays_registered_and_answers() {
    let running = run(GRACE);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    let mut caller = kubelet.clone();
    let call = tokio::spawn(async move { caller.node_prepare_resources(prepare(&["slow"])).await });
    within(running.driver.entered.notified()).await;
    let (paths, driver) = (running.paths.clone(), Arc::clone(&running.driver));
    let stopped = tokio::spawn(running.stop());
    let registration = paths.registration.as_socket_path().as_path();
    tokio::task::yield_now().await;
    let reply = kubelet.node_prepare_resources(prepare(&["a"])).await;
    assert_eq!(errors(reply.unwrap()).len(), 1);
    assert!(registration.exists());
    driver.release.notify_one();
    assert_eq!(errors(within(call).await.unwrap().unwrap()).len(), 1);
    within(stopped).await.unwrap().unwrap();
    assert!(!paths.dra.as_path().exists());
    assert!(!registration.exists());
}

#[tokio::test]
async fn the_dra_socket_is_served_until_the_kubelet_has_hung_up() {
    let running = run_with(GRACE, LIMIT);
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    kubelet
        .node_prepare_resources(prepare(&["a"]))
        .await
        .unwrap();
    let paths = running.paths.clone();
    let stopped = tokio::spawn(running.stop());
    let registration = paths.registration.as_socket_path().as_path();
    within(async {
        while registration.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    kubelet
        .node_prepare_resources(prepare(&["b"]))
        .await
        .unwrap();
    assert!(!stopped.is_finished());
    drop(kubelet);
    within(stopped).await.unwrap().unwrap();
    assert!(!paths.dra.as_path().exists());
}

/// Serves the sockets of `owner` in its place, as a process does that it started.
fn serve_in_place_of(
    owner: &Sockets,
    paths: &SocketPaths,
    told: CancellationToken,
    stop: CancellationToken,
) -> JoinHandle<Result<(), ServeError>> {
    let copies = owner.descriptors().map(|d| d.try_clone_to_owned().unwrap());
    let driver = Arc::new(Driver::default());
    let driving = Served {
        driver: "gpu.nvidia.com".to_owned(),
        plugin: Arc::clone(&driver),
        health: driver,
        observer: Arc::new(|_| {}),
    };
    let ending = Ending {
        told,
        calls: GRACE,
        hang_up: HANG_UP,
    };
    tokio::spawn(Sockets::inherited(paths, copies).serve(driving, stop, ending))
}

#[tokio::test]
async fn inherited_sockets_outlive_a_process_that_fails_and_not_one_that_is_told_to_leave() {
    let root = tempfile::tempdir().unwrap();
    let paths = paths(root.path());
    let owner = Sockets::bind(&paths).unwrap();
    let registration = paths.registration.as_socket_path().as_path();
    let told = CancellationToken::new();

    let failed = CancellationToken::new();
    let first = serve_in_place_of(&owner, &paths, told.clone(), failed.clone());
    failed.cancel();
    within(first).await.unwrap().unwrap();
    assert!(registration.exists() && paths.dra.as_path().exists());
    // Nobody serves now; the call waits for the next process.
    let waiting = tokio::spawn({
        let path = paths.dra.clone();
        async move {
            let channel = connect(&path, LIMIT).await.unwrap();
            let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(channel);
            kubelet.node_prepare_resources(prepare(&["a"])).await
        }
    });
    tokio::task::yield_now().await;
    let second = serve_in_place_of(&owner, &paths, told.clone(), told.clone());
    within(waiting).await.unwrap().unwrap();
    told.cancel();
    within(second).await.unwrap().unwrap();
    assert!(!registration.exists());
    assert!(
        paths.dra.as_path().exists(),
        "it is the owner's to take away"
    );
    drop(owner);
    assert!(!paths.dra.as_path().exists());
}

#[tokio::test]
async fn a_new_instance_leaves_the_sockets_of_a_living_one_alone() {
    let running = run(GRACE);
    let root = running.root.path();
    let registration = running.paths.registration.as_socket_path().as_path();
    let long_ago = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 0,
    };
    let old = Timestamps {
        last_access: long_ago,
        last_modification: long_ago,
    };
    for path in [registration, running.paths.dra.as_path()] {
        rustix::fs::utimensat(CWD, path, &old, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    remove_dead_instances(&root.join("reg"), &root.join("p"), "gpu.nvidia.com");
    assert!(running.paths.dra.as_path().exists() && registration.exists());
    running.stop().await.unwrap();
}

#[tokio::test]
async fn calls_that_do_not_end_are_given_up_after_the_grace_time() {
    let running = run(Duration::from_millis(20));
    let mut kubelet = v1::dra_plugin_client::DraPluginClient::new(running.dra().await);
    let _call =
        tokio::spawn(async move { kubelet.node_prepare_resources(prepare(&["slow"])).await });
    within(running.driver.entered.notified()).await;
    let paths = running.paths.clone();
    let error = running.stop().await.unwrap_err();
    assert!(matches!(error, ServeError::Unfinished { .. }), "{error}");
    assert!(!paths.dra.as_path().exists());
}

#[tokio::test]
async fn a_connection_without_a_request_is_reported_and_one_with_a_request_is_not() {
    let mut running = run(GRACE);
    let registration = running.paths.registration.as_socket_path().as_path();
    drop(UnixStream::connect(registration).await.unwrap());
    let mut kubelet = RegistrationClient::new(running.registration().await);
    kubelet.get_info(InfoRequest {}).await.unwrap();
    let mut silent = UnixStream::connect(registration).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    assert_eq!(running.next_event().await, RegistrationEvent::InfoRead);
    let event = running.next_event().await;
    assert!(
        matches!(event, RegistrationEvent::Unheard { .. }),
        "{event}"
    );
    assert!(event.to_string().contains("RegisterPlugin"), "{event}");
    drop((silent, kubelet));
    let Running {
        stop,
        server,
        mut events,
        ..
    } = running;
    stop.cancel();
    within(server).await.unwrap().unwrap();
    assert_eq!(
        within(events.recv()).await,
        None,
        "only one connection was unheard"
    );
}

#[tokio::test]
async fn a_stranger_never_reaches_a_handler() {
    // Only root can become a stranger; the rule itself is tested without that.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut running = run(GRACE);
    let registration = running.paths.registration.as_socket_path().clone();
    open_to_everybody(running.root.path(), registration.as_path());
    let answer = std::thread::spawn(move || {
        let nobody = rustix::thread::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                let channel = connect(&registration, LIMIT).await?;
                let mut client = RegistrationClient::new(channel);
                client.get_info(InfoRequest {}).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
    });
    let answer = within(tokio::task::spawn_blocking(move || answer.join().unwrap())).await;
    answer.unwrap().unwrap_err();
    assert!(running.events.try_recv().is_err());
    running.stop().await.unwrap();
}

/// Takes file modes out of the way, so that only the check of the peer is left.
fn open_to_everybody(root: &Path, socket: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for path in socket.ancestors().take_while(|path| path.starts_with(root)) {
        let everybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(path, everybody).unwrap();
    }
}
