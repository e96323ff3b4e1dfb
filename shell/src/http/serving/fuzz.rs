//! Fuzz target: what anybody on the network may say to the HTTP endpoint.

use bolero::TypeGenerator;
use prometheus_client::registry::Registry;
use tessera_fuzz::fuzz;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

/// Parts of requests, and any bytes.
#[derive(Clone, Debug, TypeGenerator)]
enum Piece {
    Line(bool, u8),
    Header(String, String),
    Length(u32),
    Chunked,
    End,
    Any(Vec<u8>),
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        const PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/"];
        match self {
            Self::Line(get, path) => {
                let method = if *get { "GET" } else { "POST" };
                let path = PATHS[usize::from(*path) % PATHS.len()];
                format!("{method} {path} HTTP/1.1\r\n").into_bytes()
            }
            Self::Header(name, value) => format!("{name}: {value}\r\n").into_bytes(),
            Self::Length(length) => format!("content-length: {length}\r\n").into_bytes(),
            Self::Chunked => b"transfer-encoding: chunked\r\n".to_vec(),
            Self::End => b"\r\n".to_vec(),
            Self::Any(bytes) => bytes.clone(),
        }
    }
}

#[test]
fn whatever_is_said_gets_at_most_one_answer_and_an_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let pages = Pages::new(Registry::default(), "/metrics");
    fuzz!(5_000, Vec<Piece>, |pieces| {
        let said: Vec<u8> = pieces.iter().flat_map(Piece::bytes).collect();
        let answer = runtime.block_on(async {
            let (mut client, server) = duplex(1 << 20);
            client.write_all(&said).await.unwrap();
            client.shutdown().await.unwrap();
            // A panic of the endpoint is one of this test.
            serve_one(server, pages.clone()).await;
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{answer}");
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1."),
            "{answer}"
        );
    });
}
