//! Carries out what a claim needs: makes the MIG devices that are not there, then the CDI spec.

use std::collections::BTreeSet;

use tessera_claim::Allocation;
use tessera_device::GpuUuid;
use tessera_device::mig::MigLayouts;
use tessera_prepare::ledger::{Admitted, Ledger, Unreadable};
use tessera_prepare::making::{after, make};
use tessera_prepare::plan::plan;
use tessera_prepare::record::{PreparedDevice, Record};
use tessera_prepare::refusal::Refusal;
use tessera_prepare::resolve::{ResolvedDevice, resolve};
use tessera_sharing::ConsumableShares;

use super::unowned::divisible;
use super::{ClaimError, Claims, Identity};
use crate::claim_reader::ClaimReader;
use crate::deadline::Deadline;
use crate::executor::{Node, begin, execute, give_up};
use crate::hardware::Hardware;
use crate::journal::Records;
use crate::locks::HeldGpus;

/// The locks of a claim's GPUs, and what was seen of these while they are held.
#[derive(Clone, Copy)]
pub(super) struct Locks<'l> {
    /// The locks.
    pub(super) held: &'l HeldGpus,
    /// The GPUs.
    pub(super) hardware: &'l Hardware,
    /// By when the claim must be answered for.
    pub(super) deadline: Deadline,
}

/// What the journal tells of all claims.
pub(super) struct Known<'r> {
    /// The records.
    pub(super) records: Vec<&'r Record>,
    /// The claims of which nothing tells what they hold.
    pub(super) unreadable: Vec<Unreadable>,
    /// How claims may share devices.
    pub(super) sharing: ConsumableShares,
}

impl Known<'_> {
    fn admit<'l, 'i>(
        &self,
        held: &'l HeldGpus,
        allocation: &Allocation,
        devices: Vec<ResolvedDevice<'i>>,
    ) -> Result<Admitted<'l, 'i, HeldGpus>, Refusal> {
        let records = self.records.iter().copied();
        Ledger::under(held, records, self.unreadable.clone())
            .sharing(self.sharing)
            .admit(&allocation.claim, devices)
    }
}

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// The devices of the allocation on this hardware.
    pub(super) fn resolve<'h>(
        &self,
        allocation: &Allocation,
        hardware: &'h Hardware,
    ) -> Result<Vec<ResolvedDevice<'h>>, Refusal> {
        let Identity {
            pool, mig_layouts, ..
        } = &self.identity;
        resolve(allocation, pool, &hardware.inventory, *mig_layouts)
    }

    /// The hardware with the MIG sides of these GPUs as they are at this moment, if we are the one who
    /// changes them: what the last look saw may be from before the last change.
    pub(super) async fn look_at(
        &self,
        gpus: &BTreeSet<GpuUuid>,
        hardware: &Hardware,
        deadline: Deadline,
    ) -> Result<Option<Hardware>, ClaimError> {
        if self.identity.mig_layouts == MigLayouts::Static {
            return Ok(None);
        }
        let divisible = divisible(hardware).intersection(gpus).cloned().collect();
        let mut looked_at = hardware.clone();
        for (gpu, mig) in self.node.mig_states(divisible, deadline).await? {
            let inventory = looked_at.inventory.with_mig(&gpu, mig);
            looked_at.inventory = inventory.map_err(|_| ClaimError::Defect)?;
        }
        Ok(Some(looked_at))
    }

    /// Prepares devices of which none is prepared yet.
    pub(super) async fn carry_out(
        &self,
        allocation: &Allocation,
        known: Known<'_>,
        under: Locks<'_>,
    ) -> Result<Vec<PreparedDevice>, ClaimError> {
        let Identity { cdi_kind, boot, .. } = &self.identity;
        let Locks {
            held,
            hardware,
            deadline,
        } = under;
        let (records, node) = (&self.records, &self.node);
        let devices = self.resolve(allocation, hardware)?;
        let admitted = known.admit(held, allocation, devices)?;
        let Some(making) = make(&admitted, cdi_kind, boot)? else {
            let plan = plan(&admitted, cdi_kind, &hardware.install, boot);
            return Ok(execute(plan, records, node, deadline).await?.devices);
        };
        drop(admitted);
        let (record, done) = begin(making, records, node, deadline).await?;
        let planned = after(&hardware.inventory, &done)
            .map_err(|_| ClaimError::Defect)
            .and_then(|inventory| {
                let hardware = Hardware {
                    inventory,
                    install: hardware.install.clone(),
                };
                let devices = self.resolve(allocation, &hardware)?;
                let admitted = known.admit(held, allocation, devices)?;
                Ok(plan(&admitted, cdi_kind, &hardware.install, boot))
            });
        match planned {
            Ok(plan) => {
                let plan = plan.after_making(record.made());
                Ok(execute(plan, records, node, deadline).await?.devices)
            }
            Err(error) => {
                give_up(&record, records, node, deadline).await;
                Err(error)
            }
        }
    }
}
