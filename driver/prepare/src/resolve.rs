//! Finds the GPUs and MIG devices behind the devices of an allocation.

use tessera_claim::{AllocatedDevice, Allocation, ClaimRef};
use tessera_device::mig::{Choices, MigInstance, MigLayouts, Slot};
use tessera_device::{Bytes, DeviceName, DriverFacts, Gpu, Inventory, MigUuid, Offered};
use tessera_sharing::{ConsumableShares, Demand, Form, Mechanisms, NodeFacts, Tier, grant};

use crate::record::View;
use crate::refusal::Refusal;
use crate::share::{self, Share};

/// An allocated device and the GPU behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedDevice<'i> {
    /// What the scheduler allocated.
    pub allocated: AllocatedDevice,
    /// The GPU that serves it.
    pub gpu: &'i Gpu,
    /// The MIG device of that GPU, where it is one that is there.
    pub instance: Option<&'i MigInstance>,
    /// The MIG device of that GPU, where it is one that has to be made.
    pub slot: Option<Slot<'i>>,
    /// The driver of the node.
    pub driver: &'i DriverFacts,
}

impl ResolvedDevice<'_> {
    /// How the claim uses the GPU.
    pub fn view(&self) -> View {
        if self.allocated.admin_access {
            return View::Admin;
        }
        let of = self.instance.map(MigInstance::part);
        let of = of.or_else(|| self.slot.map(Slot::part));
        match (share::amounts(&self.allocated, self.memory()), of) {
            (Some(amounts), of) => View::Share(Share { of, amounts }),
            (None, Some(part)) => View::Part(part),
            (None, None) => View::Whole,
        }
    }

    /// How much memory the device has.
    pub fn memory(&self) -> Bytes {
        match (self.instance, self.slot) {
            (Some(instance), _) => instance.memory,
            (None, Some(slot)) => slot.option.memory,
            (None, None) => self.gpu.memory,
        }
    }

    /// What the device has to hold shares with, where devices are shared in this way.
    pub fn mechanisms(&self, sharing: ConsumableShares) -> Mechanisms {
        let form = match (self.instance, self.slot) {
            (None, None) => Form::Whole,
            (Some(_), _) | (_, Some(_)) => Form::Mig,
        };
        Mechanisms::of(&NodeFacts::of(self.driver, sharing), form)
    }

    /// The memory that the containers of the claim always have of it, where the driver holds them to that.
    ///
    /// Every share that was counted with memory is held, whatever its claim says: what others are guaranteed is
    /// theirs only if nobody takes it. Whoever has all of a device is alone on it and not held.
    pub fn memory_limit(&self) -> Option<Bytes> {
        let View::Share(Share { amounts, .. }) = self.view() else {
            return None;
        };
        let by_memory = ConsumableShares::Memory;
        let all = by_memory.capacity(self.memory()).memory;
        let is_part = amounts.memory > Bytes(0) && amounts.memory < all;
        (is_part && self.mechanisms(by_memory).has(Tier::Native)).then_some(amounts.memory)
    }

    /// How far the containers of the claim may grow, where that is further than what they always have.
    pub fn memory_ceiling(&self) -> Option<Bytes> {
        let guarantee = self.memory_limit()?;
        let demand = Demand {
            config: self.allocated.share_configuration.as_ref()?,
            guarantee,
            device: self.memory(),
        };
        // What is refused is not prepared, or is held to the guarantee.
        let grant = grant(&demand, &self.mechanisms(ConsumableShares::Memory)).ok()?;
        let grows = grant.tier == Tier::Native && grant.ceiling > guarantee;
        grows.then_some(grant.ceiling)
    }

    /// The identity of the MIG device, where it is one.
    pub fn mig(&self) -> Option<&MigUuid> {
        self.instance.map(|instance| &instance.uuid)
    }
}

/// Finds the GPU, or the MIG device of one, behind each device of the allocation.
///
/// `pool` is the pool that this node publishes; a device of another pool is not here, whatever
/// its name. With dynamic layouts a device need not be there yet, if it can be made.
pub fn resolve<'i>(
    allocation: &Allocation,
    pool: &str,
    inventory: &'i Inventory,
    layouts: MigLayouts,
) -> Result<Vec<ResolvedDevice<'i>>, Refusal> {
    let find = |allocated: &AllocatedDevice| {
        let found = |name| match (inventory.by_device_name(name), layouts) {
            (Some(found), _) => Some((found, None)),
            (None, MigLayouts::Dynamic) => makeable(name, inventory),
            (None, MigLayouts::Static) => None,
        };
        let (Offered { gpu, instance }, slot) = (allocated.pool == pool)
            .then(|| found(&allocated.device))
            .flatten()
            .ok_or_else(|| not_here(&allocation.claim, allocated, pool, inventory))?;
        Ok(ResolvedDevice {
            allocated: allocated.clone(),
            gpu,
            instance,
            slot,
            driver: inventory.driver(),
        })
    };
    allocation.devices.iter().map(find).collect()
}

/// What can be made into the device of this name. Whether something is in the way is decided when the
/// GPU is locked.
fn makeable<'i>(
    name: &DeviceName,
    inventory: &'i Inventory,
) -> Option<(Offered<'i>, Option<Slot<'i>>)> {
    let gpu = inventory.gpu_of(name)?;
    let whole = Offered {
        gpu,
        instance: None,
    };
    let choices = Choices::of(gpu, |_, _| true)?;
    let is_there = inventory.gpus().iter().any(|there| there.uuid == gpu.uuid);
    if choices.whole && is_there && *name == gpu.device_name() {
        return Some((whole, None));
    }
    let slot = choices.slot(name).filter(|_| is_there)?;
    Some((whole, Some(slot)))
}

fn not_here(
    claim: &ClaimRef,
    allocated: &AllocatedDevice,
    pool: &str,
    inventory: &Inventory,
) -> Refusal {
    let claim = claim.clone();
    let device = allocated.device.clone();
    let unknown = || Refusal::UnknownDevice {
        claim: claim.clone(),
        pool: allocated.pool.clone(),
        device: device.clone(),
    };
    if allocated.pool != pool {
        return unknown();
    }
    let gpu = inventory.gpu_of(&device);
    let mut missing = inventory.missing().iter();
    if let Some(gpu) = gpu
        && let Some(lost) = missing.find(|missing| missing.gpu.uuid == gpu.uuid)
    {
        return Refusal::GpuLost {
            claim,
            device,
            gpu: gpu.uuid.clone(),
            absence: lost.absence.clone(),
        };
    }
    match gpu.and_then(|gpu| Some((gpu, gpu.mig.as_ref()?))) {
        Some((gpu, mig)) => Refusal::MigLayoutChanged {
            claim,
            device,
            gpu: gpu.uuid.clone(),
            mig: Box::new(mig.clone()),
        },
        None => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use tessera_device::follow::Absence;
    use tessera_device::testing::{cut, driver, gpu, gpu_uuid, inventory, inventory_that_lost};

    use super::*;
    use crate::testing::{allocation, named};

    #[test]
    fn a_device_of_another_pool_or_without_a_gpu_is_unknown_here() {
        let inventory = inventory(0..8);
        assert!(
            resolve(
                &allocation("a", &[0, 7]),
                "node0",
                &inventory,
                MigLayouts::Static
            )
            .is_ok()
        );
        for (minors, pool) in [(&[8][..], "node0"), (&[0][..], "node1")] {
            let error = resolve(
                &allocation("a", minors),
                pool,
                &inventory,
                MigLayouts::Static,
            )
            .unwrap_err();
            assert!(matches!(error, Refusal::UnknownDevice { .. }), "{error}");
        }
    }

    #[test]
    fn a_gpu_that_does_not_serve_any_more_is_refused_with_what_has_become_of_it() {
        let inventory = inventory_that_lost(0, 0..8);
        let error = resolve(
            &allocation("a", &[1, 0]),
            "node0",
            &inventory,
            MigLayouts::Static,
        )
        .unwrap_err();
        let Refusal::GpuLost { gpu, absence, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((gpu, absence), (&gpu_uuid(0), &Absence::Lost));
        assert!(error.to_string().contains("fallen off the bus"), "{error}");
    }

    #[test]
    fn a_mig_device_is_found_and_one_that_the_layout_has_no_more_is_refused_with_the_layout() {
        let layout = |gpu: Gpu| Inventory::new(driver("580"), vec![gpu]).unwrap();
        let one = named(&["gpu-0-mig-3g40gb-9-4"]);
        let halves = layout(cut(gpu(0), &["3g.40gb", "3g.40gb"]));
        let found = resolve(&one, "node0", &halves, MigLayouts::Static).unwrap();
        let part = found[0].instance.unwrap();
        assert_eq!(part.placement.start, 4);
        assert_eq!(found[0].view(), View::Part(part.part()));
        assert_eq!(found[0].mig(), Some(&part.uuid));

        for (allocation, inventory) in [
            (&one, layout(cut(gpu(0), &["4g.40gb", "1g.10gb"]))),
            (&one, layout(gpu(0))),
            (&named(&["gpu-0"]), halves),
        ] {
            let error = resolve(allocation, "node0", &inventory, MigLayouts::Static).unwrap_err();
            assert!(matches!(error, Refusal::MigLayoutChanged { .. }), "{error}");
            assert!(error.to_string().contains("MIG mode is"), "{error}");
        }
        let mut plain = gpu(0);
        plain.mig = None;
        let error = resolve(&one, "node0", &layout(plain), MigLayouts::Static).unwrap_err();
        assert!(matches!(error, Refusal::UnknownDevice { .. }), "{error}");
    }
}
