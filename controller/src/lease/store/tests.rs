use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use tokio::net::TcpListener;

use super::*;

/// Serves one canned answer and keeps what was asked.
#[derive(Clone)]
struct Server {
    answer: (StatusCode, String),
    asked: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(server): State<Server>, request: Request) -> (StatusCode, String) {
    let line = format!("{} {}", request.method(), request.uri().path());
    let body = axum::body::to_bytes(request.into_body(), 1 << 16)
        .await
        .unwrap();
    let line = format!("{line} {}", String::from_utf8_lossy(&body));
    server
        .asked
        .lock()
        .unwrap()
        .push(line.trim_end().to_owned());
    server.answer
}

/// A store on a server that gives `answer` to everything, and what is asked of it.
async fn store(status: u16, answer_body: &str) -> (KubeLeases, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::default();
    let status = StatusCode::from_u16(status).unwrap();
    let server = Server {
        answer: (status, answer_body.to_owned()),
        asked: Arc::clone(&asked),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(server);
    tokio::spawn(async { axum::serve(listener, router).await });
    let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
    (KubeLeases::new(client, "ns", "lease"), asked)
}

fn status(code: u16, reason: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"{reason}","code":{code}}}"#
    )
}

fn lease(spec: &str) -> String {
    format!(
        r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease",
            "metadata":{{"name":"lease","namespace":"ns","resourceVersion":"7"}},"spec":{spec}}}"#
    )
}

fn record() -> Record {
    let acquired = Some("2026-01-02T03:04:05.000006Z".parse().unwrap());
    let holder = Some("me".to_owned());
    Record {
        holder,
        duration: Duration::from_secs(15),
        transitions: 3,
        acquired,
    }
}

#[tokio::test]
async fn a_written_lease_is_read_back_as_it_was() {
    let spec = r#"{"holderIdentity":"me","leaseDurationSeconds":15,"leaseTransitions":3,
        "acquireTime":"2026-01-02T03:04:05.000006Z","renewTime":"2026-01-02T03:04:09.000000Z"}"#;
    let (store, asked) = store(200, &lease(spec)).await;
    let stored = Stored {
        version: "7".to_owned(),
        record: record(),
    };
    assert_eq!(store.read().await.unwrap(), Some(stored.clone()));
    assert_eq!(store.write(Some("6"), &record()).await.unwrap(), stored);
    let asked = asked.lock().unwrap();
    let path = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/lease";
    assert_eq!(asked[0], format!("GET {path}"));
    let sent = asked[1].strip_prefix(&format!("PATCH {path} ")).unwrap();
    assert!(sent.contains(r#""resourceVersion":"6""#), "{sent}");
    assert!(
        sent.contains(r#""holderIdentity":"me","leaseDurationSeconds":15"#),
        "{sent}"
    );
    assert!(
        sent.contains(r#""acquireTime":"2026-01-02T03:04:05.000006Z""#),
        "{sent}"
    );
}

#[tokio::test]
async fn a_lease_that_nobody_has_taken_is_free() {
    for spec in ["{}", r#"{"holderIdentity":"","leaseDurationSeconds":1}"#] {
        let stored = store(200, &lease(spec))
            .await
            .0
            .read()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(stored.record.holder, None, "{spec}");
    }
}

#[tokio::test]
async fn only_a_conflict_is_a_race() {
    let (missing, _) = store(404, &status(404, "NotFound")).await;
    assert_eq!(missing.read().await.unwrap(), None);
    // A namespace that does not exist: trying again at once would never end.
    assert!(matches!(
        missing.write(None, &record()).await,
        Err(StoreError::Access { .. })
    ));

    let (raced, _) = store(409, &status(409, "Conflict")).await;
    assert!(matches!(
        raced.write(Some("1"), &record()).await,
        Err(StoreError::Raced)
    ));

    let (forbidden, _) = store(403, &status(403, "Forbidden")).await;
    let error = forbidden.read().await.unwrap_err();
    assert!(error.to_string().contains("ns/lease"), "{error}");
}
