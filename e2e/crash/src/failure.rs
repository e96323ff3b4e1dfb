//! What is not as it must be after a crash, and what kept a run from finding out.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an operation did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Somewhere in the crash space.
    #[error("{operation}, killed at {at}")]
    At {
        /// The operation.
        operation: &'static str,
        /// What the process was doing.
        at: String,
        /// What came of it.
        #[source]
        source: Box<Failure>,
    },
    /// Nothing was counted where the plugin cannot have done nothing.
    #[error("{0}: no change to a file was seen, or no NVML call where there must be some")]
    NoPoints(&'static str),
    /// The end is not that of a life without a crash.
    #[error("{what} is not as without the crash:\n  without: {without}\n  now:     {now}")]
    Differs {
        /// What is compared.
        what: String,
        /// As it must be.
        without: String,
        /// As it is.
        now: String,
    },
    /// Two claims have one GPU.
    #[error("{device} is in the CDI specs {first} and {second}")]
    Shared {
        /// The device node.
        device: String,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// A CDI spec of which the journal says nothing.
    #[error("the journal has no record of the claim of CDI spec {0}")]
    Unrecorded(String),
    /// A CDI spec that is none.
    #[error("CDI spec {0} cannot be read")]
    Torn(String),
    /// The plugin refused what it must do.
    #[error("{call} of claim {claim}: {error}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// Of which claim.
        claim: String,
        /// What the plugin says.
        error: String,
    },
    /// The plugin did what it must refuse.
    #[error("claim {0} was prepared although another one holds its GPU")]
    Admitted(String),
    /// GPUs are not set as claims want them.
    #[error("GPUs are set to {found:?}, and claims want {wanted:?}")]
    Set {
        /// What is set.
        found: Vec<String>,
        /// What must be.
        wanted: Vec<String>,
    },
    /// Something is left when all claims are unprepared and the plugin has ended.
    #[error("left behind: {0}")]
    Leaked(String),
    /// The process ended by itself.
    #[error("the plugin ended unasked; its last words:\n{0}")]
    Ended(String),
    /// Somebody wants it to end.
    #[error("interrupted")]
    Interrupted,
    /// Something took too long.
    #[error("{what}: not within {} s; the plugin's last words:\n{last_words}", .limit.as_secs())]
    Late {
        /// What.
        what: &'static str,
        /// How long was waited for it.
        limit: Duration,
        /// The end of the plugin's log.
        last_words: String,
    },
    /// The plugin asks the API server for something that the stand-in does not have.
    #[error("the stand-in for the API server does not serve {0}; teach it")]
    Unserved(String),
    /// A thread of the harness or a process that was not started.
    #[error("a thread ended before its process began")]
    Unstarted,
    /// A file of the harness.
    #[error("{attempt} {object}")]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// On what.
        object: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The process could not be traced.
    #[error("trace the plugin")]
    Trace(#[from] nix::Error),
    /// The filter of system calls.
    #[error("tell the kernel at which calls to stop")]
    Filter(#[from] seccompiler::BackendError),
    /// The simulated driver was not installed.
    #[error("install the simulated driver")]
    Driver(#[from] tessera_hw::InstallError),
    /// The simulated driver was not told.
    #[error("tell the simulated driver when to kill")]
    DriverState(#[from] tessera_hw::StateError),
    /// A socket cannot be named.
    #[error("name the plugin's sockets in {0}")]
    Sockets(PathBuf, #[source] tessera_proto::NameError),
}

impl Failure {
    pub(crate) fn io(
        attempt: &'static str,
        object: impl AsRef<OsStr>,
    ) -> impl FnOnce(io::Error) -> Self {
        let object = object.as_ref().to_string_lossy().into_owned();
        move |source| Self::Io {
            attempt,
            object,
            source,
        }
    }
}
