//! Peers that are hostile or broken, on real sockets: they harm nobody but themselves, and what they
//! make the process hold is counted and bounded.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

mod server;

use std::path::Path;
use std::time::Duration;

use tessera_hostile::wire::{
    DATA, END_HEADERS, END_STREAM, HEADERS, NO_FLAGS, PING, PREPARE, RST_STREAM, SETTINGS, call,
    frame, greeting, streams,
};
use tessera_proto::client::connect;
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::dra::v1::{Claim, NodePrepareResourcesRequest};
use tessera_proto::limits::{CLAIMS_PER_CALL, CONNECTIONS, MESSAGE_BYTES, OPEN_REQUESTS};
use tessera_proto::pluginregistration::InfoRequest;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::Channel;

use self::server::Server;

/// Far more than a test needs; what never comes fails the test and does not hang it.
const LIMIT: Duration = Duration::from_secs(30);

/// Descriptors beside the connections that are served: the one that waits for its place on either
/// socket.
const WAITING: usize = 2;

/// What hostile peers may add to resident memory: the sum for one socket in `tessera_proto::limits`,
/// and what an allocator keeps of it.
const MEMORY_KIB: u64 = 48 << 10;

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap()
}

/// A kubelet as it should be, with connections that were there before.
struct Kubelet {
    registration: RegistrationClient<Channel>,
    dra: DraPluginClient<Channel>,
}

impl Kubelet {
    async fn new(server: &Server) -> Self {
        let registration = server.paths.registration.as_socket_path();
        Self {
            registration: RegistrationClient::new(connect(registration, LIMIT).await.unwrap()),
            dra: DraPluginClient::new(connect(&server.paths.dra, LIMIT).await.unwrap()),
        }
    }

    async fn is_served(&mut self) {
        within(self.registration.get_info(InfoRequest {}))
            .await
            .unwrap();
        let reply = within(self.dra.node_prepare_resources(claims(2)))
            .await
            .unwrap();
        assert_eq!(reply.into_inner().claims.len(), 2);
    }
}

fn claims(count: usize) -> NodePrepareResourcesRequest {
    let claim = |at| Claim {
        namespace: "default".to_owned(),
        uid: format!("uid-{at}"),
        name: format!("claim-{at}"),
    };
    NodePrepareResourcesRequest {
        claims: (0..count).map(claim).collect(),
    }
}

/// A server, a kubelet that it serves, and the sockets that others come to.
async fn serving() -> (Server, Kubelet) {
    let server = Server::start();
    let mut kubelet = Kubelet::new(&server).await;
    kubelet.is_served().await;
    (server, kubelet)
}

fn sockets(server: &Server) -> [&Path; 2] {
    let registration = server.paths.registration.as_socket_path();
    [registration.as_path(), server.paths.dra.as_path()]
}

async fn open(socket: &Path) -> UnixStream {
    let connecting = async {
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => return stream,
                // The kernel's queue is full; the server is at it.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    within(connecting).await
}

/// Writes until all is written, the server has closed, or it takes no more for a while.
async fn press(stream: &mut UnixStream, bytes: &[u8]) {
    let _ = tokio::time::timeout(Duration::from_millis(100), stream.write_all(bytes)).await;
}

/// Waits until the server has closed this connection, and reads whatever it says before.
async fn ended(stream: &mut UnixStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = within(stream.read_to_end(&mut rest)).await;
}

fn is_open(stream: &UnixStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn a_crowd_that_says_nothing_holds_no_more_than_the_places_and_no_kubelet_off() {
    let (server, mut kubelet) = serving().await;
    let before = server.descriptors();
    for greets in [false, true] {
        let mut crowd = Vec::new();
        for at in 0..2000 {
            for socket in sockets(&server) {
                let mut stream = open(socket).await;
                if greets {
                    press(&mut stream, &greeting()).await;
                }
                crowd.push(stream);
            }
            if at % 500 == 0 {
                kubelet.is_served().await;
                Kubelet::new(&server).await.is_served().await;
            }
        }
        kubelet.is_served().await;
        Kubelet::new(&server).await.is_served().await;
        let held = crowd.iter().filter(|stream| is_open(stream)).count();
        assert!(held <= 2 * CONNECTIONS.get(), "{held}");
        let descriptors = server.descriptors();
        let most = before + 2 * CONNECTIONS.get() + WAITING;
        assert!(descriptors <= most, "{before} became {descriptors}");
    }
    server.stop();
}

#[tokio::test]
async fn garbage_ends_the_connection_that_it_came_over() {
    let (server, mut kubelet) = serving().await;
    let garbage = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 1 << 20],
        [greeting(), vec![0xff; 4096]].concat(),
        [greeting(), frame(HEADERS, END_HEADERS, 1, &[0xff; 64])].concat(),
        [greeting(), frame(DATA, NO_FLAGS, 7, b"of no stream")].concat(),
        // Longer than any frame may be.
        [greeting(), frame(DATA, NO_FLAGS, 1, &vec![0; 1 << 20])].concat(),
        [greeting(), frame(HEADERS, END_HEADERS, 2, &[])].concat(),
    ];
    for socket in sockets(&server) {
        for bytes in &garbage {
            let mut stream = open(socket).await;
            press(&mut stream, bytes).await;
            ended(&mut stream).await;
            kubelet.is_served().await;
        }
    }
    server.stop();
}

#[tokio::test]
async fn a_call_that_is_too_large_is_refused_and_the_next_one_is_not() {
    let (server, mut kubelet) = serving().await;
    let mut long = claims(1);
    long.claims[0].name = "n".repeat(MESSAGE_BYTES);
    let refused = kubelet.dra.node_prepare_resources(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    kubelet.is_served().await;

    let many = claims(CLAIMS_PER_CALL + 1);
    let refused = kubelet.dra.node_prepare_resources(many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let most = claims(CLAIMS_PER_CALL);
    let reply = kubelet.dra.node_prepare_resources(most).await.unwrap();
    assert_eq!(reply.into_inner().claims.len(), CLAIMS_PER_CALL);
    server.stop();
}

#[tokio::test]
async fn half_sent_calls_hold_little_memory_and_nobody_else_up() {
    let (server, mut kubelet) = serving().await;
    let before = server.resident_kib();
    // A prefix that announces as much as is allowed, and almost all of it.
    let message = u32::try_from(MESSAGE_BYTES).unwrap().to_be_bytes();
    let half = [&[0][..], &message, &vec![1; 15 << 10]].concat();
    let mut crowd = Vec::new();
    for _ in 0..2 * CONNECTIONS.get() {
        for socket in sockets(&server) {
            let mut stream = open(socket).await;
            press(&mut stream, &greeting()).await;
            crowd.push(stream);
        }
    }
    for stream in &mut crowd {
        for id in streams().take(OPEN_REQUESTS as usize) {
            if !is_open(stream) {
                break;
            }
            let bytes = [call(id, PREPARE), frame(DATA, NO_FLAGS, id, &half)].concat();
            let write = stream.write_all(&bytes);
            // The connection's window is spent before all have been sent, and what is beyond it
            // ends the connection.
            if tokio::time::timeout(Duration::from_millis(50), write)
                .await
                .is_err()
            {
                break;
            }
        }
    }
    kubelet.is_served().await;
    Kubelet::new(&server).await.is_served().await;
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown <= MEMORY_KIB, "{grown} KiB more");
    server.stop();
}

#[tokio::test]
async fn a_peer_that_never_reads_its_answers_makes_nobody_keep_them() {
    let (server, mut kubelet) = serving().await;
    let before = server.resident_kib();
    let ping = frame(PING, NO_FLAGS, 0, &[7; 8]).repeat(4096);
    let settings = frame(SETTINGS, NO_FLAGS, 0, &[]).repeat(4096);
    let calls: Vec<u8> = streams()
        .take(4096)
        .flat_map(|id| {
            let whole = frame(DATA, END_STREAM, id, &[0, 0, 0, 0, 0]);
            [call(id, PREPARE), whole].concat()
        })
        .collect();
    for flood in [&ping, &settings, &calls] {
        for socket in sockets(&server) {
            let mut stream = open(socket).await;
            press(&mut stream, &greeting()).await;
            for _ in 0..16 {
                press(&mut stream, flood).await;
            }
            kubelet.is_served().await;
        }
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown <= MEMORY_KIB, "{grown} KiB more");
    server.stop();
}

#[tokio::test]
async fn rapid_resets_end_the_connection_that_they_came_over() {
    let (server, mut kubelet) = serving().await;
    let resets: Vec<u8> = streams()
        .take(20_000)
        .flat_map(|id| {
            let cancel = frame(RST_STREAM, NO_FLAGS, id, &8_u32.to_be_bytes());
            [call(id, PREPARE), cancel].concat()
        })
        .collect();
    for socket in sockets(&server) {
        let mut stream = open(socket).await;
        press(&mut stream, &[greeting(), resets.clone()].concat()).await;
        ended(&mut stream).await;
        kubelet.is_served().await;
    }
    server.stop();
}

#[tokio::test]
async fn a_peer_that_closes_its_half_is_let_go() {
    let (server, mut kubelet) = serving().await;
    let before = server.descriptors();
    for socket in sockets(&server) {
        for bytes in [
            Vec::new(),
            greeting()[..10].to_vec(),
            greeting(),
            [greeting(), call(1, PREPARE)].concat(),
        ] {
            let mut stream = open(socket).await;
            press(&mut stream, &bytes).await;
            stream.shutdown().await.unwrap();
            ended(&mut stream).await;
        }
    }
    kubelet.is_served().await;
    assert_eq!(server.descriptors(), before);
    server.stop();
}

#[tokio::test]
async fn peers_that_stay_do_not_delay_the_end() {
    let (server, kubelet) = serving().await;
    let mut crowd = Vec::new();
    for socket in sockets(&server) {
        for bytes in [
            Vec::new(),
            greeting(),
            [greeting(), call(1, PREPARE)].concat(),
        ] {
            let mut stream = open(socket).await;
            press(&mut stream, &bytes).await;
            crowd.push(stream);
        }
    }
    // The kubelet's connections are never polled again either.
    server.stop();
    drop((kubelet, crowd));
}
