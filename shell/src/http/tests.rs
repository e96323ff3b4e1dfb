use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{Method, Request};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::serving::answer;
use super::*;

fn pages() -> Pages {
    let mut registry = Registry::default();
    let claims: Counter = Counter::default();
    claims.inc();
    registry.register("claims", "Claims", claims);
    Pages::new(registry, "/metrics")
}

async fn get(pages: Pages, path: &str) -> (StatusCode, String, String) {
    request(pages, Method::GET, path).await
}

async fn request(pages: Pages, method: Method, path: &str) -> (StatusCode, String, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    let response = answer(&pages, &request);
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let kind = kind
        .map(|kind| kind.to_str().unwrap().to_owned())
        .unwrap_or_default();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .unwrap();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_metrics_page_is_openmetrics_text() {
    let (status, kind, body) = get(pages(), "/metrics").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, OPEN_METRICS));
    assert!(
        body.contains("claims_total 1\n") && body.ends_with("# EOF\n"),
        "{body}"
    );
}

#[tokio::test]
async fn the_metrics_path_can_be_chosen_and_cannot_hide_health() {
    let registry = || Registry::default();
    assert_eq!(
        get(Pages::new(registry(), "/m"), "/m").await.0,
        StatusCode::OK
    );
    assert_eq!(
        get(Pages::new(registry(), "/m"), "/metrics").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        get(Pages::new(registry(), HEALTHZ), HEALTHZ).await.2,
        "ok\n"
    );
}

#[tokio::test]
async fn a_failing_check_answers_503_with_its_reason() {
    let ready = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ready);
    let pages = pages()
        .ready_when(move || Health::when(seen.load(Ordering::Relaxed), "not registered yet"))
        .healthy_when(|| Health::Failing("NVML does not answer".into()));

    let (status, _, body) = get(pages.clone(), READYZ).await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "not registered yet\n")
    );
    let (status, _, body) = get(pages.clone(), HEALTHZ).await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "NVML does not answer\n")
    );

    ready.store(true, Ordering::Relaxed);
    assert_eq!(get(pages, READYZ).await.0, StatusCode::OK);
}

#[tokio::test]
async fn only_reading_is_allowed_and_only_of_known_pages() {
    assert_eq!(
        request(pages(), Method::POST, "/metrics").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        request(pages(), Method::HEAD, HEALTHZ).await.0,
        StatusCode::OK
    );
    assert_eq!(get(pages(), "/").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_endpoint_that_is_off_opens_no_socket() {
    assert!(listen(&ListenAddress::Off).await.unwrap().is_none());
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let taken = listen(&"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let address = taken.local_addr().unwrap();
    let error = listen(&ListenAddress::At(address)).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn the_endpoint_answers_over_tcp() {
    let listener = listen(&ListenAddress::Everywhere(0))
        .await
        .unwrap()
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, pages(), shutdown.clone()));

    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client
        .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200") && answer.ends_with("ok\n"),
        "{answer}"
    );

    shutdown.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_cannot_hold_up_shutdown() {
    // More than the sockets' buffers take, so that the answer stays unfinished.
    let huge = "x".repeat(64 << 20);
    let pages = pages().healthy_when(move || Health::Failing(huge.clone().into()));
    let listener = listen(&"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, pages, shutdown.clone()));

    let mut client = TcpStream::connect(address).await.unwrap();
    client
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    client.read_exact(&mut [0; 12]).await.unwrap();
    // From here on time passes as soon as nothing else can happen.
    tokio::time::pause();
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}
