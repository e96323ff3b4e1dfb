//! A driver that is served, and a kubelet that asks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tessera_proto::client::connect;
use tessera_proto::dra::v1::{
    Claim, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse,
};
use tessera_proto::health::v1::DeviceHealth;
use tessera_proto::{
    DraPlugin, DraResourceHealth, Ending, Observer, RegistrationEvent, ServeError, Served,
    SocketPaths, Sockets,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub(crate) const NAME: &str = "gpu.nvidia.com";

/// Far more than a test needs; what never comes fails the test and does not hang it.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// The clients of these tests often stay connected, so nobody is waited for.
pub(crate) const HANG_UP: Duration = Duration::from_millis(20);

/// A driver whose behaviour hangs on the name of the claim.
#[derive(Default)]
pub(crate) struct Driver {
    pub(crate) entered: Notify,
    pub(crate) release: Notify,
    pub(crate) finished: Mutex<Vec<String>>,
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

pub(crate) struct Running {
    pub(crate) root: tempfile::TempDir,
    pub(crate) paths: SocketPaths,
    pub(crate) driver: Arc<Driver>,
    pub(crate) events: mpsc::UnboundedReceiver<RegistrationEvent>,
    pub(crate) stop: CancellationToken,
    pub(crate) server: JoinHandle<Result<(), ServeError>>,
}

pub(crate) fn paths(root: &Path) -> SocketPaths {
    SocketPaths::new(&root.join("reg"), &root.join("p"), NAME, None).unwrap()
}

pub(crate) fn served(driver: &Arc<Driver>, observer: Observer) -> Served<Driver, Driver> {
    Served {
        driver: NAME.to_owned(),
        plugin: Arc::clone(driver),
        health: Arc::clone(driver),
        observer,
    }
}

pub(crate) fn run(grace: Duration) -> Running {
    run_with(grace, HANG_UP)
}

pub(crate) fn run_with(grace: Duration, hang_up: Duration) -> Running {
    let root = tempfile::tempdir().unwrap();
    let paths = paths(root.path());
    let driver = Arc::new(Driver::default());
    let (sender, events) = mpsc::unbounded_channel();
    let driving = served(&driver, Arc::new(move |event| drop(sender.send(event))));
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
    pub(crate) async fn dra(&self) -> Channel {
        connect(&self.paths.dra, LIMIT).await.unwrap()
    }

    pub(crate) async fn registration(&self) -> Channel {
        connect(self.paths.registration.as_socket_path(), LIMIT)
            .await
            .unwrap()
    }

    pub(crate) async fn next_event(&mut self) -> RegistrationEvent {
        within(self.events.recv()).await.unwrap()
    }

    pub(crate) async fn stop(self) -> Result<(), ServeError> {
        self.stop.cancel();
        within(self.server).await.unwrap()
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap()
}

pub(crate) fn claim(name: &str) -> Claim {
    Claim {
        namespace: "default".to_owned(),
        uid: format!("uid-of-{name}"),
        name: name.to_owned(),
    }
}

pub(crate) fn prepare(names: &[&str]) -> NodePrepareResourcesRequest {
    NodePrepareResourcesRequest {
        claims: names.iter().copied().map(claim).collect(),
    }
}

pub(crate) fn errors(
    reply: tonic::Response<NodePrepareResourcesResponse>,
) -> BTreeMap<String, String> {
    let claims = reply.into_inner().claims;
    claims.into_iter().map(|(k, v)| (k, v.error)).collect()
}
