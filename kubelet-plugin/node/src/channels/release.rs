//! Waits for a claim of another domain that is being let go.

use std::time::Duration;

use tessera_claim::{ClaimRef, still_allocates};
use tessera_device::DeviceName;
use tessera_prepare::channel::{ChannelRefusal, PreparedChannel};
use tessera_prepare::refusal::Refusal;
use tessera_prepare::waiting::WaitingFor;
use tracing::info;

use super::{ChannelClaims, DomainReader, Kernel};
use crate::claim_reader::{ClaimReader, ReadError};
use crate::claims::ClaimError;
use crate::deadline::Deadline;
use crate::executor::Node;
use crate::journal::{EntryOf, Records};
use crate::metrics::Operation;

/// Time between two looks for a release by another process; one by this process is heard of.
const RELEASE_POLL: Duration = Duration::from_millis(100);

impl<A, D, R, N, K> ChannelClaims<A, D, R, N, K>
where
    A: ClaimReader,
    D: DomainReader,
    R: Records<PreparedChannel>,
    N: Node,
    K: Kernel,
{
    /// Waits for the holder to be unprepared if the API has let it go; refuses at once where it has not.
    pub(super) async fn await_release(
        &self,
        held: ChannelRefusal,
        deadline: Deadline,
    ) -> Result<(), ClaimError> {
        let ChannelRefusal::Held {
            claim,
            device,
            channels,
            by,
            ..
        } = &held
        else {
            return Err(Refusal::from(held).into());
        };
        let former = self.devices_of(by)?;
        if self
            .is_still_allocated(claim, by, &former, deadline)
            .await?
        {
            return Err(Refusal::from(held).into());
        }
        info!(holder = %by, %channels, "waiting for the former claim to be unprepared");
        let former = former.into_iter().next().map(|(_, device)| device);
        let describe = || WaitingFor::ChannelHolder {
            device: former.clone().unwrap_or_else(|| device.clone()),
            by: by.clone(),
        };
        let released = self.ports.waits.during(
            Operation::prepare,
            claim,
            describe,
            self.release_of(by, deadline),
        );
        if released.await? {
            return Ok(());
        }
        Err(Refusal::from(ChannelRefusal::BeingReleased {
            claim: claim.clone(),
            device: device.clone(),
            channels: *channels,
            by: by.clone(),
        })
        .into())
    }

    /// The pools and devices that a claim holds here.
    fn devices_of(&self, holder: &ClaimRef) -> Result<Vec<(String, DeviceName)>, ClaimError> {
        let entry = self.trace(&holder.uid)?;
        let record = entry.as_ref().and_then(EntryOf::record);
        let devices = record.into_iter().flat_map(|record| &record.devices);
        let named = |held: &PreparedChannel| (held.pool.clone(), held.device.clone());
        Ok(devices.map(named).collect())
    }

    /// Waits until nothing is recorded of the claim; says whether that came in time.
    async fn release_of(&self, holder: &ClaimRef, deadline: Deadline) -> bool {
        let mut released = self.changes();
        while deadline.allows(RELEASE_POLL) {
            if matches!(self.trace(&holder.uid), Ok(None)) {
                return true;
            }
            // Another process may be the one that unprepares it, so that is not relied upon.
            let _ = deadline.at_most(RELEASE_POLL).run(released.changed()).await;
        }
        false
    }

    /// Whether the API still allocates any of these devices to the claim that holds them here. What is
    /// not known when the time is up counts as allocated.
    async fn is_still_allocated(
        &self,
        claim: &ClaimRef,
        holder: &ClaimRef,
        devices: &[(String, DeviceName)],
        deadline: Deadline,
    ) -> Result<bool, ClaimError> {
        let read = self.ports.claims.read(holder, deadline);
        let waits = &self.ports.waits;
        let read = waits.during(Operation::prepare, claim, || WaitingFor::Api, read);
        Ok(match read.await? {
            Ok(object) => devices.iter().any(|(pool, device)| {
                still_allocates(&object, holder, &self.identity.driver, pool, device)
            }),
            Err(ReadError::NotFound { .. }) => false,
            Err(_) => true,
        })
    }
}
