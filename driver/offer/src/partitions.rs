//! What a node offers whose GPUs are cut when claims need it: each GPU as a whole and as every MIG device
//! that could be made of it.
//!
//! The views of a GPU overlap, so each has a set of counters of which every view uses its part; the
//! scheduler gives away no two views that together use more than there is. Names and counters are those
//! of the reference driver's dynamic MIG.
//!
//! # Guarantees
//! What the driver itself makes and destroys changes nothing of the offer: a device stays a device while
//! it is in use. Only what somebody holds open beyond its claim is tainted, with what overlaps it.
//!
//! A GPU that does not answer any more gives nothing, and moves nothing else: its counters, and the places of its devices
//! in the slices, stay until it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::ptr;

use k8s_openapi::api::resource::v1::{Counter, CounterSet, Device, DeviceCounterConsumption};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::mig::{Bound, Choices, MigInstance, MigOption, Placement, Slot};
use tessera_device::{DeviceName, DriverFacts, Gpu, GpuUuid, Inventory, MigUuid};
use tessera_sharing::ConsumableShares;

use crate::engines::Engines;
use crate::entry::{Entry, Place, Size, busy, memory_slice, memory_slices};
use crate::layout::{Divided, Layout};
use crate::offer::{Dropped, Node, Offer};
use crate::{mig_device, plan, whole_gpu};

/// The MIG devices that the driver has made, or is about to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadeDevices {
    /// Where: from before they are made until after they are destroyed.
    pub places: BTreeSet<(GpuUuid, Placement)>,
    /// Which, also for a while after their end: what is known of a GPU may be a little older than that.
    pub devices: BTreeSet<MigUuid>,
    /// Where those lie or lay, also for a while after their end: of one that is being destroyed what is known of a GPU
    /// may show half, which has no identity.
    pub ended: BTreeSet<(GpuUuid, Placement)>,
    /// Where those lie that should be gone by now, and are not because somebody holds them open.
    pub busy: BTreeSet<(GpuUuid, Placement)>,
}

impl MadeDevices {
    fn holds(&self, gpu: &GpuUuid, placement: Placement, device: Option<&MigUuid>) -> bool {
        let place = (gpu.clone(), placement);
        let was_there = match device {
            Some(device) => self.devices.contains(device),
            None => self.ended.contains(&place),
        };
        was_there || self.places.contains(&place)
    }

    /// Whether something is in the way of a device at this place of the GPU, or of all of it, that somebody holds open.
    ///
    /// As long as the API has the claim of what is in the way, its counters keep others away. After a pod
    /// was deleted by force it has not.
    fn is_in_the_way(&self, gpu: &GpuUuid, place: Option<Placement>) -> bool {
        let mut busy = self.busy.iter().filter(|(of, _)| of == gpu);
        busy.any(|(_, busy)| place.is_none_or(|place| place.overlaps(*busy)))
    }
}

/// Offers every GPU of the inventory as all that it can be, in order of minor numbers.
///
/// Of several devices that satisfy a request the scheduler takes the first. Whole GPUs come first, and what is offered as it
/// is found, for nothing can be made of it; then the MIG devices of each GPU that can be cut, small ones before large ones.
///
/// For servers that do not keep counters the offer has a smaller one: each GPU as it is found, and as a
/// whole where it is not cut.
///
/// GPUs and MIG devices that are found can be shared as `shares` says; those that are made belong to one claim.
pub fn partitions(
    inventory: &Inventory,
    made: &MadeDevices,
    node: &Node,
    driver: &str,
    shares: ConsumableShares,
) -> Offer {
    plan::or_exclusive(shares, |shares| {
        Offered::of(inventory, made, shares).offer(node, driver)
    })
}

/// What there is to offer.
struct Offered {
    full: Views,
    smaller: Views,
    counters: Vec<CounterSet>,
    bound: Vec<(DeviceName, Bound)>,
}

impl Offered {
    fn of(inventory: &Inventory, made: &MadeDevices, shares: ConsumableShares) -> Self {
        let mut offered = Self {
            full: Views::shared(shares),
            smaller: Views::shared(shares),
            counters: Vec::new(),
            bound: Vec::new(),
        };
        for (gpu, state) in by_minor(inventory) {
            if state == State::Missing {
                offered.leave_room(gpu);
                continue;
            }
            let choices = Choices::of(gpu, |place, device| made.holds(&gpu.uuid, place, device));
            offered.add(inventory, gpu, choices.as_ref(), made);
        }
        offered
    }

    fn offer(self, node: &Node, driver: &str) -> Offer {
        let full = self.full.offer(node, driver).bound_by(self.bound);
        if self.counters.is_empty() {
            return full;
        }
        full.counted(self.counters, self.smaller.offer(node, driver))
    }

    /// Leaves the place of a GPU that does not answer as it was, with nothing in it.
    fn leave_room(&mut self, gpu: &Gpu) {
        let choices = Choices::of(gpu, |_, _| true).filter(is_divided);
        let Some(choices) = choices else {
            return self.full.layout.found([], gpu.offered().count());
        };
        self.full.layout.divided(Divided {
            whole: None,
            is_ever_whole: choices.is_ever_whole(),
            parts: Vec::new(),
            most_parts: choices.places(),
        });
        self.counters.push(Counters::of(&choices).set);
    }

    fn add(
        &mut self,
        inventory: &Inventory,
        gpu: &Gpu,
        choices: Option<&Choices<'_>>,
        made: &MadeDevices,
    ) {
        let why = choices.and_then(|choices| choices.bound);
        self.bound
            .extend(why.map(|bound| (gpu.device_name(), bound)));
        match choices {
            Some(choices) if is_divided(choices) => {
                let set = Counters::of(choices);
                self.full.divided(inventory, choices, &set, made);
                self.counters.push(set.set);
            }
            _ => self.full.as_found(inventory, gpu),
        }
        match choices {
            Some(choices) if choices.whole && is_uncut(gpu) => self.smaller.whole(inventory, gpu),
            _ => self.smaller.as_found(inventory, gpu),
        }
    }
}

/// Whether a GPU has several views. One that can be nothing but whole overlaps with nothing.
fn is_divided(choices: &Choices<'_>) -> bool {
    choices.places() > 0 || !choices.others.is_empty()
}

/// Whether a GPU that was seen answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Answers,
    Missing,
}

/// The GPUs that answer or once did. The number of one that was replaced is its successor's.
fn by_minor(inventory: &Inventory) -> Vec<(&Gpu, State)> {
    let present = inventory.gpus().iter().map(|gpu| (gpu, State::Answers));
    let missing = inventory.missing().iter();
    let missing = missing.map(|missing| (&missing.gpu, State::Missing));
    let mut gpus: Vec<_> = present.chain(missing).collect();
    gpus.sort_by_key(|(gpu, _)| gpu.minor);
    gpus.dedup_by_key(|(gpu, _)| gpu.minor);
    gpus
}

fn is_uncut(gpu: &Gpu) -> bool {
    let mig = gpu.mig.as_ref();
    mig.is_none_or(|mig| mig.instances.is_empty() && mig.unfinished.is_empty())
}

/// Devices as they are put into slices, and what they go without.
struct Views {
    shares: ConsumableShares,
    layout: Layout,
    dropped: Vec<Dropped>,
}

impl Views {
    /// None yet.
    fn shared(shares: ConsumableShares) -> Self {
        Self {
            shares,
            layout: Layout::default(),
            dropped: Vec::new(),
        }
    }

    fn divided(
        &mut self,
        inventory: &Inventory,
        choices: &Choices<'_>,
        counters: &Counters,
        made: &MadeDevices,
    ) {
        let (gpu, driver) = (choices.gpu, inventory.driver());
        let dropped = &mut self.dropped;
        let whole = choices.whole.then(|| {
            let engines = counters.engines;
            let device = whole_gpu::beside_its_parts(gpu, engines, driver, self.shares, dropped);
            let device = Device {
                taints: made.is_in_the_way(&gpu.uuid, None).then(|| vec![busy()]),
                ..device
            };
            let all = Some(counters.set.counters.clone());
            counters.used_by(all, device)
        });
        let mut parts = Vec::new();
        for other in &choices.others {
            let device = mig_device::device(gpu, other, driver, self.shares, dropped);
            let device = counters.used_by(instance_part(gpu, other), device);
            parts.push(Entry::Device(device));
        }
        let are_of_one_size = |one: &Slot<'_>, other: &Slot<'_>| ptr::eq(one.option, other.option);
        for slots in choices.slots.chunk_by(are_of_one_size) {
            let is_busy = |place| made.is_in_the_way(&gpu.uuid, Some(place));
            let size = of_one_size(gpu, slots, driver, counters, is_busy, dropped);
            parts.extend(size.map(Entry::Size));
        }
        self.layout.divided(Divided {
            whole,
            is_ever_whole: choices.is_ever_whole(),
            parts,
            most_parts: choices.places(),
        });
    }

    fn as_found(&mut self, inventory: &Inventory, gpu: &Gpu) {
        let (driver, shares) = (inventory.driver(), self.shares);
        let parts = gpu.offered();
        let devices = parts.map(|part| plan::device(part, driver, shares, &mut self.dropped));
        self.layout.found(devices, 0);
    }

    fn whole(&mut self, inventory: &Inventory, gpu: &Gpu) {
        let device = whole_gpu::device(gpu, inventory.driver(), self.shares, &mut self.dropped);
        self.layout.found([device], 0);
    }

    fn offer(self, node: &Node, driver: &str) -> Offer {
        Offer::of_entries(driver, node, self.layout.slices(), self.dropped)
    }
}

type Amounts = BTreeMap<String, Counter>;

/// The counters of one GPU.
struct Counters {
    set: CounterSet,
    engines: Engines,
}

impl Counters {
    /// As much of everything as the profile has that has most of it, and each memory slice once.
    fn of(choices: &Choices<'_>) -> Self {
        let options = choices.gpu.mig.iter().flat_map(|mig| &mig.profiles);
        let options: Vec<&MigOption> = options
            .filter(|option| option.profile.is_all_of_its_gpu_instance())
            .collect();
        let each = options.iter().map(|option| Engines::of(option));
        let engines = each.fold(Engines::default(), Engines::or_more);
        let mut counters: Amounts = counted(engines).collect();
        let memory = options.iter().map(|option| option.memory).max();
        counters.insert(MEMORY.to_owned(), counter(&memory.unwrap_or_default()));
        let placements = options.iter().flat_map(|option| &option.placements);
        let all: BTreeSet<u16> = placements
            .flat_map(|placement| placement.slices())
            .collect();
        counters.extend(all.into_iter().map(memory_slice));
        Self {
            set: CounterSet {
                name: format!("{}-counter-set", choices.gpu.device_name()),
                counters,
            },
            engines,
        }
    }

    fn used_by(&self, amounts: Option<Amounts>, device: Device) -> Device {
        let used = amounts.map(|counters| {
            vec![DeviceCounterConsumption {
                counter_set: self.set.name.clone(),
                counters,
                compatibility_groups: None,
            }]
        });
        Device {
            consumes_counters: used,
            ..device
        }
    }
}

/// The devices of these places, which are of one size.
fn of_one_size(
    gpu: &Gpu,
    slots: &[Slot<'_>],
    driver: &DriverFacts,
    counters: &Counters,
    is_busy: impl Fn(Placement) -> bool,
    dropped: &mut Vec<Dropped>,
) -> Option<Size> {
    let first = slots.first()?;
    let mut left_out = Vec::new();
    let device = mig_device::unmade(gpu, *first, driver, &mut left_out);
    let place = |slot: &Slot<'_>| {
        let name = slot.device_name(gpu.minor);
        dropped.extend(left_out.iter().map(|one: &Dropped| Dropped {
            device: name.clone(),
            ..one.clone()
        }));
        Place {
            name: name.to_string(),
            placement: slot.placement,
            is_busy: is_busy(slot.placement),
        }
    };
    Some(Size {
        common: counters.used_by(Some(anywhere(first.option)), device),
        places: slots.iter().map(place).collect(),
    })
}

/// What a device uses wherever it lies.
fn anywhere(option: &MigOption) -> Amounts {
    counted(Engines::of(option))
        .chain([(MEMORY.to_owned(), counter(&option.memory))])
        .collect()
}

/// What an instance uses that somebody else has made. Compute instances that share a GPU instance would
/// use its part several times; nothing else is offered that overlaps them.
fn instance_part(gpu: &Gpu, instance: &MigInstance) -> Option<Amounts> {
    let mut options = gpu.mig.iter().flat_map(|mig| &mig.profiles);
    let option = options.find(|option| {
        option.profile_id == instance.profile_id && instance.profile.is_all_of_its_gpu_instance()
    })?;
    let mut part = anywhere(option);
    part.extend(memory_slices(instance.placement));
    Some(part)
}

const MEMORY: &str = "memory";

fn counted(engines: Engines) -> impl Iterator<Item = (String, Counter)> {
    let counters = engines.counters();
    counters.map(|(name, amount)| (name.to_owned(), count(amount)))
}

fn count(number: u32) -> Counter {
    counter(&number)
}

fn counter(amount: &impl ToString) -> Counter {
    Counter {
        value: Quantity(amount.to_string()),
    }
}

#[cfg(test)]
mod tests;
