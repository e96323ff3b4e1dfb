//! Looks after claims that nobody asks about: compares journal, CDI directory and API, and repairs.

use std::collections::BTreeSet;
use std::time::Duration;

use tessera_prepare::cdi;
use tessera_prepare::ledger::Unreadable;
use tessera_prepare::notice::Happening;
use tessera_prepare::record::Record;
use tessera_prepare::step::Effect;
use tessera_prepare::upkeep::{Effects, Repair, repair};
use tessera_shell::logging::chain;
use tracing::{Instrument, info, warn};

use super::{ClaimError, Claims, Identity, LetGo, Locked, span};
use crate::claim_reader::ClaimReader;
use crate::deadline::Deadline;
use crate::executor::{Node, StepError, take_back_recorded};
use crate::hardware::Hardware;
use crate::journal::{Entry, Records};

/// Bound of the work on one claim. Nobody waits for it.
pub(super) const PER_CLAIM: Duration = Duration::from_secs(20);

/// How long a claim that has been let go is left to the kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace(pub Duration);

/// What was done about one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its effects were made anew.
    Restored,
    /// It was taken back.
    TakenBack,
    /// Its record was rebuilt from its copy or its CDI spec.
    Rebuilt,
    /// Its record cannot be read, and nothing tells which GPUs it holds.
    Unaccounted,
    /// A MIG device for which nobody accounts was destroyed.
    Destroyed,
    /// Something could not be done; the log says what.
    Failed,
}

/// What came of putting a record in the place of one that cannot be read.
enum Adoption {
    Done,
    /// Somebody else did, or will: a newer version can read it.
    NotNeeded,
    /// It is not known what it said.
    Impossible,
}

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// Looks at everything once and repairs what is not as it should be, each claim under the locks
    /// of its GPUs. Returns what was done.
    ///
    /// Without hardware, because there is no driver at present, claims that are gone are taken back
    /// and nothing is made anew: it would name files that are not there.
    pub async fn look_after(
        &self,
        let_go: &mut LetGo,
        grace: Grace,
        hardware: Option<&Hardware>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if let Some(hardware) = hardware {
            outcomes.extend(self.adopt_all(hardware).await);
        }
        let contents = match self.records.read_all() {
            Ok(contents) => contents,
            Err(error) => {
                outcomes.push(failed(&error.into()));
                return outcomes;
            }
        };
        let_go.keep_only(|claim| contents.records.iter().any(|r| r.claim.uid == *claim));
        for record in &contents.records {
            let done = self
                .look_after_one(record, let_go, grace, hardware)
                .instrument(span(&record.claim))
                .await;
            outcomes.extend(done.unwrap_or_else(|error| Some(failed(&error))));
        }
        if let Some(hardware) = hardware {
            let destroyed = self.look_after_mig(let_go, grace, hardware).await;
            outcomes.extend(destroyed.unwrap_or_else(|error| vec![failed(&error)]));
        }
        outcomes
    }

    async fn adopt_all(&self, hardware: &Hardware) -> Vec<Outcome> {
        let traces = match self.traces() {
            Ok(traces) => traces,
            Err(error) => return vec![failed(&error)],
        };
        let mut outcomes = Vec::new();
        for unreadable in &traces.unreadable {
            outcomes.extend(self.adopt(unreadable, hardware).await);
        }
        outcomes
    }

    /// Puts a record in the place of one that is damaged or lost, if anything tells what it said.
    async fn adopt(&self, unreadable: &Unreadable, hardware: &Hardware) -> Option<Outcome> {
        let claim = &unreadable.claim;
        let problem = &unreadable.problem;
        match self.try_to_adopt(unreadable, hardware).await {
            Ok(Adoption::NotNeeded) => None,
            Ok(Adoption::Done) => {
                warn!(claimUID = %claim, problem, "the record was damaged or lost; rebuilt");
                Some(Outcome::Rebuilt)
            }
            Ok(Adoption::Impossible) => {
                warn!(
                    claimUID = %claim,
                    problem,
                    files = ?self.spec_names(claim),
                    "no GPU is given to a new claim, because the record of this one cannot be \
                     read and neither its copy nor its CDI spec tells which GPUs it holds; that \
                     passes once its pod has ended"
                );
                Some(Outcome::Unaccounted)
            }
            Err(error) => Some(failed(&error)),
        }
    }

    async fn try_to_adopt(
        &self,
        unreadable: &Unreadable,
        hardware: &Hardware,
    ) -> Result<Adoption, ClaimError> {
        let Some(record) = self.accounted(unreadable, hardware) else {
            return Ok(Adoption::Impossible);
        };
        if !unreadable.flaw.is_damage() {
            return Ok(Adoption::NotNeeded);
        }
        let gpus = record.devices.iter().map(|device| device.gpu.clone());
        let deadline = Deadline::after(PER_CLAIM);
        let _held = self.lock(&record.claim, gpus.collect(), deadline).await?;
        // A Prepare or Unprepare may have been faster.
        match self.trace(&unreadable.claim)? {
            Some(Entry::Unreadable(now)) if now == *unreadable => {
                self.records.set_aside(unreadable, Some(&record))?;
                let claim = &record.claim;
                self.waits.notices().tell(Happening::Rebuilt { claim });
                Ok(Adoption::Done)
            }
            _ => Ok(Adoption::NotNeeded),
        }
    }

    async fn look_after_one(
        &self,
        record: &Record,
        let_go: &mut LetGo,
        grace: Grace,
        hardware: Option<&Hardware>,
    ) -> Result<Option<Outcome>, ClaimError> {
        let Identity { driver, boot, .. } = &self.identity;
        let devices = record
            .devices
            .iter()
            .map(|held| (&*held.pool, &held.device));
        let reading = Deadline::after(PER_CLAIM);
        let api = let_go
            .view(&self.api, driver, &record.claim, devices, reading)
            .await;
        let effects = self.effects(record, hardware)?;
        if repair(record, boot, api, effects, grace.0) == Repair::Nothing {
            return Ok(None);
        }
        let claim = &record.claim;
        let deadline = Deadline::after(PER_CLAIM);
        let Locked { held: _held, entry } = self.lock(claim, BTreeSet::new(), deadline).await?;
        // What was seen without the locks may have been in the middle of something.
        let Some(Entry::Record(record)) = entry else {
            return Ok(None);
        };
        let effects = self.effects(&record, hardware)?;
        match repair(&record, boot, api, effects, grace.0) {
            Repair::Nothing => Ok(None),
            Repair::Restore => {
                let Some(hardware) = hardware else {
                    return Ok(None);
                };
                self.restore(&record, hardware, deadline).await?;
                let version = &hardware.inventory.driver().version;
                match effects {
                    Effects::Outdated => info!(
                        driver_version = %version,
                        "the prepared claim's CDI spec named files of another driver; made anew"
                    ),
                    Effects::Good | Effects::Damaged => {
                        warn!("an effect of the prepared claim was missing or altered; made anew");
                        self.waits.notices().tell(Happening::Restored { claim });
                    }
                }
                Ok(Some(Outcome::Restored))
            }
            Repair::TakeBack => {
                let taken_back =
                    take_back_recorded(&record, &self.records, &self.node, deadline).await;
                let taken_back = taken_back.map_err(ClaimError::from);
                self.busy.learn(&claim.uid, &taken_back);
                taken_back?;
                self.released.send_replace(());
                info!("the claim is gone and was never unprepared; taken back");
                self.waits.notices().tell(Happening::TakenBack { claim });
                Ok(Some(Outcome::TakenBack))
            }
        }
    }

    fn effects(&self, record: &Record, hardware: Option<&Hardware>) -> Result<Effects, StepError> {
        if !self.intact(record)? {
            return Ok(Effects::Damaged);
        }
        let Some(hardware) = hardware else {
            return Ok(Effects::Good);
        };
        for effect in &record.effects {
            let Effect::CdiFile { file, .. } = effect else {
                continue;
            };
            let spec = self.node.spec(file)?;
            if spec.is_some_and(|spec| !cdi::is_current(&spec, &hardware.install)) {
                return Ok(Effects::Outdated);
            }
        }
        Ok(Effects::Good)
    }
}

/// Logs a repair that was not done.
pub(crate) fn failed(error: &ClaimError) -> Outcome {
    warn!(error = %chain(error), reason = error.label(), "a repair was not done");
    Outcome::Failed
}
