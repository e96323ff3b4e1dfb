//! Turns signals into one token that every task watches.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status when a second signal cuts an orderly shutdown short.
const IMPATIENT: i32 = 1;

/// Returns a token that is cancelled at the first SIGTERM or SIGINT; needs a tokio runtime.
///
/// A second signal ends the process at once: whoever sends it does not want to wait for the
/// orderly shutdown that the first one began.
///
/// Errors come from the kernel refusing a signal handler.
pub fn signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "shutting down");
        cancelled.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "second signal, leaving at once");
        std::process::exit(IMPATIENT);
    });
    Ok(token)
}
