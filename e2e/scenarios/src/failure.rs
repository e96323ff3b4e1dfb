//! Why something on the cluster is not as it must be, in words for whoever reads the table.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tessera_cluster::ClusterError;
use tessera_cluster::images::ImageError;

/// A statement does not hold, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A program could not be run.
    #[error("run {line}: {reason}")]
    Run {
        /// The command line.
        line: String,
        /// Why.
        reason: io::Error,
    },
    /// A program said that it failed.
    #[error("{line}: {said}")]
    Refused {
        /// The command line.
        line: String,
        /// What it said.
        said: String,
    },
    /// What a program wrote is not what it is known to write.
    #[error("read what {line} wrote: {reason}")]
    Unreadable {
        /// The command line.
        line: String,
        /// Why.
        reason: serde_json::Error,
    },
    /// Something did not come true in time.
    #[error("wait for {what}: not so after {} s; last seen:\n{seen}", limit.as_secs())]
    Slow {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// The last state seen, one line per object.
        seen: String,
    },
    /// The stream that a wait reads ended before its time.
    #[error("wait for {what}: the stream ended: {said}")]
    Ended {
        /// What was waited for.
        what: String,
        /// What the program that reads it said.
        said: String,
    },
    /// Something is not as stated.
    #[error("{what}\n  is     {got}\n  and not {wanted}")]
    Differs {
        /// Of what.
        what: String,
        /// What it is.
        got: String,
        /// What it should be.
        wanted: String,
    },
    /// Something is missing, or there although it must not be.
    #[error("{0}")]
    Wrong(String),
    /// A file of a node could not be looked at.
    #[error("look at {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
    /// See there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// See there.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl Failure {
    /// Something is not as `what` says.
    pub fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(what.into())
    }
}

/// Holds if both are equal.
pub fn same<T: PartialEq + Debug>(what: &str, got: &T, wanted: &T) -> Result<(), Failure> {
    if got == wanted {
        return Ok(());
    }
    Err(Failure::Differs {
        what: what.to_owned(),
        got: format!("{got:?}"),
        wanted: format!("{wanted:?}"),
    })
}

/// Holds if there is nothing.
pub fn nothing<T: Debug>(what: &str, found: &[T]) -> Result<(), Failure> {
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::Wrong(format!("{what}: {found:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_both_sides() {
        let text = same("the GPUs of the pod", &["a"], &["b"])
            .unwrap_err()
            .to_string();
        assert_eq!(
            text,
            "the GPUs of the pod\n  is     [\"a\"]\n  and not [\"b\"]"
        );
        same("the GPUs of the pod", &1, &1).unwrap();
    }

    #[test]
    fn what_should_not_be_there_is_named() {
        let text = nothing("records are left", &["x.record"])
            .unwrap_err()
            .to_string();
        assert_eq!(text, "records are left: [\"x.record\"]");
        nothing::<&str>("records are left", &[]).unwrap();
    }
}
