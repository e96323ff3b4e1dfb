//! Waits for a claim that is being let go.

use std::time::Duration;

use tessera_claim::{ClaimRef, still_allocates};
use tessera_device::DeviceName;
use tessera_prepare::refusal::Refusal;
use tracing::info;

use super::{Claims, Identity};
use crate::claim_reader::{ClaimReader, ReadError};
use crate::deadline::Deadline;
use crate::executor::Node;
use crate::journal::Records;

/// Time between two looks for a release by another process; one by this process is heard of.
const RELEASE_POLL: Duration = Duration::from_millis(100);

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
    ) -> Result<(), Refusal> {
        let Refusal::GpuHeld {
            claim,
            device,
            gpu,
            by,
        } = held
        else {
            return Err(held);
        };
        if self.is_still_allocated(&by, &device, deadline).await {
            return Err(Refusal::GpuHeld {
                claim,
                device,
                gpu,
                by,
            });
        }
        info!(holder = %by, %device, "waiting for the former claim to be unprepared");
        let mut released = self.released.subscribe();
        while deadline.allows(RELEASE_POLL) {
            if matches!(self.records.read(&by.uid), Ok(None)) {
                return Ok(());
            }
            // Another process may be the one that unprepares it, so that is not relied upon.
            let _ = deadline.at_most(RELEASE_POLL).run(released.changed()).await;
        }
        Err(Refusal::GpuBeingReleased {
            claim,
            device,
            gpu,
            by,
        })
    }

    /// Whether the API still allocates the device to a claim that holds it here. While the API is
    /// away this waits; what is not known when the time is up counts as allocated.
    async fn is_still_allocated(
        &self,
        holder: &ClaimRef,
        device: &DeviceName,
        deadline: Deadline,
    ) -> bool {
        let Identity { driver, pool, .. } = &self.identity;
        match self.api.read(holder, deadline).await {
            Ok(object) => still_allocates(&object, holder, driver, pool, device),
            Err(ReadError::NotFound { .. }) => false,
            Err(_) => true,
        }
    }
}
