//! Reads against an API server that answers as it is told, in the tests' own time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Request, Response};
use futures::future::{self, Either};
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde_json::json;
use tokio::time::Instant;
use tower::{BoxError, service_fn};

use super::*;
use crate::api_read::{FIRST_ATTEMPT, FIRST_PAUSE, REFUSAL_PATIENCE};
use crate::testing::claim;

/// What the server does at one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Claim,
    /// There is no such path, as a server says that does not serve the version.
    NoSuchPath,
    /// The same, as Kubernetes 1.33 says it.
    NoSuchVersion,
    Code(u16),
    Garbage,
    BrokenConnection,
    Silence,
}

/// A server that gives these answers in turn, the last one for ever.
fn server(answers: &[Answer]) -> (ApiClaimReader, Arc<Mutex<usize>>) {
    let calls = Arc::new(Mutex::new(0));
    let script = Arc::new(Mutex::new(VecDeque::from(answers.to_vec())));
    let counted = calls.clone();
    let service = service_fn(move |request: Request<Body>| {
        if request.uri().path() == "/apis/resource.k8s.io" {
            return Either::Left(future::ready(Ok(versions())));
        }
        *counted.lock().unwrap() += 1;
        let mut script = script.lock().unwrap();
        let next = script.pop_front().expect("the script has an answer");
        if script.is_empty() {
            script.push_back(next);
        }
        Either::Right(respond(next))
    });
    let api = ResourceApi::new(Client::new(service, "default"), None);
    (ApiClaimReader::new(api), calls)
}

/// What the server says it serves.
fn versions() -> Response<Body> {
    let versions = [json!({"groupVersion": "resource.k8s.io/v1", "version": "v1"})];
    let group = json!({"kind": "APIGroup", "apiVersion": "v1", "name": "resource.k8s.io",
                       "versions": versions});
    Response::new(Body::from(group.to_string().into_bytes()))
}

async fn respond(answer: Answer) -> Result<Response<Body>, BoxError> {
    let (code, text) = match answer {
        Answer::Claim => (
            200,
            json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
                   "metadata": {"name": "a", "uid": "a-uid"}, "spec": {}})
            .to_string(),
        ),
        Answer::NoSuchPath => (404, "404 page not found".to_owned()),
        Answer::NoSuchVersion => (
            404,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                   "message": "the server could not find the requested resource",
                   "reason": "NotFound", "details": {}, "code": 404})
            .to_string(),
        ),
        Answer::Code(code) => {
            let reason = if code == 404 { "NotFound" } else { "" };
            let status = Status::failure("told to", reason).with_code(code);
            (code, serde_json::to_string(&status).unwrap())
        }
        Answer::Garbage => (200, "<html>a proxy of the house".to_owned()),
        Answer::BrokenConnection => return Err("connection reset".into()),
        Answer::Silence => {
            return std::future::pending::<Result<_, Infallible>>()
                .await
                .map_err(Into::into);
        }
    };
    let response = Response::builder().status(code);
    Ok(response.body(Body::from(text.into_bytes())).unwrap())
}

/// Everything that can go wrong with one read and may be right at the next.
const PASSING: [Answer; 12] = [
    Answer::NoSuchPath,
    Answer::NoSuchVersion,
    Answer::Code(401),
    Answer::Code(403),
    Answer::Code(429),
    Answer::Code(500),
    Answer::Code(502),
    Answer::Code(503),
    Answer::Code(504),
    Answer::Garbage,
    Answer::BrokenConnection,
    Answer::Silence,
];

/// What the kubelet gives a call.
fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(45))
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_with_one_read_or_two_the_claim_is_read() {
    for first in PASSING {
        for second in PASSING {
            let (reader, calls) = server(&[first, second, Answer::Claim]);
            let read = reader.read(&claim("a"), deadline()).await;
            assert!(read.is_ok(), "{first:?}, {second:?}: {read:?}");
            assert_eq!(*calls.lock().unwrap(), 3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_is_told_within_the_deadline_with_its_cause() {
    for lasting in PASSING {
        let (reader, calls) = server(&[lasting]);
        let begun = Instant::now();
        let error = reader.read(&claim("a"), deadline()).await.unwrap_err();
        let took = begun.elapsed();
        let calls = *calls.lock().unwrap();
        match (lasting, &error) {
            (Answer::Code(401 | 403), ReadError::Refused { .. }) => {
                assert!(took <= REFUSAL_PATIENCE, "{took:?}");
            }
            (Answer::Silence, ReadError::Unavailable { source: None, .. })
            | (
                _,
                ReadError::Unavailable {
                    source: Some(_), ..
                },
            ) => {
                assert!(took <= Duration::from_secs(45), "{took:?}");
            }
            other => panic!("{other:?}"),
        }
        assert!((4..40).contains(&calls), "{lasting:?}: {calls} reads");
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_gone_is_told_at_once() {
    let (reader, calls) = server(&[Answer::Code(404)]);
    let error = reader.read(&claim("a"), deadline()).await.unwrap_err();
    assert!(matches!(error, ReadError::NotFound { .. }), "{error}");
    assert_eq!(*calls.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_malformed_or_not_served_is_a_refusal_too() {
    for code in [400, 405, 422] {
        let (reader, _) = server(&[Answer::Code(code)]);
        let error = reader.read(&claim("a"), deadline()).await.unwrap_err();
        assert!(
            matches!(error, ReadError::Refused { .. }),
            "{code}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_costs_seconds_and_a_slow_server_gets_its_time() {
    let (reader, _) = server(&[Answer::Silence, Answer::Silence, Answer::Claim]);
    let begun = Instant::now();
    reader.read(&claim("a"), deadline()).await.unwrap();
    let pauses = FIRST_PAUSE * 3;
    assert_eq!(begun.elapsed(), FIRST_ATTEMPT * 3 + pauses);
}
