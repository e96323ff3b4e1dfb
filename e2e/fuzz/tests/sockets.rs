//! Fuzz target: whatever a peer sends to either of the kubelet's sockets, they go on serving.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bolero::TypeGenerator;
use tessera_fuzz::fuzz;
use tessera_hostile::{driver, wire};
use tessera_proto::client::connect;
use tessera_proto::dra::v1::NodePrepareResourcesRequest;
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::pluginregistration::InfoRequest;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::{SocketPaths, Sockets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

/// Far more than an answer takes; what never comes fails the test and does not hang it.
const LIMIT: Duration = Duration::from_secs(20);

/// What a peer says next.
#[derive(Clone, Debug, TypeGenerator)]
enum Piece {
    Greeting,
    Frame {
        kind: u8,
        flags: u8,
        stream: u8,
        payload: Vec<u8>,
    },
    Call {
        stream: u8,
        method: u8,
    },
    /// A message whose length may be a lie.
    Message {
        stream: u8,
        ends: bool,
        length: Option<u32>,
        bytes: Vec<u8>,
    },
    Any(Vec<u8>),
}

const METHODS: [&str; 6] = [
    wire::PREPARE,
    "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
    "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
    "/v1.DRAResourceHealth/NodeWatchResources",
    "/pluginregistration.Registration/GetInfo",
    "/pluginregistration.Registration/NotifyRegistrationStatus",
];

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        // Few streams, so that pieces meet on one.
        let few = |stream: &u8| u32::from(stream % 8);
        match self {
            Self::Greeting => wire::greeting(),
            Self::Frame {
                kind,
                flags,
                stream,
                payload,
            } => wire::frame(kind % 12, *flags, few(stream), payload),
            Self::Call { stream, method } => {
                wire::call(few(stream), METHODS[usize::from(*method) % METHODS.len()])
            }
            Self::Message {
                stream,
                ends,
                length,
                bytes,
            } => {
                let true_length = u32::try_from(bytes.len()).unwrap();
                let length = length.unwrap_or(true_length).to_be_bytes();
                let message = [&[0][..], &length, bytes].concat();
                wire::frame(wire::DATA, u8::from(*ends), few(stream), &message)
            }
            Self::Any(bytes) => bytes.clone(),
        }
    }
}

/// Says it, closes its half and hears what there is to hear.
async fn say(socket: &Path, bytes: &[u8]) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // The server may have heard enough before all is written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(LIMIT, reading).await.unwrap();
}

async fn is_served(paths: &SocketPaths) {
    let registration = paths.registration.as_socket_path();
    let channel = connect(registration, LIMIT).await.unwrap();
    let mut registration = RegistrationClient::new(channel);
    registration.get_info(InfoRequest {}).await.unwrap();
    let mut plugin = DraPluginClient::new(connect(&paths.dra, LIMIT).await.unwrap());
    let nothing = NodePrepareResourcesRequest::default();
    plugin.node_prepare_resources(nothing).await.unwrap();
}

#[test]
fn whatever_a_peer_says_nothing_panics_and_the_next_one_is_served() {
    // A panic in a task of the server ends that task and nothing else; only the hook hears of it.
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        usual(panic);
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let root = tempfile::tempdir().unwrap();
    let paths = driver::paths(root.path()).unwrap();
    let stop = CancellationToken::new();
    let server = {
        let _runtime = runtime.enter();
        let sockets = Sockets::bind(&paths).unwrap();
        let serving = sockets.serve(driver::served(), stop.clone(), driver::ending(&stop, LIMIT));
        runtime.spawn(serving)
    };
    let rounds = Arc::new(AtomicUsize::new(0));
    fuzz!(3_000, (bool, bool, Vec<Piece>), |(dra, greets, pieces)| {
        let greeting = greets.then(wire::greeting).unwrap_or_default();
        let said = pieces.iter().flat_map(Piece::bytes);
        let bytes: Vec<u8> = greeting.into_iter().chain(said).collect();
        let registration = paths.registration.as_socket_path();
        let socket = if *dra { &paths.dra } else { registration };
        runtime.block_on(async {
            say(socket.as_path(), &bytes).await;
            if rounds.fetch_add(1, Ordering::Relaxed).is_multiple_of(50) {
                is_served(&paths).await;
            }
        });
        assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    });
    runtime.block_on(async {
        is_served(&paths).await;
        stop.cancel();
        server.await.unwrap().unwrap();
    });
}
