//! What every program does around its work.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{logging, shutdown};

/// The work of a program could not be begun.
#[derive(Debug, Error)]
pub enum BeginError {
    /// There is nothing to run it on.
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    /// Nobody could end it.
    #[error("listen for signals")]
    Signals(#[source] io::Error),
}

/// Does the work on this thread, with a token that is cancelled when it is to come to its end.
///
/// One thread: what these programs do is wait, and a single thread wakes no other. What blocks is for threads of its own.
pub fn on_one_thread<T>(work: impl AsyncFnOnce(CancellationToken) -> T) -> Result<T, BeginError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(BeginError::Runtime)?;
    runtime.block_on(async {
        let stop = shutdown::signals().map_err(BeginError::Signals)?;
        Ok(work(stop).await)
    })
}

/// How the process ends. The reason of a failure goes through the log, so that whoever collects that finds it there.
pub fn exit<E: AsRef<dyn Error + Send + Sync>>(ended: Result<ExitCode, E>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        tracing::error!(error = %logging::chain(error.as_ref()), "the process ends");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_on_the_thread_that_begins_it() {
        let here = std::thread::current().id();
        let there = on_one_thread(async |stop| {
            assert!(!stop.is_cancelled());
            std::thread::current().id()
        });
        assert_eq!(there.unwrap(), here);
    }

    #[test]
    fn a_failure_is_told_by_the_status_and_what_the_work_says_is_kept() {
        type Ended = Result<ExitCode, Box<dyn Error + Send + Sync>>;
        let shown = |ended: Ended| format!("{:?}", exit(ended));
        assert_eq!(shown(Err("no".into())), format!("{:?}", ExitCode::FAILURE));
        let seven = ExitCode::from(7);
        assert_eq!(shown(Ok(seven)), format!("{seven:?}"));
    }
}
