use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use axum::http::Request;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower::ServiceExt as _;

use super::*;

const NAME: &str = "tessera-webhook.tessera.svc";

/// Writes a new certificate with its key, as of `time`, and returns it.
fn issue(directory: &Path, time: SystemTime) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([NAME.to_owned()]).unwrap();
    for (name, text) in [("crt", cert.pem()), ("key", signing_key.serialize_pem())] {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    }
    cert.der().clone()
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), WebhookError>>,
}

async fn start(directory: &Path) -> Running {
    let renewed = Renewed::load(&directory.join("crt"), &directory.join("key")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = TlsListener::new(tcp, tls::config(Arc::new(renewed)).unwrap());
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(listener, tessera_api::AVAILABLE, stop.clone()));
    Running {
        address,
        stop,
        task,
    }
}

/// Asks over HTTPS, trusting only `root`.
async fn get(address: SocketAddr, root: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_a_damaged_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let before = SystemTime::now() - Duration::from_hours(1);
    let first = issue(directory.path(), before);
    let running = start(directory.path()).await;
    // A client that never says anything holds nobody up.
    let _silent = TcpStream::connect(running.address).await.unwrap();
    assert!(get(running.address, &first).await.unwrap().ends_with("ok"));

    std::fs::write(directory.path().join("crt"), "no certificate").unwrap();
    assert!(get(running.address, &first).await.unwrap().ends_with("ok"));

    let second = issue(directory.path(), before + Duration::from_secs(1));
    assert!(get(running.address, &second).await.unwrap().ends_with("ok"));
    assert!(get(running.address, &first).await.is_err());

    running.stop.cancel();
    running.task.await.unwrap().unwrap();
}

#[test]
fn files_that_are_no_pair_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (crt, key) = (directory.path().join("crt"), directory.path().join("key"));
    let error = Renewed::load(&crt, &key).unwrap_err();
    assert!(matches!(error, CertificateError::File { .. }), "{error}");
    issue(directory.path(), SystemTime::now());
    let other = tempfile::tempdir().unwrap();
    issue(other.path(), SystemTime::now());
    let error = Renewed::load(&crt, &other.path().join("key")).unwrap_err();
    assert!(matches!(error, CertificateError::Pair { .. }), "{error}");
    std::fs::write(&crt, "").unwrap();
    assert!(Renewed::load(&crt, &key).is_err());
}

async fn post(body: String) -> (StatusCode, String) {
    let request = Request::post(PATH)
        .body(axum::body::Body::from(body))
        .unwrap();
    let response = router(tessera_api::AVAILABLE)
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), BODY_MAX)
        .await
        .unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn reviews_are_answered_at_the_path_of_the_reference() {
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "resource": {"resource": "resourceclaims"}, "object": {"spec": {"devices": {
            "config": [{"opaque": {"driver": "gpu.nvidia.com", "parameters": {}}}],
        }}},
    }});
    let (status, body) = post(review.to_string()).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["response"]["uid"], "u");
    assert_eq!(body["response"]["allowed"], false);
    let (status, _) = post("hello".to_owned()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = post(" ".repeat(BODY_MAX + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}
