//! Tells on a Unix socket how the session is: one line of JSON ([`Report`]) at once, and one at each change.
//!
//! Nothing is asked and nothing that comes is read, so there is nothing to be parsed here. Only root and the
//! own user are served, and a connection beyond [`PLACES`] takes the place of the one that came first.

use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use tessera_connections::Places;
use tessera_proto::uds::{self, BindError, Connection, Peers, SocketPath, SocketPathError};
use tessera_session::Report;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Connections that are served at once: those of two plugins with a claim for each of a node's GPUs.
const PLACES: NonZeroUsize = NonZeroUsize::new(32).expect("it is not 0");

/// How long a peer may take to read a line.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Why the socket is not served.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Its path is none.
    #[error(transparent)]
    Path(#[from] SocketPathError),
    /// It could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The runtime does not take it.
    #[error("listen on the socket")]
    Listen(#[from] std::io::Error),
}

/// A socket that is bound and not served yet.
#[derive(Debug)]
pub struct Socket {
    file: uds::SocketFile,
    listener: UnixListener,
}

impl Socket {
    /// Binds it, in place of one that a dead process left.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let (file, listener) = uds::bind(&SocketPath::new(path)?)?.into_parts();
        Ok(Self {
            file,
            listener: UnixListener::from_std(listener)?,
        })
    }

    /// Tells every peer until `stop`.
    pub async fn serve(self, reports: watch::Receiver<Report>, stop: CancellationToken) {
        let Self { file, listener } = self;
        let mut incoming = pin!(uds::incoming(
            listener,
            Peers::root_and_self(),
            Places::new(PLACES)
        ));
        // Their end is that of this task.
        let mut told = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Ok(connection)) = incoming.next() => {
                    told.spawn(tell(connection, reports.clone()));
                }
                Some(_) = told.join_next() => {}
            }
        }
        drop(file);
    }
}

async fn tell(mut connection: Connection, mut reports: watch::Receiver<Report>) {
    loop {
        let line = reports.borrow_and_update().line();
        let written = timeout(WRITE_LIMIT, connection.write_all(line.as_bytes())).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
        let mut byte = [0];
        tokio::select! {
            // A peer that says something, or hangs up, has heard enough.
            _ = connection.read(&mut byte) => return,
            changed = reports.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    fn report(state: &str) -> Report {
        Report {
            state: state.to_owned(),
            ..Report::default()
        }
    }

    #[tokio::test]
    async fn whoever_connects_is_told_now_and_at_each_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("session/session.sock");
        let socket = Socket::bind(&path).unwrap();
        let (reports, seen) = watch::channel(report("STOPPED"));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(socket.serve(seen, stop.clone()));
        let mut peers = Vec::new();
        for _ in 0..3 {
            let stream = UnixStream::connect(&path).await.unwrap();
            peers.push(BufReader::new(stream).lines());
        }
        for state in ["STOPPED", "READY", "STOPPED"] {
            reports.send_replace(report(state));
            for peer in &mut peers {
                // One that comes late is told the last of several.
                loop {
                    let line = peer.next_line().await.unwrap().unwrap();
                    if Report::parse(&line) == Some(report(state)) {
                        break;
                    }
                }
            }
        }
        stop.cancel();
        serving.await.unwrap();
        assert!(!path.exists());
        for peer in &mut peers {
            assert_eq!(peer.next_line().await.unwrap(), None);
        }
    }
}
