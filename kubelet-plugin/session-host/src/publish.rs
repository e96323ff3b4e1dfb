//! Writes how the node's session is into the status of its `NVLinkClique`.
//!
//! Each node applies its own entry, under a field manager of its own, so that nodes do not overwrite each
//! other and need not wait for each other. What is stored already is not written: a restart writes nothing.

use std::net::IpAddr;
use std::time::Duration;

use http::{Request, header};
use kube::Client;
use serde_json::{Value, json};
use tessera_api::{NVLinkCliqueSession, OWN_API_VERSION};
use tessera_session::Report;
use tessera_shell::logging::chain;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::follow::{Own, Stored};
use crate::metrics::Metrics;

/// How long to wait for more after something has happened: a daemon that starts goes through several states
/// within moments.
const GATHER: Duration = Duration::from_millis(300);

/// Bound of one write.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Pauses after a failure: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Longest name of a field manager (`FieldManagerMaxLength` in
/// `staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go`).
const LONGEST_MANAGER: usize = 128;

/// Writes until `stop`.
pub async fn publish(
    client: Client,
    own: Own,
    mut reports: watch::Receiver<Report>,
    mut stored: watch::Receiver<Stored>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(GATHER + pause) => {}
        }
        let session = session(&reports.borrow_and_update(), &own);
        let there = stored.borrow_and_update().clone();
        if let (Some(clique), Some(session)) = (&there.clique, &session)
            && there.session.as_ref() != Some(session)
        {
            let request = client.request::<Value>(request(clique, session));
            let written = tokio::select! {
                () = stop.cancelled() => return,
                written = timeout(ATTEMPT, request) => written,
            };
            match written {
                Ok(Ok(_)) => {
                    metrics.wrote("ok");
                    pause = Duration::ZERO;
                }
                failed => {
                    let why = match failed {
                        Ok(Err(error)) => chain(&error).to_string(),
                        _ => format!("no answer within {ATTEMPT:?}"),
                    };
                    metrics.wrote("failed");
                    pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    warn!(
                        clique,
                        error = why,
                        ?pause,
                        "the state of the session is not written; it is tried again"
                    );
                    continue;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = reports.changed() => {}
            Ok(()) = stored.changed() => {}
        }
    }
}

/// What is to be written; none while it is not known in which clique the node is.
fn session(report: &Report, own: &Own) -> Option<NVLinkCliqueSession> {
    (!report.clique.is_empty()).then(|| NVLinkCliqueSession {
        node_name: own.node.clone(),
        state: report.state.clone(),
        // Most of what changes the members of a clique is no change of one domain's, and would be a write of each node.
        epoch: if report.domain.is_empty() {
            report.epoch
        } else {
            0
        },
        address: text(own.address),
        unreachable: report.unreachable.clone(),
        domain: report.domain.clone(),
    })
}

fn text(address: IpAddr) -> String {
    address.to_string()
}

fn request(clique: &str, session: &NVLinkCliqueSession) -> Request<Vec<u8>> {
    let manager = manager(&session.node_name);
    let body = json!({
        "apiVersion": OWN_API_VERSION, "kind": "NVLinkClique", "metadata": {"name": clique},
        "status": {"sessions": [session]},
    });
    Request::builder()
        .method(http::Method::PATCH)
        .uri(format!(
            "/apis/{OWN_API_VERSION}/nvlinkcliques/{clique}/status?fieldManager={manager}&force=true"
        ))
        .header(header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(body.to_string().into_bytes())
        .expect("names of objects are made of letters that a path may have")
}

/// The field manager of a node. Two nodes must not have one: whoever applies takes away what it applied
/// before and does not any more.
fn manager(node: &str) -> String {
    let whole = format!("session-host-{node}");
    if whole.len() <= LONGEST_MANAGER {
        return whole;
    }
    let sum = crc32fast::hash(node.as_bytes());
    let cut = whole.floor_char_boundary(LONGEST_MANAGER - 9);
    format!("{}-{sum:08x}", &whole[..cut])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};

    use http::Response;
    use kube::client::Body;
    use tower::{BoxError, service_fn};

    use super::*;

    fn own() -> Own {
        Own {
            node: "a".to_owned(),
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        }
    }

    fn report(state: &str) -> Report {
        Report {
            state: state.to_owned(),
            clique: "c.1".to_owned(),
            epoch: 3,
            ..Report::default()
        }
    }

    #[test]
    fn a_change_of_members_that_are_not_of_its_domain_is_no_news_of_a_node() {
        let at = |epoch, domain: &str| {
            let report = Report {
                epoch,
                domain: domain.to_owned(),
                ..report("READY")
            };
            session(&report, &own()).unwrap()
        };
        assert_eq!(at(3, "d1"), at(4, "d1"));
        assert_eq!(at(3, "d1").domain, "d1");
        assert_ne!(at(3, ""), at(4, ""));
    }

    #[test]
    fn each_node_applies_its_own_entry_under_its_own_name() {
        let session = session(&report("READY"), &own()).unwrap();
        let request = request("c.1", &session);
        assert_eq!(
            request.uri().to_string(),
            "/apis/tessera-dra.github.io/v1alpha1/nvlinkcliques/c.1/status\
             ?fieldManager=session-host-a&force=true"
        );
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(
            body["status"]["sessions"],
            json!([{"nodeName": "a", "state": "READY", "epoch": 3, "address": "10.0.0.1"}])
        );
        assert_eq!(super::session(&Report::default(), &own()), None);
        let long = |last: &str| manager(&("n".repeat(250) + last));
        assert!(long("a").len() <= LONGEST_MANAGER && long("a") != long("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_stored_is_not_written_and_what_failed_is_tried_again() {
        let asked = Arc::new(Mutex::new(0));
        let counted = asked.clone();
        let service = service_fn(move |_: Request<Body>| {
            let mut asked = counted.lock().unwrap();
            *asked += 1;
            let (code, text) = if *asked < 3 {
                (
                    503,
                    r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","code":503}"#,
                )
            } else {
                (200, "{}")
            };
            let answer = Response::builder()
                .status(code)
                .body(Body::from(text.as_bytes().to_vec()));
            async move { Ok::<_, BoxError>(answer?) }
        });
        let (reports, seen) = watch::channel(report("STOPPED"));
        let (stored, there) = watch::channel(Stored::default());
        let stop = CancellationToken::new();
        let writing = tokio::spawn(publish(
            Client::new(service, "default"),
            own(),
            seen,
            there,
            Metrics::default(),
            stop.clone(),
        ));
        let count = || *asked.lock().unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(count(), 0, "no object lists the node");
        let is = |state: &str| Stored {
            clique: Some("c.1".to_owned()),
            session: session(&report(state), &own()),
        };
        stored.send_replace(is("STOPPED"));
        sleep(Duration::from_secs(5)).await;
        assert_eq!(count(), 0);
        reports.send_replace(report("READY"));
        sleep(Duration::from_mins(1)).await;
        assert_eq!(count(), 3, "two failed");
        stored.send_replace(is("READY"));
        sleep(Duration::from_mins(1)).await;
        assert_eq!(count(), 3);
        stop.cancel();
        writing.await.unwrap();
    }
}
