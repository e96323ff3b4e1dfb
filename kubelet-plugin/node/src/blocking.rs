//! Runs calls that may block for long on threads of their own.
//!
//! A call that hangs holds up nobody but its caller, and that one until its deadline.

use std::thread;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use crate::deadline::Deadline;

/// A call without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoAnswer {
    /// It has not come back in time, and may still do what it was to do; or no time was left to begin it.
    #[error("timed out")]
    TimedOut,
    /// It could not begin, or ended in a panic.
    #[error("{0}")]
    NotRun(String),
}

/// Runs `call` on a thread of this name and waits for its answer until the deadline.
pub async fn run<T: Send + 'static>(
    thread: &'static str,
    limit: Deadline,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoAnswer> {
    // What is begun cannot be stopped, and would go on when its caller has let go of the GPU's lock.
    if !limit.allows(Duration::ZERO) {
        return Err(NoAnswer::TimedOut);
    }
    let (done, answer) = oneshot::channel();
    let work = move || {
        // Nobody takes the answer when the deadline has passed.
        let _ = done.send(call());
    };
    let started = thread::Builder::new().name(thread.to_owned()).spawn(work);
    started.map_err(|error| NoAnswer::NotRun(error.to_string()))?;
    match limit.run(answer).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_)) => Err(NoAnswer::NotRun("a defect of the plugin".to_owned())),
        Err(_) => Err(NoAnswer::TimedOut),
    }
}
