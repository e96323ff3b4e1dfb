//! Reads from the API server again and again until there is an answer or the time is up.

use std::fmt::Display;
use std::time::Duration;

use tessera_shell::resource_api::is_unserved;
use tracing::debug;

use crate::deadline::Deadline;

/// Bound of the first attempt. A read takes 2 ms; one that takes longer than this likely hangs on a
/// connection that is dead, and a new one is worth more than patience.
pub(crate) const FIRST_ATTEMPT: Duration = Duration::from_secs(2);

/// Bound of later attempts, which double up to it: a busy server gets its time.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(10);

/// First pause between attempts, doubled up to [`LONGEST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a refusal is not believed. An API server that has just started refuses what it will allow
/// a moment later, when it has read its policies and accounts.
pub(crate) const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The API server says that there is no such object.
    Absent,
    /// The API server refuses the read.
    Refused(Box<kube::Error>),
    /// The API server did not answer in time. The last failure, unless it was silence.
    Unavailable(Option<Box<kube::Error>>),
}

/// Asks until there is an answer or the deadline passes. `what` is for the log.
pub async fn read<T, F: Future<Output = kube::Result<T>>>(
    what: &(dyn Display + Sync),
    deadline: Deadline,
    mut ask: impl FnMut() -> F,
) -> Result<T, NoAnswer> {
    let (mut pause, mut attempt) = (FIRST_PAUSE, FIRST_ATTEMPT);
    let patience = deadline.at_most(REFUSAL_PATIENCE);
    loop {
        let last = match deadline.at_most(attempt).run(ask()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => match verdict(&error) {
                Verdict::Absent => return Err(NoAnswer::Absent),
                Verdict::Refused if !patience.allows(pause) => {
                    return Err(NoAnswer::Refused(Box::new(error)));
                }
                Verdict::Refused | Verdict::TryAgain => Some(Box::new(error)),
            },
            Err(_passed) => None,
        };
        if !deadline.allows(pause) {
            return Err(NoAnswer::Unavailable(last));
        }
        debug!(%what, error = ?last, "reading again");
        tokio::time::sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
        attempt = LONGEST_ATTEMPT.min(attempt * 2);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Absent,
    Refused,
    TryAgain,
}

/// What a failure says about another attempt.
///
/// A refusal by RBAC is tried again for a few seconds only: a policy that is missing can be installed,
/// but not within one call, so it is soon told.
fn verdict(error: &kube::Error) -> Verdict {
    match error {
        kube::Error::Api(status) => match status.code {
            // There is no such path: the server does not serve this version, and is asked which it does.
            404 if is_unserved(error) => Verdict::TryAgain,
            404 => Verdict::Absent,
            400 | 401 | 403 | 405 | 422 => Verdict::Refused,
            _ => Verdict::TryAgain,
        },
        _ => Verdict::TryAgain,
    }
}
