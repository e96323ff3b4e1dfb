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

use std::collections::{BTreeMap, BTreeSet};
use std::iter::repeat_n;
use std::ptr;

use k8s_openapi::api::resource::v1::{
    Counter, CounterSet, Device, DeviceCounterConsumption, DeviceTaint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::mig::{Bound, Choices, MigEngines, MigInstance, MigOption, Placement, Slot};
use tessera_device::{DeviceName, DriverFacts, Gpu, GpuUuid, Inventory, MigUuid};
use tessera_sharing::ConsumableShares;

use crate::limits::{DEVICES_PER_SLICE, ELABORATE_DEVICES_PER_SLICE};
use crate::offer::{Dropped, Node, Offer};
use crate::plan::in_slices;
use crate::{mig_device, plan, whole_gpu};

/// The MIG devices that the driver has made, or is about to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadeDevices {
    /// Where: from before they are made until after they are destroyed.
    pub places: BTreeSet<(GpuUuid, Placement)>,
    /// Which, also for a while after their end: what is known of a GPU may be a little older than that.
    pub devices: BTreeSet<MigUuid>,
    /// Where those lie that should be gone by now, and are not because somebody holds them open.
    pub busy: BTreeSet<(GpuUuid, Placement)>,
}

/// The key of the taint of a device that cannot be had before a MIG device in its place is let go (KEP 5055).
pub const MIG_DEVICE_BUSY: &str = "tessera-dra.github.io/mig-device-busy";

impl MadeDevices {
    fn holds(&self, gpu: &GpuUuid, placement: Placement, device: Option<&MigUuid>) -> bool {
        self.places.contains(&(gpu.clone(), placement))
            || device.is_some_and(|device| self.devices.contains(device))
    }

    /// Taints a device that would lie at this place of the GPU, or take all of it, if something is in its way that
    /// somebody holds open.
    ///
    /// As long as the API has the claim of what is in the way, its counters keep others away. After a pod
    /// was deleted by force it has not.
    fn tainted(&self, gpu: &GpuUuid, place: Option<Placement>, device: Device) -> Device {
        let mut busy = self.busy.iter().filter(|(of, _)| of == gpu);
        let is_in_the_way = |busy: Placement| place.is_none_or(|place| place.overlaps(busy));
        if !busy.any(|(_, busy)| is_in_the_way(*busy)) {
            return device;
        }
        Device {
            taints: Some(vec![DeviceTaint {
                key: MIG_DEVICE_BUSY.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..DeviceTaint::default()
            }]),
            ..device
        }
    }
}

/// Offers every GPU of the inventory as all that it can be, in order of minor numbers.
///
/// Of a GPU its small MIG devices come first, and the whole GPU last: of several devices that satisfy a
/// request, the scheduler takes the first. A GPU of which nothing can be made is offered as it is found.
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
        for gpu in inventory.gpus() {
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
            // A GPU that can be nothing but whole overlaps with nothing.
            Some(choices) if !choices.slots.is_empty() || !choices.others.is_empty() => {
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

fn is_uncut(gpu: &Gpu) -> bool {
    let mig = gpu.mig.as_ref();
    mig.is_none_or(|mig| mig.instances.is_empty() && mig.unfinished.is_empty())
}

/// Devices as they are put into slices: those of one divided GPU have slices of their own, so that what
/// becomes of it is one write.
struct Views {
    shares: ConsumableShares,
    slices: Vec<Vec<Device>>,
    /// Whether the last slice is one of GPUs that are offered as they are found.
    open: bool,
    dropped: Vec<Dropped>,
}

impl Views {
    /// None yet.
    fn shared(shares: ConsumableShares) -> Self {
        Self {
            shares,
            slices: Vec::new(),
            open: false,
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
        let mut devices = Vec::new();
        for other in &choices.others {
            let device = mig_device::device(gpu, other, driver, self.shares, dropped);
            devices.push(counters.used_by(instance_part(gpu, other), device));
        }
        let are_of_one_size = |one: &Slot<'_>, other: &Slot<'_>| ptr::eq(one.option, other.option);
        for slots in choices.slots.chunk_by(are_of_one_size) {
            let each = of_one_size(gpu, slots, driver, counters, dropped);
            devices
                .extend(each.map(|(place, device)| made.tainted(&gpu.uuid, Some(place), device)));
        }
        if choices.whole {
            let device = whole_gpu::device(gpu, driver, self.shares, dropped);
            let device = made.tainted(&gpu.uuid, None, device);
            devices.push(counters.used_by(Some(counters.set.counters.clone()), device));
        }
        self.slices
            .extend(in_slices(devices, ELABORATE_DEVICES_PER_SLICE));
        self.open = false;
    }

    fn as_found(&mut self, inventory: &Inventory, gpu: &Gpu) {
        for part in gpu.offered() {
            let device = plan::device(part, inventory.driver(), self.shares, &mut self.dropped);
            self.push(device);
        }
    }

    fn whole(&mut self, inventory: &Inventory, gpu: &Gpu) {
        let device = whole_gpu::device(gpu, inventory.driver(), self.shares, &mut self.dropped);
        self.push(device);
    }

    fn push(&mut self, device: Device) {
        let has_room = |slice: &&mut Vec<Device>| self.open && slice.len() < DEVICES_PER_SLICE;
        match self.slices.last_mut().filter(has_room) {
            Some(slice) => slice.push(device),
            None => self.slices.push(vec![device]),
        }
        self.open = true;
    }

    fn offer(self, node: &Node, driver: &str) -> Offer {
        Offer::new(driver, node, self.slices, self.dropped)
    }
}

type Amounts = BTreeMap<String, Counter>;

/// The counters of one GPU.
struct Counters {
    set: CounterSet,
}

impl Counters {
    /// As much of everything as the profile has that has most of it, and each memory slice once.
    fn of(choices: &Choices<'_>) -> Self {
        let options = choices.gpu.mig.iter().flat_map(|mig| &mig.profiles);
        let options: Vec<&MigOption> = options
            .filter(|option| option.profile.is_all_of_its_gpu_instance())
            .collect();
        let mut counters = Amounts::new();
        for (name, amount) in ENGINES {
            let amounts = options.iter().map(|option| amount(option));
            counters.insert(name.to_owned(), count(amounts.max().unwrap_or(0)));
        }
        let memory = options.iter().map(|option| option.memory).max();
        counters.insert(MEMORY.to_owned(), counter(&memory.unwrap_or_default()));
        let placements = options.iter().flat_map(|option| &option.placements);
        let all: BTreeSet<u16> = placements
            .flat_map(|placement| placement.slices())
            .collect();
        counters.extend(all.into_iter().map(slice));
        Self {
            set: CounterSet {
                name: format!("{}-counter-set", choices.gpu.device_name()),
                counters,
            },
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

/// The devices of these places, which are of one size: they differ by their names and memory slices alone.
fn of_one_size(
    gpu: &Gpu,
    slots: &[Slot<'_>],
    driver: &DriverFacts,
    counters: &Counters,
    dropped: &mut Vec<Dropped>,
) -> impl Iterator<Item = (Placement, Device)> {
    let mut left_out = Vec::new();
    let one = slots.first().map(|slot| {
        let device = mig_device::unmade(gpu, *slot, driver, &mut left_out);
        counters.used_by(Some(anywhere(slot.option)), device)
    });
    let minor = gpu.minor;
    for slot in slots {
        dropped.extend(left_out.iter().map(|one| Dropped {
            device: slot.device_name(minor),
            ..one.clone()
        }));
    }
    let each = one.into_iter().flat_map(|one| repeat_n(one, slots.len()));
    each.zip(slots).map(move |(device, slot)| {
        let mut device = Device {
            name: slot.device_name(minor).to_string(),
            ..device
        };
        for used in device.consumes_counters.iter_mut().flatten() {
            used.counters.extend(slices(slot.placement));
        }
        (slot.placement, device)
    })
}

/// What a device uses wherever it lies.
fn anywhere(option: &MigOption) -> Amounts {
    let engines = ENGINES.iter();
    engines
        .map(|(name, amount)| ((*name).to_owned(), count(amount(option))))
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
    part.extend(slices(instance.placement));
    Some(part)
}

const MEMORY: &str = "memory";

/// What of an option a counter counts.
type Amount = fn(&MigOption) -> u32;

const ENGINES: [(&str, Amount); 6] = [
    ("multiprocessors", |option| option.multiprocessors),
    ("copy-engines", |option| engines(option).copy),
    ("decoders", |option| engines(option).decoders),
    ("encoders", |option| engines(option).encoders),
    ("jpeg-engines", |option| engines(option).jpeg),
    ("ofa-engines", |option| engines(option).ofa),
];

fn engines(option: &MigOption) -> MigEngines {
    option.engines
}

fn slices(placement: Placement) -> impl Iterator<Item = (String, Counter)> {
    placement.slices().map(slice)
}

/// The counter of a memory slice.
fn slice(number: u16) -> (String, Counter) {
    (format!("memory-slice-{number}"), count(1))
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
