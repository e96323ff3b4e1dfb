//! What the daemon is asked, and what it said.
//!
//! Questions are asked by a program of the driver installation, beside the loop that owns the daemon: one at a time, each
//! with a limit.

use std::path::PathBuf;
use std::time::Duration;

use tessera_session::{DaemonState, Domain, Roster};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::programs::Programs;

/// Time between two questions to a daemon that is not ready yet.
const ASK_EAGERLY: Duration = Duration::from_millis(250);

/// Time between two questions to a daemon that is.
const ASK: Duration = Duration::from_secs(3);

/// Time between two questions to all daemons. Each node asks all others, so it is a longer one.
const ASK_ALL: Duration = Duration::from_secs(10);

/// How long a daemon may take over its peers before they are asked for again.
const SETTLE: Duration = Duration::from_secs(1);

/// What was printed.
#[derive(Debug)]
pub(crate) enum Answer {
    State(DaemonState),
    All(String),
}

/// The questions to one daemon. Times are since any fixed moment.
#[derive(Debug)]
pub(crate) struct Questions {
    said: DaemonState,
    /// Peers without a connection, at the last look.
    apart: Vec<u32>,
    asking: Option<JoinHandle<Option<Answer>>>,
    at: Duration,
    all_at: Duration,
}

impl Questions {
    pub(crate) fn new() -> Self {
        Self {
            said: DaemonState::Unavailable,
            apart: Vec::new(),
            asking: None,
            at: Duration::ZERO,
            all_at: Duration::ZERO,
        }
    }

    /// Begins anew: there is another daemon, or none.
    pub(crate) fn begin(&mut self, now: Duration) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
        *self = Self {
            at: now,
            all_at: self.all_at,
            ..Self::new()
        };
    }

    /// What it last said of itself.
    pub(crate) fn said(&self) -> &DaemonState {
        &self.said
    }

    /// The peers to which it had no connection when it was last asked for them.
    pub(crate) fn apart(&self) -> &[u32] {
        &self.apart
    }

    /// When the next is due; none while one is on its way.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.asking.is_none().then_some(self.at)
    }

    /// Puts the next off.
    pub(crate) fn put_off(&mut self, until: Duration) {
        self.at = until;
    }

    /// The daemon has been told to look its peers up again: what it says of them now is of before.
    pub(crate) fn peers_change(&mut self, now: Duration) {
        self.all_at = now + SETTLE;
    }

    /// Asks what is due now.
    pub(crate) fn ask(
        &mut self,
        programs: Programs,
        config: PathBuf,
        has_peers: bool,
        now: Duration,
    ) {
        let all = self.said == DaemonState::Ready && now >= self.all_at && has_peers;
        if all {
            self.all_at = now + ASK_ALL;
        }
        self.asking = Some(tokio::task::spawn_blocking(move || {
            let asked = if all {
                programs.ask_all(&config).map(Answer::All)
            } else {
                let said = programs.ask(&config);
                said.map(|printed| Answer::State(DaemonState::parse(&printed)))
            };
            asked
                .inspect_err(|error| warn!(%error, "nvidia-imex-ctl does not answer"))
                .ok()
        }));
    }

    /// Waits for the answer to the question that was asked; for ever where none was.
    pub(crate) async fn answered(&mut self) -> Option<Answer> {
        match &mut self.asking {
            Some(asking) => asking.await.ok().flatten(),
            None => std::future::pending().await,
        }
    }

    /// Takes an answer in. `roster`: the members that are to be in the session.
    pub(crate) fn hear(&mut self, answer: Option<Answer>, roster: Option<&Roster>, now: Duration) {
        self.asking = None;
        match (answer, roster) {
            (Some(Answer::All(printed)), Some(roster)) => {
                match Domain::parse(&printed, roster.own()) {
                    Ok(domain) => self.apart = domain.missing(roster.peers()),
                    Err(error) => warn!(%error, "it is not known which peers are connected"),
                }
            }
            (Some(Answer::All(_)), None) => {}
            (Some(Answer::State(state)), _) => self.said = state,
            (None, _) => self.said = DaemonState::Unavailable,
        }
        let has_peers = roster.is_some_and(Roster::has_peers);
        self.at = match self.said {
            DaemonState::Ready if has_peers => self.all_at.clamp(now, now + ASK),
            DaemonState::Ready => now + ASK,
            _ => now + ASK_EAGERLY,
        };
    }
}
