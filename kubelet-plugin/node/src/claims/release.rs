//! Waits for a claim that is being let go.

use std::time::Duration;

use tessera_claim::{ClaimRef, still_allocates};
use tessera_device::{DeviceName, GpuUuid};
use tessera_prepare::refusal::Refusal;
use tessera_prepare::waiting::WaitingFor;
use tracing::info;

use super::{ClaimError, Claims, Identity};
use crate::claim_reader::{ClaimReader, ReadError};
use crate::deadline::Deadline;
use crate::executor::Node;
use crate::journal::Records;
use crate::metrics::Operation;
use crate::wait::Interrupted;

/// Time between two looks for a release by another process; one by this process is heard of.
const RELEASE_POLL: Duration = Duration::from_millis(100);

/// What keeps a claim from its device, as long as its holders are there.
struct Obstacle {
    claim: ClaimRef,
    device: DeviceName,
    gpu: GpuUuid,
    /// Any of them may make room: each with the device as which it holds the GPU.
    holders: Vec<(ClaimRef, DeviceName)>,
}

impl Obstacle {
    fn of(refusal: &Refusal) -> Option<Self> {
        let (claim, device, gpu, holders) = match refusal {
            Refusal::GpuHeld {
                claim,
                device,
                gpu,
                by,
                held_as,
            } => (claim, device, gpu, vec![(by.clone(), held_as.clone())]),
            Refusal::GpuOverdrawn {
                claim,
                device,
                gpu,
                held_by,
                ..
            } => (claim, device, gpu, held_by.clone()),
            Refusal::SettingConflict {
                claim,
                device,
                gpu,
                held_by,
                ..
            } => (claim, device, gpu, held_by.iter().cloned().collect()),
            _ => return None,
        };
        Some(Self {
            claim: claim.clone(),
            device: device.clone(),
            gpu: gpu.clone(),
            holders,
        })
    }
}

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// Waits for a claim that is being let go to be unprepared; refuses at once where it is not.
    ///
    /// The claim of a force-deleted pod is gone from the API, and its GPU given to the next pod,
    /// while the kubelet still ends the former one. To fail here would cost that next pod a minute:
    /// so long the kubelet waits before it calls again.
    pub(super) async fn await_release(
        &self,
        held: Refusal,
        deadline: Deadline,
    ) -> Result<(), ClaimError> {
        let Some(Obstacle {
            claim,
            device,
            gpu,
            holders,
        }) = Obstacle::of(&held)
        else {
            return Err(held.into());
        };
        let Some(by) = self.first_let_go(&claim, holders, deadline).await? else {
            return Err(held.into());
        };
        info!(holder = %by, %device, "waiting for the former claim to be unprepared");
        let describe = || WaitingFor::Predecessor {
            device: device.clone(),
            gpu: gpu.clone(),
            by: by.clone(),
        };
        let release = self.release_of(&by, deadline);
        let released = self
            .waits
            .during(Operation::prepare, &claim, describe, release)
            .await?;
        if released {
            return Ok(());
        }
        Err(Refusal::GpuBeingReleased {
            claim,
            device,
            gpu,
            by,
        }
        .into())
    }

    /// The first of the holders whose device the API does not allocate to it any more.
    async fn first_let_go(
        &self,
        claim: &ClaimRef,
        holders: Vec<(ClaimRef, DeviceName)>,
        deadline: Deadline,
    ) -> Result<Option<ClaimRef>, Interrupted> {
        for (holder, device) in holders {
            let still = self.is_still_allocated(claim, &holder, &device, deadline);
            if !still.await? {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }

    /// Waits until nothing is recorded of the claim; says whether that came in time.
    async fn release_of(&self, holder: &ClaimRef, deadline: Deadline) -> bool {
        let mut released = self.released.subscribe();
        while deadline.allows(RELEASE_POLL) {
            if matches!(self.trace(&holder.uid), Ok(None)) {
                return true;
            }
            // Another process may be the one that unprepares it, so that is not relied upon.
            let _ = deadline.at_most(RELEASE_POLL).run(released.changed()).await;
        }
        false
    }

    /// Whether the API still allocates the device to a claim that holds it here. While the API is
    /// away this waits; what is not known when the time is up counts as allocated.
    async fn is_still_allocated(
        &self,
        claim: &ClaimRef,
        holder: &ClaimRef,
        device: &DeviceName,
        deadline: Deadline,
    ) -> Result<bool, Interrupted> {
        let Identity { driver, pool, .. } = &self.identity;
        let read = self.api.read(holder, deadline);
        let read = self
            .waits
            .during(Operation::prepare, claim, || WaitingFor::Api, read)
            .await?;
        Ok(match read {
            Ok(object) => still_allocates(&object, holder, driver, pool, device),
            Err(ReadError::NotFound { .. }) => false,
            Err(_) => true,
        })
    }
}
