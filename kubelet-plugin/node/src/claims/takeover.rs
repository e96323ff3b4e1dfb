//! Makes records of the claims that the reference driver has prepared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tessera_claim::ClaimUid;
use tessera_prepare::cdi;
use tessera_prepare::checkpoint::Checkpoint;
use tessera_prepare::record::Record;
use tessera_prepare::step::Step;
use tessera_prepare::takeover::{Fate, Successor, Taken, Takeover};
use tessera_prepare::upkeep::FoundSpec;
use tracing::{info, warn};

use super::{ClaimError, Claims, Identity, Locked};
use crate::claim_reader::ClaimReader;
use crate::deadline::Deadline;
use crate::executor::{Node, StepError};
use crate::hardware::Hardware;
use crate::journal::{Entry, Records};

/// How long the NVIDIA driver may take to tell where MIG devices lie. Nothing of them that runs runs
/// without it, so it is there as a rule; a claim of which it does not tell has its whole GPU.
const LOOK: Duration = Duration::from_secs(10);

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// Takes over what the checkpoint tells, and removes specs that belong to no claim.
    ///
    /// What is interrupted is done again in full by the next attempt, so the checkpoint may be put away
    /// only afterwards; and nobody may have unprepared anything meanwhile, so the kubelet may be served
    /// only after that.
    pub async fn take_over(
        &self,
        checkpoint: &Checkpoint,
        patience: Duration,
    ) -> Result<Takeover, ClaimError> {
        let Identity {
            driver,
            cdi_kind,
            boot,
            ..
        } = &self.identity;
        let recorded = self.records.read_all()?;
        let is_recorded = |claim: &ClaimUid| {
            recorded.records.iter().any(|r| r.claim.uid == *claim)
                || recorded.unreadable.iter().any(|u| u.claim == *claim)
        };
        let hardware = self.shown(checkpoint).await;
        let successor = Successor {
            driver,
            kind: cdi_kind,
            boot,
            inventory: hardware.as_ref().map(|hardware| &hardware.inventory),
        };
        let takeover = successor.take_over(checkpoint, &self.reference_specs()?, is_recorded);
        let deadline = Deadline::after(patience);
        for taken in &takeover.claims {
            self.take(taken, deadline).await?;
        }
        for file in &takeover.stale_specs {
            info!(
                file,
                "removing a CDI spec of the reference driver that belongs to no claim"
            );
            let file = file.clone();
            let step = Step::RemoveCdi { file };
            self.node.apply(&step, deadline).await?;
        }
        Ok(takeover)
    }

    /// The hardware, where somebody has a part of it.
    async fn shown(&self, checkpoint: &Checkpoint) -> Option<Arc<Hardware>> {
        if !checkpoint.has_mig() {
            return None;
        }
        let ready = self.hardware.ready(Deadline::after(LOOK)).await;
        ready
            .inspect_err(|why| {
                warn!("claims of MIG devices are taken over with their whole GPUs: {why}");
            })
            .ok()
    }

    async fn take(&self, taken: &Taken, deadline: Deadline) -> Result<(), ClaimError> {
        let Taken { uid, fate } = taken;
        match fate {
            Fate::TakenOver(_) | Fate::Begun(_) => info!(claimUID = uid, "{fate}"),
            Fate::Held(_) | Fate::Unaccounted { .. } | Fate::Impossible => {
                warn!(claimUID = uid, "a claim of the reference driver: {fate}");
            }
        }
        if let Some(record) = fate.record() {
            self.adopt_record(record, deadline).await?;
        }
        if let Fate::Unaccounted { claim, why } = fate
            && self.records.read(claim)?.is_none()
        {
            self.records.mark(claim, why)?;
        }
        Ok(())
    }

    /// Writes the record, unless the claim has one of its own. It is written even where it is there:
    /// its copy may be missing.
    async fn adopt_record(&self, record: &Record, deadline: Deadline) -> Result<(), ClaimError> {
        let gpus: BTreeSet<_> = record
            .devices
            .iter()
            .map(|device| device.gpu.clone())
            .collect();
        let Locked { held: _held, entry } = self.lock(&record.claim, gpus, deadline).await?;
        match entry {
            None => {}
            Some(Entry::Record(found)) if found == *record => {}
            Some(_) => {
                let claim = record.claim.uid.as_str();
                warn!(
                    claimUID = claim,
                    "the journal has this claim already, and is believed"
                );
                return Ok(());
            }
        }
        Ok(self.records.write(record)?)
    }

    /// The specs that the reference driver left, by claim.
    fn reference_specs(&self) -> Result<BTreeMap<ClaimUid, FoundSpec>, StepError> {
        let kind = &self.identity.cdi_kind;
        let mut specs = BTreeMap::new();
        for file in self.node.spec_files()? {
            let claim = cdi::claim_of_file(kind, &file);
            let Some(claim) = claim.filter(|uid| cdi::reference_file_name(kind, uid) == file)
            else {
                continue;
            };
            if let Some(contents) = self.node.spec(&file)? {
                specs.insert(claim, FoundSpec { file, contents });
            }
        }
        Ok(specs)
    }
}
