//! Asks the session host of the node.
//!
//! Whoever connects to its socket is told at once, and again at each change, so nothing is polled while the
//! session host is there.

use std::path::Path;

use tessera_session::Report;
use tessera_session::report::{LONGEST_LINE, Verdict};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;

use super::Heard;

/// Lines that are read of one connection; then another is made.
const LINES: u64 = 64;

/// Listens until the session is told to be ready for each of these domains, or the connection ends.
pub(super) async fn is_told_ready(socket: &Path, domains: &[&str], heard: &Heard) -> bool {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            let socket = socket.display();
            heard.put(format!(
                "no session host answers at {socket} ({error}); see whether its pod runs on this node"
            ));
            return false;
        }
    };
    let longest = LINES * LONGEST_LINE as u64;
    let mut lines = BufReader::new(stream.take(longest)).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(report) = Report::parse(&line) else {
            heard.put(
                "what the session host says cannot be read; it is of another version".to_owned(),
            );
            return false;
        };
        let waits = |domain: &&&str| report.verdict(domain) == Verdict::Wait;
        let Some(domain) = domains.iter().find(waits) else {
            return true;
        };
        heard.put(described(&report, domain));
    }
    false
}

fn described(report: &Report, domain: &str) -> String {
    if report.is_of_another(domain) {
        return format!(
            "it is that of ComputeDomain {}, and a node is one domain's at a time with \
             resources.computeDomains.imex.mode=domain",
            report.domain
        );
    }
    let Report {
        state,
        epoch,
        message,
        ..
    } = report;
    if message.is_empty() {
        format!("its state is {state} (members of epoch {epoch})")
    } else {
        format!("its state is {state} (members of epoch {epoch}): {message}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    use super::super::{NodeSession, SessionNotReady};
    use super::*;
    use crate::deadline::Deadline;

    fn report(state: &str) -> Report {
        Report {
            state: state.to_owned(),
            epoch: 3,
            message: "nvidia-imex ended by itself".to_owned(),
            ..Report::default()
        }
    }

    async fn ask(socket: &Path, patience: Duration) -> Result<(), SessionNotReady> {
        let session = NodeSession::Hosted(socket.to_owned());
        session
            .ready(&["d1"], &Heard::nothing(), Deadline::after(patience))
            .await
    }

    #[tokio::test]
    async fn the_session_of_another_domain_is_waited_out_and_the_domain_named() {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("session.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let of = |domain: &str| Report {
            domain: domain.to_owned(),
            ..report("READY")
        };
        let heard = Heard::nothing();
        let asking = is_told_ready(&socket, &["d1"], &heard);
        let telling = async {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(of("d2").line().as_bytes()).await.unwrap();
        };
        let (ready, ()) = tokio::join!(asking, telling);
        assert!(!ready && heard.now().contains("ComputeDomain d2"));
        let telling = async {
            let (mut peer, _) = listener.accept().await.unwrap();
            for domain in ["d2", "d1"] {
                peer.write_all(of(domain).line().as_bytes()).await.unwrap();
            }
        };
        let (ready, ()) = tokio::join!(is_told_ready(&socket, &["d1"], &heard), telling);
        assert!(ready);
    }

    #[tokio::test]
    async fn where_nobody_is_asked_nothing_is_waited_for() {
        let ready = NodeSession::Unasked
            .ready(&["d1"], &Heard::nothing(), Deadline::after(Duration::ZERO))
            .await;
        ready.unwrap();
    }

    #[tokio::test]
    async fn a_session_host_that_is_not_there_is_named_with_its_socket() {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("session.sock");
        let refused = ask(&socket, Duration::from_millis(600)).await.unwrap_err();
        assert!(refused.to_string().contains("session.sock"), "{refused}");
    }

    #[tokio::test]
    async fn a_session_is_waited_for_over_connections_that_end_and_its_state_is_told() {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("session.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let told = tokio::spawn(async move {
            for states in [&["STOPPED"][..], &["INITIALIZING", "READY"]] {
                let (mut peer, _) = listener.accept().await.unwrap();
                for state in states {
                    peer.write_all(report(state).line().as_bytes())
                        .await
                        .unwrap();
                }
            }
            listener
        });
        ask(&socket, Duration::from_secs(30)).await.unwrap();
        let listener = told.await.unwrap();
        let silent = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(report("STOPPED").line().as_bytes())
                .await
                .unwrap();
            std::future::pending::<()>().await;
        });
        let refused = ask(&socket, Duration::from_millis(500)).await.unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("STOPPED (members of epoch 3): nvidia-imex ended"),
            "{text}"
        );
        silent.abort();
    }
}
