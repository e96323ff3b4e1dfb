//! Asks the session host of the node whether the NVLink session is ready.
//!
//! Whoever connects to its socket is told at once, and again at each change, so nothing is polled while the
//! session host is there.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tessera_session::Report;
use tessera_session::report::{LONGEST_LINE, Verdict};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::sleep;

use crate::deadline::{Deadline, Passed};

/// Time between two attempts to reach a session host that is not there.
const ATTEMPT: Duration = Duration::from_millis(250);

/// Lines that are read of one connection; then another is made.
const LINES: u64 = 64;

/// The session was not ready in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the NVLink session of this node is not ready, and without it the channel is of no use: {why}; the kubelet \
     will call again"
)]
pub struct SessionNotReady {
    pub(crate) why: String,
}

/// The session host of the node.
#[derive(Clone, Debug)]
pub struct SessionHost {
    socket: Option<PathBuf>,
}

/// What was last heard of a session that is waited for.
#[derive(Debug)]
pub(super) struct Heard(Mutex<String>);

impl Heard {
    pub(super) fn nothing() -> Self {
        Self(Mutex::new("nothing is heard of it yet".to_owned()))
    }

    pub(super) fn now(&self) -> String {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }

    fn put(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}

impl SessionHost {
    /// The one that is told of at `socket`; none where nvidia-imex is nobody's here.
    pub fn at(socket: Option<&Path>) -> Self {
        Self {
            socket: socket.map(Path::to_owned),
        }
    }

    /// Waits until the session is ready.
    pub(super) async fn ready(
        &self,
        heard: &Heard,
        deadline: Deadline,
    ) -> Result<(), SessionNotReady> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let until_ready = async {
            while !is_told_ready(socket, heard).await {
                sleep(ATTEMPT).await;
            }
        };
        let ready = deadline.run(until_ready).await;
        ready.map_err(|Passed| SessionNotReady { why: heard.now() })
    }
}

/// Listens until the session is told to be ready, or the connection ends.
async fn is_told_ready(socket: &Path, heard: &Heard) -> bool {
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
        if report.verdict() == Verdict::Go {
            return true;
        }
        heard.put(described(&report));
    }
    false
}

fn described(report: &Report) -> String {
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
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    use super::*;

    fn report(state: &str) -> Report {
        Report {
            state: state.to_owned(),
            epoch: 3,
            message: "nvidia-imex ended by itself".to_owned(),
            ..Report::default()
        }
    }

    async fn ask(socket: Option<&Path>, patience: Duration) -> Result<(), SessionNotReady> {
        let host = SessionHost::at(socket);
        host.ready(&Heard::nothing(), Deadline::after(patience))
            .await
    }

    #[tokio::test]
    async fn where_nobody_is_asked_nothing_is_waited_for() {
        ask(None, Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_host_that_is_not_there_is_named_with_its_socket() {
        let root = tempfile::tempdir().unwrap();
        let socket = root.path().join("session.sock");
        let refused = ask(Some(&socket), Duration::from_millis(600))
            .await
            .unwrap_err();
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
        ask(Some(&socket), Duration::from_secs(30)).await.unwrap();
        let listener = told.await.unwrap();
        let silent = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            peer.write_all(report("STOPPED").line().as_bytes())
                .await
                .unwrap();
            std::future::pending::<()>().await;
        });
        let refused = ask(Some(&socket), Duration::from_millis(500))
            .await
            .unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("STOPPED (members of epoch 3): nvidia-imex ended"),
            "{text}"
        );
        silent.abort();
    }
}
