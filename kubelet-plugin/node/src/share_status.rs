//! Tells in the claims of shares how these fare.
//!
//! # Flow
//! Round by round ([`ShareStatuses::round`]): the shares of prepared claims are read from the journal, what their
//! containers have and may have from the driver. What a claim is to say of that, whether that is worth a write and which
//! claims are written first is decided by [`tessera_sharing`]. A claim is read before it is written for the first time,
//! so that a process that begins writes nothing that is said already.
//!
//! # Guarantees
//! Only entries of this driver's shares on this node are applied, and only to the object whose record the node has.
//! Of the processes of a driver on a node one writes at a time. While the API server is away one claim is tried each
//! round, and rounds become rarer; what was not written meanwhile is not kept: the next write says what is so then.

mod board;
mod prepared;
mod sight;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::AllocatedDeviceStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tessera_claim::ClaimUid;
use tessera_device::GpuUuid;
use tessera_sharing::{Behind, Candidate, Past, ShareStatus, Tier, behind, chosen, entry};
use tessera_shell::logging::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::board::{KubeStatuses, StatusBoard, StatusError};
use self::prepared::{PreparedClaim, PreparedShare, prepared};
pub use self::sight::Sight;
use self::sight::{CardSight, Seen};
use crate::deadline::Deadline;
use crate::journal::{Journal, JournalError, Records};
use crate::memory_limits::{LimitOperations, OpenDriver, promised_by};
use crate::publisher::Turns;
use crate::publisher::pace::Pace;

/// Time between two rounds. Who needs to know sooner has the metrics of the agent.
const INTERVAL: Duration = Duration::from_secs(15);

/// Bound of one call to the API server.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long a claim is left alone whose status the API server has refused, and all of them where the plugin lacks the
/// right to write any.
const REST: Duration = Duration::from_mins(30);
const REST_OF_ALL: Duration = Duration::from_mins(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    fate: &'static str,
}

/// Counts writes.
#[derive(Clone, Debug, Default)]
pub struct StatusMetrics(Family<Labels, Counter>);

impl StatusMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tessera_share_status_writes",
            "Writes of the status of claims with shares, by what became of them: written; refused by the API server; failed \
             because it did not answer; or gone, with their claim",
            metrics.0.clone(),
        );
        metrics
    }

    fn count(&self, fate: &'static str) {
        self.0.get_or_create(&Labels { fate }).inc();
    }
}

/// When something is done, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// What people call the time.
    pub time: Timestamp,
    /// What pauses are measured by.
    pub instant: Instant,
}

impl Moment {
    fn now() -> Self {
        Self {
            time: Timestamp::now(),
            instant: Instant::now(),
        }
    }
}

/// What is known of a claim and of what it says.
#[derive(Debug, Default)]
struct Told {
    /// What it says of our shares. `None`: it was not read yet.
    entries: Option<Vec<AllocatedDeviceStatus>>,
    /// What former looks left, by share.
    past: BTreeMap<String, Past>,
    /// When this process wrote it.
    written: Option<Instant>,
    /// Until when it is left alone.
    rests: Option<Instant>,
    /// Another object has its name, or none.
    is_gone: bool,
}

/// The claims with shares of one driver on one node.
pub struct ShareStatuses<O, B> {
    driver: &'static str,
    journal: Journal,
    sight: Sight<O>,
    board: B,
    metrics: StatusMetrics,
    claims: BTreeMap<ClaimUid, Told>,
    pace: Pace,
    is_kept: bool,
}

impl<O: LimitOperations, B: StatusBoard> ShareStatuses<O, B> {
    /// Of the claims in this journal.
    pub fn new(
        driver: &'static str,
        journal: Journal,
        sight: Sight<O>,
        board: B,
        metrics: StatusMetrics,
    ) -> Self {
        Self {
            driver,
            journal,
            sight,
            board,
            metrics,
            claims: BTreeMap::new(),
            pace: Pace::new(),
            is_kept: true,
        }
    }

    /// Looks at all shares at the moment `at`, and writes what is due. Returns the pause that is to follow.
    pub async fn round(&mut self, at: Moment) -> Result<Duration, JournalError> {
        let contents = self.journal.read_all()?;
        let claims = prepared(&contents, self.driver);
        self.claims.retain(|uid, _| claims.contains_key(uid));
        if claims.is_empty() || !self.is_kept {
            return Ok(INTERVAL);
        }
        let cards = self.sight.look(&promised_by(&contents)).await;
        for uid in self.due(&claims, &cards, at) {
            let claim = &claims[&uid];
            let Err(error) = self.write(claim, &cards, at).await else {
                self.pace.clear();
                continue;
            };
            if let Some(pause) = self.failed(claim, &error, at) {
                return Ok(pause);
            }
        }
        Ok(INTERVAL)
    }

    /// The claims to write now.
    fn due(
        &mut self,
        claims: &BTreeMap<ClaimUid, PreparedClaim>,
        cards: &BTreeMap<GpuUuid, CardSight>,
        at: Moment,
    ) -> Vec<ClaimUid> {
        let mut candidates = Vec::new();
        for (uid, claim) in claims {
            let told = self.claims.entry(uid.clone()).or_default();
            if told.is_gone || told.rests.is_some_and(|until| at.instant < until) {
                continue;
            }
            let behind = match told.entries {
                // What it says has to be known before anything is concluded from a look.
                None => Behind::Conditions,
                Some(_) => told.behind(claim, cards, at.time),
            };
            candidates.push(Candidate {
                claim: uid.clone(),
                behind,
                since: told.written.map(|written| at.instant - written),
            });
        }
        chosen(candidates)
    }

    /// Writes one claim, if it is behind once it was read.
    async fn write(
        &mut self,
        claim: &PreparedClaim,
        cards: &BTreeMap<GpuUuid, CardSight>,
        at: Moment,
    ) -> Result<(), StatusError> {
        let Some(told) = self.claims.get_mut(&claim.claim.uid) else {
            return Ok(());
        };
        if told.entries.is_none() {
            let read = self.board.read(&claim.claim);
            let read = Deadline::after(ATTEMPT).run(read).await;
            told.take(claim, read.unwrap_or(Err(StatusError::silent()))?);
        }
        let Some(entries) = told.look(claim, cards, at.time) else {
            return Ok(());
        };
        if told.compare(claim, &entries) == Behind::Not {
            return Ok(());
        }
        let applied = self.board.apply(&claim.claim, &entries);
        let applied = Deadline::after(ATTEMPT).run(applied).await;
        applied.unwrap_or(Err(StatusError::silent()))?;
        self.metrics.count("written");
        told.written = Some(at.instant);
        told.entries = Some(entries);
        Ok(())
    }

    /// Takes in that a claim was not written. Returns the pause before any other is tried, if none is to be now.
    fn failed(
        &mut self,
        claim: &PreparedClaim,
        error: &StatusError,
        at: Moment,
    ) -> Option<Duration> {
        let told = self.claims.get_mut(&claim.claim.uid)?;
        let fate = match error {
            StatusError::Unavailable(_) => "failed",
            StatusError::Gone => "gone",
            StatusError::Forbidden(_) | StatusError::Refused(_) | StatusError::NotKept => "refused",
        };
        self.metrics.count(fate);
        let reason = chain(error).to_string();
        match error {
            StatusError::Unavailable(_) => {
                debug!(claim = %claim.claim, error = reason, "the status of a claim is not written yet");
                return Some(INTERVAL.max(self.pace.strike(at.instant)));
            }
            StatusError::Gone => told.is_gone = true,
            StatusError::Refused(_) => {
                told.entries = None;
                told.rests = Some(at.instant + REST);
                warn!(claim = %claim.claim, error = reason, "the status of a claim is not written");
            }
            StatusError::Forbidden(_) => {
                warn!(error = reason, "the status of claims is not written");
                return Some(REST_OF_ALL);
            }
            StatusError::NotKept => {
                warn!(error = reason, "the status of claims is not written");
                self.is_kept = false;
                return Some(INTERVAL);
            }
        }
        None
    }
}

impl Told {
    /// Takes in what a claim says that was not known before.
    fn take(&mut self, claim: &PreparedClaim, entries: Vec<AllocatedDeviceStatus>) {
        for share in &claim.shares {
            let Some(told) = share.place.find(&entries).map(Past::told) else {
                continue;
            };
            let past = self.past.entry(share.name.clone());
            past.and_modify(|past| *past = past.after(told))
                .or_insert(told);
        }
        self.entries = Some(entries);
    }

    /// What the claim is to say. `None` while that is not known of one of its shares.
    fn look(
        &mut self,
        claim: &PreparedClaim,
        cards: &BTreeMap<GpuUuid, CardSight>,
        now: Timestamp,
    ) -> Option<Vec<AllocatedDeviceStatus>> {
        let entries = claim.shares.iter().map(|share| {
            let status = self.status(share, cards)?;
            let before = share
                .place
                .find(self.entries.as_deref().unwrap_or_default());
            Some(entry(&share.place, &status, before, now))
        });
        entries.collect()
    }

    fn status(
        &mut self,
        share: &PreparedShare,
        cards: &BTreeMap<GpuUuid, CardSight>,
    ) -> Option<ShareStatus> {
        if share.tier == Tier::None {
            return Some(ShareStatus::unheld(share.guarantee));
        }
        let seen = match cards.get(&share.gpu)?.of(&share.name) {
            Seen::Unknown => return None,
            Seen::NoContainer => None,
            Seen::Container(state) => Some(state),
        };
        let past = self.past.entry(share.name.clone()).or_default();
        let status = ShareStatus::held(share.tier, share.guarantee, seen, *past);
        *past = status.past();
        Some(status)
    }

    /// How far what the claim says is behind.
    fn behind(
        &mut self,
        claim: &PreparedClaim,
        cards: &BTreeMap<GpuUuid, CardSight>,
        now: Timestamp,
    ) -> Behind {
        let entries = self.look(claim, cards, now);
        entries.map_or(Behind::Not, |entries| self.compare(claim, &entries))
    }

    fn compare(&self, claim: &PreparedClaim, entries: &[AllocatedDeviceStatus]) -> Behind {
        let told = self.entries.as_deref().unwrap_or_default();
        let shares = claim.shares.iter().zip(entries);
        let each = shares.map(|(share, now)| behind(share.place.find(told), now));
        each.max().unwrap_or(Behind::Not)
    }
}

/// Tells until `stop`. `driver` is let go after each round.
pub async fn run<B: StatusBoard>(
    mut statuses: ShareStatuses<OpenDriver, B>,
    driver: Arc<OpenDriver>,
    turns: Turns,
    stop: CancellationToken,
) {
    let telling = async {
        let _turn = turns.next().await;
        info!("the status of claims with shares is written by this process");
        let mut problem = None;
        loop {
            let done = statuses.round(Moment::now()).await;
            driver.close();
            let pause = done.unwrap_or_else(|error| {
                let error = chain(&error).to_string();
                if problem.as_ref() != Some(&error) {
                    warn!(error, "it is not known which claims have shares");
                    problem = Some(error);
                }
                INTERVAL
            });
            tokio::time::sleep(pause).await;
        }
    };
    stop.run_until_cancelled(telling).await;
}

#[cfg(test)]
mod tests;
