//! The socket at which hooks ask.
//!
//! It is bound when the driver can hold containers, or when a container is held: no earlier, so that a node without
//! has no socket. During an upgrade two processes want it, and the later one gets it when the earlier one ends; hooks wait
//! for that long.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tessera_connections::Places;
use tessera_limit_call::LONGEST;
use tessera_proto::uds::{self, BindError, Connection, Peers, SocketPath, SocketPathError};
use tessera_shell::logging::chain;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LimitOperations, MemoryLimits, Promises};

/// Hooks that are served at once: the containers of all pods of a node that start at one moment. One beyond takes the
/// place of the first, which asks again.
const PLACES: NonZeroUsize = NonZeroUsize::new(64).expect("it is not 0");

/// How long a hook may take to say what it wants, and to read the answer: it does both at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two attempts to bind a socket that another process serves.
const PAUSE: Duration = Duration::from_millis(200);

/// Time between two looks for containers that are gone.
const TIDYING: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
enum SocketError {
    #[error(transparent)]
    Path(#[from] SocketPathError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("listen on the socket")]
    Listen(#[from] std::io::Error),
}

/// Serves hooks until `stop`.
pub async fn serve<O: LimitOperations, P: Promises>(
    limits: Arc<MemoryLimits<O, P>>,
    path: PathBuf,
    stop: CancellationToken,
) {
    let bound = stop.run_until_cancelled(bind(&path)).await;
    let Some((file, listener)) = bound else {
        return;
    };
    info!(socket = %path.display(), "containers can be held to their shares of GPU memory");
    let mut incoming = pin!(uds::incoming(
        listener,
        Peers::root_and_self(),
        Places::new(PLACES)
    ));
    // Their end is that of this task.
    let mut served = JoinSet::new();
    let mut tidying = tokio::time::interval(TIDYING);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(Ok(connection)) = incoming.next() => {
                served.spawn(serve_one(connection, limits.clone()));
            }
            Some(_) = served.join_next() => {}
            _ = tidying.tick() => limits.tidy().await,
        }
    }
    // Nobody finds it any more, and whoever has asked is answered.
    drop(file);
    while served.join_next().await.is_some() {}
}

/// Binds the socket, however long another process serves it.
async fn bind(path: &Path) -> (uds::SocketFile, UnixListener) {
    let mut told = false;
    loop {
        let error = match try_bind(path) {
            Ok(bound) => return bound,
            Err(error) => error,
        };
        let is_served = matches!(error, SocketError::Bind(BindError::Served { .. }));
        if !told && !is_served {
            warn!(error = %chain(&error), "hooks cannot ask for memory limits; tried again and again");
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn try_bind(path: &Path) -> Result<(uds::SocketFile, UnixListener), SocketError> {
    let (file, listener) = uds::bind(&SocketPath::new(path)?)?.into_parts();
    Ok((file, UnixListener::from_std(listener)?))
}

async fn serve_one<O: LimitOperations, P: Promises>(
    connection: Connection,
    limits: Arc<MemoryLimits<O, P>>,
) {
    let longest = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    let mut question = (&mut connection).take(longest);
    let asked = timeout(PATIENCE, question.read_line(&mut line)).await;
    if !matches!(asked, Ok(Ok(1..))) {
        return;
    }
    let answer = limits.answer(&line).await.line();
    // A hook that has gone has let no container start.
    let _ = timeout(PATIENCE, connection.write_all(answer.as_bytes())).await;
}
