//! Looks after claims for channels that nobody asks about: compares journal, CDI directory and API, and
//! repairs.

use std::time::Duration;

use tessera_prepare::channel::{ChannelRecord, PreparedChannel, UnreadableChannel};
use tessera_prepare::notice::Happening;
use tessera_prepare::upkeep::{Effects, Repair, repair};
use tracing::{Instrument, info, warn};

use super::{ChannelClaims, DomainReader, Entry, Kernel};
use crate::claim_reader::ClaimReader;
use crate::claims::{ClaimError, Grace, LetGo, Outcome, failed, span};
use crate::deadline::Deadline;
use crate::executor::{Node, StepError, take_back_recorded};
use crate::journal::Records;

/// Bound of the work on one claim. Nobody waits for it.
const PER_CLAIM: Duration = Duration::from_secs(20);

impl<A, D, R, N, K> ChannelClaims<A, D, R, N, K>
where
    A: ClaimReader,
    D: DomainReader,
    R: Records<PreparedChannel>,
    N: Node,
    K: Kernel,
{
    /// Looks at everything once and repairs what is not as it should be, each claim under the lock.
    /// Returns what was done.
    pub async fn look_after(&self, let_go: &mut LetGo, grace: Grace) -> Vec<Outcome> {
        let mut outcomes = self.adopt_all().await;
        let contents = match self.ports.records.read_all() {
            Ok(contents) => contents,
            Err(error) => {
                outcomes.push(failed(&error.into()));
                return outcomes;
            }
        };
        let_go.keep_only(|claim| contents.records.iter().any(|r| r.claim.uid == *claim));
        for record in &contents.records {
            let done = self
                .look_after_one(record, let_go, grace)
                .instrument(span(&record.claim))
                .await;
            outcomes.extend(done.unwrap_or_else(|error| Some(failed(&error))));
        }
        outcomes
    }

    async fn adopt_all(&self) -> Vec<Outcome> {
        let traces = match self.traces() {
            Ok(traces) => traces,
            Err(error) => return vec![failed(&error)],
        };
        let mut outcomes = Vec::new();
        for unreadable in &traces.unreadable {
            let adopted = self.adopt(unreadable).await;
            outcomes.extend(adopted.unwrap_or_else(|error| Some(failed(&error))));
        }
        outcomes
    }

    /// Puts a record in the place of one that is damaged or lost, if anything tells what it said.
    async fn adopt(&self, unreadable: &UnreadableChannel) -> Result<Option<Outcome>, ClaimError> {
        let (claim, problem) = (&unreadable.claim, &unreadable.problem);
        let Some(record) = self.accounted(unreadable) else {
            warn!(
                claimUID = %claim,
                problem,
                file = self.spec_file(claim),
                "no channel is given to a new claim, because the record of this one cannot be read and \
                 neither its copy nor its CDI spec tells which it holds; that passes once its pod has \
                 ended"
            );
            return Ok(Some(Outcome::Unaccounted));
        };
        if !unreadable.flaw.is_damage() {
            return Ok(None);
        }
        let deadline = Deadline::after(PER_CLAIM);
        let _held = self.ports.lock.take(deadline).await?;
        // A Prepare or Unprepare may have been faster.
        match self.trace(claim)? {
            Some(Entry::Unreadable(now)) if now == *unreadable => {
                self.ports.records.set_aside(unreadable, Some(&record))?;
                let claim = &record.claim;
                self.tell(Happening::Rebuilt { claim });
                warn!(claimUID = %claim.uid, problem, "the record was damaged or lost; rebuilt");
                Ok(Some(Outcome::Rebuilt))
            }
            _ => Ok(None),
        }
    }

    async fn look_after_one(
        &self,
        record: &ChannelRecord,
        let_go: &mut LetGo,
        grace: Grace,
    ) -> Result<Option<Outcome>, ClaimError> {
        let (driver, boot) = (&self.identity.driver, &self.identity.boot);
        let devices = record
            .devices
            .iter()
            .map(|held| (&*held.pool, &held.device));
        let reading = Deadline::after(PER_CLAIM);
        let api = let_go
            .view(&self.ports.claims, driver, &record.claim, devices, reading)
            .await;
        if repair(record, boot, api, self.effects(record)?, grace.0) == Repair::Nothing {
            return Ok(None);
        }
        let claim = &record.claim;
        let deadline = Deadline::after(PER_CLAIM);
        let _held = self.ports.lock.take(deadline).await?;
        // What was seen without the lock may have been in the middle of something.
        let Some(Entry::Record(record)) = self.ports.records.read(&claim.uid)? else {
            return Ok(None);
        };
        let effects = self.effects(&record)?;
        match repair(&record, boot, api, effects, grace.0) {
            Repair::Nothing => Ok(None),
            Repair::Restore => {
                self.restore(&record, deadline).await?;
                if effects == Effects::Damaged {
                    warn!("the spec of the prepared claim was missing or altered; made anew");
                    self.tell(Happening::Restored { claim });
                } else {
                    info!("the spec of the prepared claim had former numbers; made anew");
                }
                Ok(Some(Outcome::Restored))
            }
            Repair::TakeBack => {
                let (records, node) = (&self.ports.records, &self.ports.node);
                take_back_recorded(&record, records, node, deadline).await?;
                self.ring();
                info!("the claim is gone and was never unprepared; taken back");
                self.tell(Happening::TakenBack { claim });
                Ok(Some(Outcome::TakenBack))
            }
        }
    }

    fn effects(&self, record: &ChannelRecord) -> Result<Effects, StepError> {
        Ok(if !self.intact(record)? {
            Effects::Damaged
        } else if self.is_current(record)? {
            Effects::Good
        } else {
            Effects::Outdated
        })
    }

    fn tell(&self, happening: Happening<'_>) {
        self.ports.waits.notices().tell(happening);
    }
}
