use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::http::{ListenAddress, listen};

/// Far more than a test needs; what never comes fails the test and does not hang it.
const LIMIT: Duration = Duration::from_secs(20);

struct Endpoint {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), HttpError>>,
}

async fn endpoint() -> Endpoint {
    let address: ListenAddress = "127.0.0.1:0".parse().unwrap();
    let listener = listen(&address).await.unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let pages = Pages::new(Registry::default(), "/metrics");
    let serving = tokio::spawn(serve(listener, pages, shutdown.clone()));
    Endpoint {
        address,
        shutdown,
        serving,
    }
}

impl Endpoint {
    async fn open(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// All that is said to whoever says this, up to the end of the connection.
    async fn answer(&self, request: &[u8]) -> String {
        let mut stream = self.open().await;
        // The endpoint may have heard enough before all is written.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        // A reset is an end too.
        let _ = tokio::time::timeout(LIMIT, reading).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn is_healthy(&self) -> bool {
        let answer = self
            .answer(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        answer.starts_with("HTTP/1.1 200")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

fn is_open(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0; 256]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn a_crowd_holds_no_more_than_the_places_and_keeps_nobody_off() {
    let endpoint = endpoint().await;
    let mut crowd = Vec::new();
    for at in 0..1000 {
        let mut stream = endpoint.open().await;
        if at % 2 == 0 {
            stream.write_all(b"GET /metr").await.unwrap();
        }
        crowd.push(stream);
        if at % 100 == 0 {
            assert!(endpoint.is_healthy().await);
        }
    }
    assert!(endpoint.is_healthy().await);
    let held = crowd.iter().filter(|stream| is_open(stream)).count();
    assert!(held <= CONNECTIONS.get(), "{held}");
    endpoint.stop().await;
}

#[tokio::test]
async fn a_connection_serves_one_request_and_reads_no_body() {
    let endpoint = endpoint().await;
    let twice = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    let answer = endpoint.answer(&twice).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");

    let announced = b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    let answer = endpoint.answer(announced).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    endpoint.stop().await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_only_that() {
    let endpoint = endpoint().await;
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(2 * REQUEST_BYTES));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    for garbage in [
        &[0xff; 64][..],
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let answer = endpoint.answer(&[garbage, b"\r\n\r\n"].concat()).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(endpoint.is_healthy().await);
    }
    endpoint.stop().await;
}

#[tokio::test]
async fn half_a_request_is_given_up_when_its_time_is_over() {
    let endpoint = endpoint().await;
    let mut stream = endpoint.open().await;
    stream.write_all(b"GET /healthz HTT").await.unwrap();
    assert!(endpoint.is_healthy().await);
    // From here on time passes as soon as nothing else can happen.
    tokio::time::pause();
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest).await;
    assert!(read.is_err() || rest.is_empty(), "{rest:?}");
    endpoint.stop().await;
}
