//! A point in time by which an answer must be given.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

/// The moment after which nobody waits for the answer.
///
/// It comes from the RPC and goes into every call that can wait, so that no wait outlives its
/// purpose and no two waits add up to more than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// The deadline passed while something was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("timed out")]
pub struct Passed;

impl Deadline {
    /// So much time from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// This very moment, e.g. that of a gRPC call.
    pub fn at(moment: std::time::Instant) -> Self {
        Self(Instant::from_std(moment))
    }

    /// An earlier deadline: so much time is kept for what comes after.
    #[must_use]
    pub fn sooner_by(self, time: Duration) -> Self {
        Self(self.0.checked_sub(time).unwrap_or(self.0))
    }

    /// The earlier of this deadline and `time` from now: the bound of one attempt among several.
    #[must_use]
    pub fn at_most(self, time: Duration) -> Self {
        self.min(Self::after(time))
    }

    /// Time that is left.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether a wait of `time` would still end in time.
    pub fn allows(self, time: Duration) -> bool {
        self.remaining() > time
    }

    /// Waits for `future`, at most until the deadline.
    pub async fn run<T>(self, future: impl Future<Output = T>) -> Result<T, Passed> {
        tokio::time::timeout_at(self.0, future)
            .await
            .map_err(|_| Passed)
    }
}
