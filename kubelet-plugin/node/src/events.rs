//! Writes what users are told as events of their claims and pods.
//!
//! # Flow
//! Whoever has something to tell puts it into [`Notices`], which takes no time and never fails. One
//! task, the [`Teller`], takes it out again, asks the API which pods use the claim, and writes one
//! event for the claim and one for each pod.
//!
//! # Guarantees
//! No call of the kubelet waits for an event. What is to be told is kept in a queue of [`QUEUE`]
//! notices: while the API server is away the oldest go, and are counted. Writes keep within a
//! [`budget`], and the same reason about the same object is one event with a count.

pub mod board;
pub mod budget;

use std::iter;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tessera_claim::{ClaimRef, PodRef, users};
use tessera_prepare::notice::{Happening, Notice, Subject, notice};
use tessera_shell::logging::chain;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use self::board::{About, Board, PostError};
use self::budget::Budget;
use crate::claim_reader::{ClaimReader, ReadError};
use crate::deadline::Deadline;

/// Notices that are kept for the API server. One is about a kilobyte at most.
const QUEUE: usize = 64;

/// Pods of one claim that are told. A claim may have 256 users; to tell some of them is enough for
/// somebody who looks, and the claim has the event as well.
const PODS_TOLD: usize = 8;

/// Bound of one call to the API server.
const ATTEMPT: Duration = Duration::from_secs(5);

/// First pause after a call without success, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause between two calls.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is left to tell when the plugin ends gets so much time.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where everybody puts what is to be told.
///
/// The channel is a broadcast with one receiver: it is the one that drops the oldest, counts what
/// it drops, and never makes a sender wait.
#[derive(Clone, Debug)]
pub struct Notices(broadcast::Sender<Notice>);

/// Where the teller takes it.
#[derive(Debug)]
pub struct Inbox(broadcast::Receiver<Notice>);

impl Notices {
    /// An empty queue.
    pub fn open() -> (Self, Inbox) {
        let (sender, receiver) = broadcast::channel(QUEUE);
        (Self(sender), Inbox(receiver))
    }

    /// Says what happened. What is to be told of it is told later.
    pub fn tell(&self, happening: Happening<'_>) {
        if let Some(notice) = notice(happening) {
            debug!(reason = notice.reason, subject = ?notice.subject, "to be told");
            // Without a teller nobody is told; that is so at the very end and in tests.
            let _ = self.0.send(notice);
        }
    }
}

#[cfg(test)]
impl Inbox {
    /// The next notice, if there is one.
    pub(crate) fn waiting(&mut self) -> Option<Notice> {
        self.0.try_recv().ok()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fate {
    fate: &'static str,
}

/// Counts events.
#[derive(Clone, Debug, Default)]
pub struct EventMetrics(Family<Fate, Counter>);

impl EventMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tessera_events",
            "Events by what became of them: written, refused by the API server, or dropped because \
             too many waited",
            metrics.0.clone(),
        );
        metrics
    }

    fn count(&self, fate: &'static str, by: u64) {
        self.0.get_or_create(&Fate { fate }).inc_by(by);
    }
}

/// The task that writes events.
#[derive(Debug)]
pub struct Teller<A, B> {
    inbox: Inbox,
    claims: A,
    board: B,
    metrics: EventMetrics,
    budget: Budget,
    begun: Instant,
}

impl<A: ClaimReader, B: Board> Teller<A, B> {
    /// Will tell what comes into `inbox` on `board`, to the users that `claims` names.
    pub fn new(inbox: Inbox, claims: A, board: B, metrics: EventMetrics) -> Self {
        Self {
            inbox,
            claims,
            board,
            metrics,
            budget: Budget::full(),
            begun: Instant::now(),
        }
    }

    /// Starts the task. It ends once everybody who could tell something is gone.
    pub fn start(self) -> Telling {
        Telling(tokio::spawn(self.run()))
    }

    async fn run(mut self) {
        loop {
            match self.inbox.0.recv().await {
                Ok(notice) => self.tell(&notice).await,
                Err(broadcast::error::RecvError::Lagged(dropped)) => {
                    warn!(dropped, "too much to tell; the oldest is not told");
                    self.metrics.count("dropped", dropped);
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn tell(&mut self, notice: &Notice) {
        let abouts = match &notice.subject {
            Subject::Node => vec![About::Node],
            Subject::Claim(claim) => {
                let users = self.users(claim).await.into_iter().take(PODS_TOLD);
                let pods = users.map(|pod| About::Pod {
                    pod,
                    claim: claim.clone(),
                });
                iter::once(About::Claim(claim.clone()))
                    .chain(pods)
                    .collect()
            }
        };
        for about in abouts {
            self.post(&about, notice).await;
        }
    }

    /// The pods that use the claim now. There are none where the claim is gone or not ours to see.
    async fn users(&self, claim: &ClaimRef) -> Vec<PodRef> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.claims.read(claim, Deadline::after(ATTEMPT)).await {
                Ok(object) => return users(&object, claim),
                Err(ReadError::Unavailable { .. }) => {}
                Err(ReadError::NotFound { .. } | ReadError::Refused { .. }) => return Vec::new(),
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Writes one event, as often as it takes while the API server is away.
    async fn post(&mut self, about: &About, notice: &Notice) {
        while let Err(pause) = self.budget.take(self.begun.elapsed()) {
            sleep(pause).await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            let posted = Deadline::after(ATTEMPT).run(self.board.post(about, notice));
            match posted.await.unwrap_or(Err(PostError::Silent)) {
                Ok(()) => return self.metrics.count("written", 1),
                Err(PostError::Refused(error)) => {
                    let reason = notice.reason;
                    warn!(?about, reason, error = %chain(&error), "an event was refused");
                    return self.metrics.count("refused", 1);
                }
                Err(error) => debug!(error = %chain(&error), "writing the event again"),
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }
}

/// The running task.
#[derive(Debug)]
pub struct Telling(JoinHandle<()>);

impl Telling {
    /// Lets it tell what is left, for [`LAST_WORDS`] at most.
    pub async fn finish(self) {
        let Self(mut task) = self;
        match timeout(LAST_WORDS, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => warn!(error = %panic, "events ended by a defect of the plugin"),
            Err(_late) => {
                warn!("some events were not written");
                task.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests;
