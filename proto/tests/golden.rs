//! The bytes that a real kubelet sends to a registration socket, against a plain tonic server.
//!
//! They were captured from kubelet 1.36.3 (grpc-go 1.79.3): preface, SETTINGS, SETTINGS ACK,
//! HEADERS of `GetInfo` with the socket's path as `:authority`, an empty message. tonic's own client
//! cannot send such an authority. If an upgrade of h2 or http makes these tests fail, drivers would
//! no longer register on real nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tessera_proto::pluginregistration::PluginInfo;
use tessera_proto::pluginregistration::registration_server::RegistrationServer;
use tessera_proto::uds::SocketPath;
use tessera_proto::{RegistrationService, plugin_info};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tonic::transport::Server;

/// Preface, SETTINGS and SETTINGS ACK.
const OPENING: &str =
    "505249202a20485454502f322e300d0a0d0a534d0d0a0d0a 000000040000000000 000000040100000000";
/// An empty gRPC message on stream 1, `END_STREAM`.
const EMPTY_MESSAGE: &str = "000005000100000001 0000000000";
/// `%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fspike.example.com-reg.sock`.
const PLAIN_NAME: &str = "0000a0010400000001
    8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f41b354587b8ec545868346a8b0f5
    b632d054aa2c35d16cc6a91158598c84d9e951614566ea55cbe474d7415721e95ac2ccba0e4ebf5f8b1d75d0620d
    263d4c4d65647a8b9acac8b4c7602bbafaecff40027465864d833505b11f408e9acac8b0c842d6958b510f21aa9b
    839bd9ab40899acac8b24d494f6a7f867df7df75fb7f";
/// `%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fspike.example.com@reg.sock`.
const NAME_WITH_AT: &str = "0000a1010400000001
    8386459c62ba2d98d558598c84d83498f52fb4b31909b06931ea63115392a94f41b454587b8ec545868346a8b0f5
    b632d054aa2c35d16cc6a91158598c84d9e951614566ea55cbe474d7415721e9ffd58599741c9d7f5f8b1d75d062
    0d263d4c4d65647a8b9acac8b4c7602bbafaecff40027465864d833505b11f408e9acac8b0c842d6958b510f21aa
    9b839bd9ab40899acac8b24d494f6a7f867df7df75bb7f";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PROTOCOL_ERROR: [u8; 4] = [0, 0, 0, 1];
/// HPACK static index 8, `:status 200`.
const STATUS_200: u8 = 0x88;

/// Far more than a test needs; a server that says nothing fails the test and does not hang it.
const LIMIT: Duration = Duration::from_secs(20);

fn golden(headers: &str) -> Vec<u8> {
    let digits: String = [OPENING, headers, EMPTY_MESSAGE]
        .concat()
        .split_whitespace()
        .collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn info() -> PluginInfo {
    let endpoint = "/var/lib/kubelet/plugins/gpu.nvidia.com/dra.sock";
    plugin_info(
        "gpu.nvidia.com",
        &SocketPath::new(endpoint.as_ref()).unwrap(),
    )
}

/// Starts a server on one end of a duplex stream and gives the other end.
fn serve() -> DuplexStream {
    let (client, server) = tokio::io::duplex(64 << 10);
    let service = RegistrationService::new(info(), Arc::new(|_| {}));
    let connection = futures::stream::iter([Ok::<_, std::io::Error>(server)]);
    tokio::spawn(
        Server::builder()
            .add_service(RegistrationServer::new(service))
            .serve_with_incoming(connection),
    );
    client
}

/// The type and payload of the first frame on stream 1 of one of these types.
async fn first_frame(stream: &mut DuplexStream, types: &[u8]) -> (u8, Vec<u8>) {
    let search = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            if head[5..] == [0, 0, 0, 1] && types.contains(&head[3]) {
                return (head[3], payload);
            }
        }
    };
    tokio::time::timeout(LIMIT, search).await.unwrap()
}

async fn send(stream: &mut DuplexStream, bytes: &[u8], chunk: usize) {
    for chunk in bytes.chunks(chunk) {
        stream.write_all(chunk).await.unwrap();
        // The server reads each chunk by itself.
        tokio::task::yield_now().await;
    }
}

#[track_caller]
fn each_feeding(bytes: &[u8]) -> [usize; 2] {
    [bytes.len(), 1]
}

#[tokio::test]
async fn a_plain_socket_name_is_reset_with_protocol_error() {
    let bytes = golden(PLAIN_NAME);
    for chunk in each_feeding(&bytes) {
        let mut client = serve();
        send(&mut client, &bytes, chunk).await;
        let answer = first_frame(&mut client, &[HEADERS, RST_STREAM]).await;
        assert_eq!(answer, (RST_STREAM, PROTOCOL_ERROR.to_vec()), "{chunk}");
    }
}

#[tokio::test]
async fn a_socket_name_with_an_at_sign_is_answered_with_the_plugin_info() {
    let bytes = golden(NAME_WITH_AT);
    for chunk in each_feeding(&bytes) {
        let mut client = serve();
        send(&mut client, &bytes, chunk).await;
        let (kind, block) = first_frame(&mut client, &[HEADERS, RST_STREAM]).await;
        assert_eq!((kind, block[0]), (HEADERS, STATUS_200), "{chunk}");
        let (_, message) = first_frame(&mut client, &[DATA]).await;
        // One byte says "not compressed", four give the length.
        assert_eq!(
            PluginInfo::decode(&message[5..]).unwrap(),
            info(),
            "{chunk}"
        );
    }
}
