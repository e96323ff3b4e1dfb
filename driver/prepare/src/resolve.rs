//! Finds the GPUs behind the devices of an allocation.

use tessera_claim::{AllocatedDevice, Allocation, ClaimRef};
use tessera_device::follow::MissingGpu;
use tessera_device::{Gpu, Inventory};

use crate::record::View;
use crate::refusal::Refusal;

/// An allocated device and the GPU behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedDevice<'i> {
    /// What the scheduler allocated.
    pub allocated: AllocatedDevice,
    /// The GPU that serves it.
    pub gpu: &'i Gpu,
}

impl ResolvedDevice<'_> {
    /// How the claim uses the GPU.
    pub fn view(&self) -> View {
        View::of(&self.allocated)
    }
}

/// Finds the GPU behind each device of the allocation.
///
/// `pool` is the pool that this node publishes; a device of another pool is not here, whatever
/// its name.
pub fn resolve<'i>(
    allocation: &Allocation,
    pool: &str,
    inventory: &'i Inventory,
) -> Result<Vec<ResolvedDevice<'i>>, Refusal> {
    let find = |allocated: &AllocatedDevice| {
        let gpu = (allocated.pool == pool)
            .then(|| inventory.by_device_name(&allocated.device))
            .flatten()
            .ok_or_else(|| not_here(&allocation.claim, allocated, pool, inventory))?;
        Ok(ResolvedDevice {
            allocated: allocated.clone(),
            gpu,
        })
    };
    allocation.devices.iter().map(find).collect()
}

fn not_here(
    claim: &ClaimRef,
    allocated: &AllocatedDevice,
    pool: &str,
    inventory: &Inventory,
) -> Refusal {
    let claim = claim.clone();
    let device = allocated.device.clone();
    let missing = inventory.missing_by_device_name(&device);
    match missing.filter(|_| allocated.pool == pool) {
        Some(MissingGpu { gpu, absence }) => Refusal::GpuLost {
            claim,
            device,
            gpu: gpu.uuid.clone(),
            absence: absence.clone(),
        },
        None => Refusal::UnknownDevice {
            claim,
            pool: allocated.pool.clone(),
            device,
        },
    }
}

#[cfg(test)]
mod tests {
    use tessera_device::follow::Absence;
    use tessera_device::testing::{gpu_uuid, inventory, inventory_that_lost};

    use super::*;
    use crate::testing::allocation;

    #[test]
    fn a_device_of_another_pool_or_without_a_gpu_is_unknown_here() {
        let inventory = inventory(0..8);
        assert!(resolve(&allocation("a", &[0, 7]), "node0", &inventory).is_ok());
        for (minors, pool) in [(&[8][..], "node0"), (&[0][..], "node1")] {
            let error = resolve(&allocation("a", minors), pool, &inventory).unwrap_err();
            assert!(matches!(error, Refusal::UnknownDevice { .. }), "{error}");
        }
    }

    #[test]
    fn a_gpu_that_does_not_serve_any_more_is_refused_with_what_has_become_of_it() {
        let inventory = inventory_that_lost(0, 0..8);
        let error = resolve(&allocation("a", &[1, 0]), "node0", &inventory).unwrap_err();
        let Refusal::GpuLost { gpu, absence, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((gpu, absence), (&gpu_uuid(0), &Absence::Lost));
        assert!(error.to_string().contains("fallen off the bus"), "{error}");
    }
}
