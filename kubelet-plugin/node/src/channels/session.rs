//! Asks whether the NVLink session of the node is ready: its session host, or nvidia-imex of the host.

mod hosted;
mod of_host;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::sleep;

pub use self::of_host::HostImex;
use crate::deadline::{Deadline, Passed};

/// Time between two attempts to hear of a session that is not ready.
const ATTEMPT: Duration = Duration::from_millis(250);

/// The session was not ready in time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the NVLink session of this node is not ready, and without it the channel is of no use: {why}; the kubelet \
     will call again"
)]
pub struct SessionNotReady {
    pub(crate) why: String,
}

/// Who runs the NVLink session of the node, and how it is asked.
#[derive(Clone, Debug)]
pub enum NodeSession {
    /// Nobody is asked: the session is taken for ready.
    Unasked,
    /// The session host, which says on this socket how it is.
    Hosted(PathBuf),
    /// Whoever administers the host.
    OfHost(HostImex),
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

impl NodeSession {
    /// Waits until the session is ready for a claim of these domains.
    pub(super) async fn ready(
        &self,
        domains: &[&str],
        heard: &Heard,
        deadline: Deadline,
    ) -> Result<(), SessionNotReady> {
        let until_ready = async {
            while !self.is_ready(domains, heard, deadline).await {
                sleep(ATTEMPT).await;
            }
        };
        let ready = deadline.run(until_ready).await;
        ready.map_err(|Passed| SessionNotReady { why: heard.now() })
    }

    /// Whether it is, as far as can be heard now; what is heard meanwhile is put into `heard`.
    async fn is_ready(&self, domains: &[&str], heard: &Heard, deadline: Deadline) -> bool {
        match self {
            Self::Unasked => true,
            Self::Hosted(socket) => hosted::is_told_ready(socket, domains, heard).await,
            Self::OfHost(imex) => imex.is_ready(heard, deadline).await,
        }
    }
}
