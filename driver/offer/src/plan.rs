//! From an inventory to an offer.

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use tessera_device::{DriverFacts, Inventory, Offered};
use tessera_sharing::ConsumableShares;

use crate::limits::{DEVICES_PER_SLICE, ELABORATE_DEVICES_PER_SLICE};
use crate::offer::{Dropped, Node, Offer};
use crate::{mig_device, whole_gpu};

/// Offers every GPU of the inventory, in order of minor numbers: as a whole, or its MIG devices in the
/// order of their places.
///
/// A GPU in MIG mode is not offered as a whole, and one that has no instance is not offered at all.
/// One that waits for a reset to change its mode is offered in the mode that it is in.
///
/// Devices can be shared as `shares` says. Where the server has no sharing, the offer is the same as without, by
/// [`Offer::without`] of the fields that it does not keep.
///
/// Total and deterministic: what the API would refuse is left out and listed in
/// [`Offer::dropped`], and the same input gives the same bytes.
pub fn plan(inventory: &Inventory, node: &Node, driver: &str, shares: ConsumableShares) -> Offer {
    or_exclusive(shares, |shares| offer(inventory, node, driver, shares))
}

/// An offer whose devices are shared, and beside it the one without, for a server that cannot.
pub(crate) fn or_exclusive(
    shares: ConsumableShares,
    offer: impl Fn(ConsumableShares) -> Offer,
) -> Offer {
    let offered = offer(shares);
    if shares.is_on() {
        offered.or_exclusive(offer(ConsumableShares::Disabled))
    } else {
        offered
    }
}

fn offer(inventory: &Inventory, node: &Node, driver: &str, shares: ConsumableShares) -> Offer {
    let mut dropped = Vec::new();
    let devices: Vec<Device> = inventory
        .offered()
        .map(|part| device(part, inventory.driver(), shares, &mut dropped))
        .collect();
    let limit = devices_per_slice(&devices);
    Offer::new(driver, node, in_slices(devices, limit).collect(), dropped)
}

/// The devices in their order, no more than `limit` in a slice.
pub(crate) fn in_slices<D>(devices: Vec<D>, limit: usize) -> impl Iterator<Item = Vec<D>> {
    let mut rest = devices.into_iter();
    std::iter::from_fn(move || {
        let slice: Vec<D> = rest.by_ref().take(limit).collect();
        (!slice.is_empty()).then_some(slice)
    })
}

/// What is found on a node as a device.
pub(crate) fn device(
    part: Offered<'_>,
    driver: &DriverFacts,
    shares: ConsumableShares,
    dropped: &mut Vec<Dropped>,
) -> Device {
    let Offered { gpu, instance } = part;
    match instance {
        Some(instance) => mig_device::device(gpu, instance, driver, shares, dropped),
        None => whole_gpu::device(gpu, driver, shares, dropped),
    }
}

/// Offers nothing, where there is no driver.
///
/// One empty slice stays: it takes the devices out of the scheduler's sight as no slice would, and
/// says besides that the driver of this pool is here and has nothing to give.
pub fn nothing(node: &Node, driver: &str) -> Offer {
    Offer::new(driver, node, Vec::new(), Vec::new())
}

/// How many of these devices one slice may hold. One limit serves all slices of the pool, so
/// that a taint on one device does not move others to another slice.
pub(crate) fn devices_per_slice(devices: &[Device]) -> usize {
    if devices.iter().any(is_elaborate) {
        ELABORATE_DEVICES_PER_SLICE
    } else {
        DEVICES_PER_SLICE
    }
}

fn is_elaborate(device: &Device) -> bool {
    let is_list = |attribute: &DeviceAttribute| {
        attribute.bools.is_some()
            || attribute.ints.is_some()
            || attribute.strings.is_some()
            || attribute.versions.is_some()
    };
    device.taints.as_ref().is_some_and(|list| !list.is_empty())
        || device
            .consumes_counters
            .as_ref()
            .is_some_and(|list| !list.is_empty())
        || device
            .attributes
            .as_ref()
            .is_some_and(|map| map.values().any(is_list))
}

#[cfg(test)]
mod tests;
