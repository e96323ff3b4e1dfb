//! A model of the scheduler's allocator: what it gives to claims by slices and allocations alone.
//!
//! It takes the first device that satisfies a request and of which enough is free. What a device uses of the counters of its
//! set is used as long as anybody has it (KEP 4815); of a device that several claims can have, each has the amount that it
//! asks for, or the policy's default (KEP 5075); the entries of a list are tried in their order (KEP 4816); admin access is
//! counted for nobody (KEP 5018).

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{Device, DeviceRequestAllocationResult, ResourceSlice};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{DRIVER, POOL, Wish};

/// The counter of a set.
type Counter<'s> = (&'s str, &'s str);

pub(crate) struct Scheduler<'s> {
    devices: Vec<&'s Device>,
    counters: BTreeMap<Counter<'s>, u64>,
    /// What each claim has: a device by its number, and so many bytes of its memory.
    given: BTreeMap<String, Vec<(usize, u64)>>,
    shares: u64,
}

impl<'s> Scheduler<'s> {
    pub(crate) fn of(slices: &'s [ResourceSlice]) -> Self {
        let specs = || slices.iter().map(|slice| &slice.spec);
        let mut counters = BTreeMap::new();
        for set in specs().flat_map(|spec| spec.shared_counters.iter().flatten()) {
            for (name, counter) in &set.counters {
                counters.insert((set.name.as_str(), name.as_str()), amount(&counter.value));
            }
        }
        Self {
            devices: specs()
                .flat_map(|spec| spec.devices.iter().flatten())
                .collect(),
            counters,
            given: BTreeMap::new(),
            shares: 0,
        }
    }

    /// Gives a claim what it wishes, if it can be had.
    pub(crate) fn allocate(
        &mut self,
        claim: &str,
        wish: &Wish,
    ) -> Option<Vec<DeviceRequestAllocationResult>> {
        let (kind, profile, count, memory) = match wish {
            Wish::Either(all) => return all.iter().find_map(|wish| self.allocate(claim, wish)),
            Wish::Whole(count) => ("gpu", None, *count, None),
            Wish::Part(profile) => ("mig", Some(*profile), 1, None),
            Wish::Share(gib) => ("gpu", None, 1, Some(gib << 30)),
            Wish::Admin => ("gpu", None, 1, Some(1 << 20)),
        };
        let is_admin = matches!(wish, Wish::Admin);
        let mut chosen: Vec<(usize, u64)> = Vec::new();
        for (number, device) in self.devices.iter().enumerate() {
            let wanted = memory.unwrap_or_else(|| default_of(device));
            let is_it = text(device, "type") == Some(kind)
                && (profile.is_none() || text(device, "profile") == profile);
            if chosen.len() < count && is_it && self.has(number, wanted) {
                chosen.push((number, wanted));
            }
        }
        if chosen.len() < count {
            return None;
        }
        let results = chosen.iter().map(|(number, memory)| {
            self.shares += 1;
            result(self.devices[*number], *memory, self.shares, is_admin)
        });
        let results = results.collect();
        if !is_admin {
            self.given.insert(claim.to_owned(), chosen);
        }
        Some(results)
    }

    /// Takes back what a claim has.
    pub(crate) fn release(&mut self, claim: &str) {
        self.given.remove(claim);
    }

    fn has(&self, number: usize, memory: u64) -> bool {
        let device = self.devices[number];
        let all = || self.given.values().flatten();
        let given: Vec<u64> = all()
            .filter(|(other, _)| *other == number)
            .map(|(_, bytes)| *bytes)
            .collect();
        if !given.is_empty() {
            return is_shareable(device) && given.iter().sum::<u64>() + memory <= memory_of(device);
        }
        let mut left = self.counters.clone();
        let mut others: Vec<usize> = all().map(|(other, _)| *other).collect();
        others.sort_unstable();
        others.dedup();
        for (counter, used) in others.iter().flat_map(|other| used(self.devices[*other])) {
            *left.get_mut(&counter).unwrap() -= used;
        }
        memory <= memory_of(device) && used(device).all(|(counter, used)| used <= left[&counter])
    }
}

fn result(
    device: &Device,
    memory: u64,
    share: u64,
    is_admin: bool,
) -> DeviceRequestAllocationResult {
    let consumed = [("memory", memory), ("computeShare", 0)];
    let consumed = consumed.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_string())));
    let is_shared = is_shareable(device);
    DeviceRequestAllocationResult {
        request: "gpu".to_owned(),
        driver: DRIVER.to_owned(),
        pool: POOL.to_owned(),
        device: device.name.clone(),
        admin_access: is_admin.then_some(true),
        consumed_capacity: is_shared.then(|| consumed.into()),
        share_id: is_shared.then(|| format!("a671734a-e8e5-11e4-8fde-{share:012x}")),
        ..DeviceRequestAllocationResult::default()
    }
}

fn is_shareable(device: &Device) -> bool {
    device.allow_multiple_allocations == Some(true)
}

fn used(device: &Device) -> impl Iterator<Item = (Counter<'_>, u64)> {
    let consumptions = device.consumes_counters.iter().flatten();
    consumptions.flat_map(|consumption| {
        let set = consumption.counter_set.as_str();
        let counters = consumption.counters.iter();
        counters.map(move |(name, counter)| ((set, name.as_str()), amount(&counter.value)))
    })
}

fn text<'d>(device: &'d Device, attribute: &str) -> Option<&'d str> {
    let attributes = device.attributes.as_ref()?;
    attributes.get(attribute)?.string.as_deref()
}

fn memory_of(device: &Device) -> u64 {
    let capacity = device.capacity.as_ref();
    capacity.map_or(0, |capacity| amount(&capacity["memory"].value))
}

/// What a claim is counted with that names no amount: what the policy says, or all where there is none.
fn default_of(device: &Device) -> u64 {
    let capacity = device.capacity.as_ref().map(|capacity| &capacity["memory"]);
    let policy = capacity.and_then(|memory| memory.request_policy.as_ref());
    let default = policy.and_then(|policy| policy.default.as_ref());
    default.map_or_else(|| memory_of(device), amount)
}

/// The quantities that are published: whole numbers with a binary suffix or with none.
fn amount(quantity: &Quantity) -> u64 {
    let text = quantity.0.as_str();
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let mut scaled = units.iter().filter_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number << bits)
    });
    scaled.next().unwrap_or_else(|| text.parse().unwrap())
}
