//! The node against a model of the scheduler: whatever mix of whole, shared and admin claims comes and goes, what
//! the scheduler's arithmetic gives away is prepared, and what is prepared never overlaps or exceeds a device, be
//! the scheduler's memory as bad as it likes.
//!
//! The model is written from the API's documentation (KEP 5075), not from the driver: it knows devices only by the
//! slices, and claims only by what it writes into their status.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{Device, DeviceCapacity, ResourceClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;
use serde_json::{Value, json};
use tessera_claim::{ClaimRef, allocation};
use tessera_device::mig::MigLayouts;
use tessera_device::testing::{cut, driver, gpu};
use tessera_device::{Bytes, Gpu, Inventory};
use tessera_offer::Node;
use tessera_prepare::cdi::{CdiKind, DriverInstall};
use tessera_prepare::ledger::Ledger;
use tessera_prepare::plan::{Plan, plan};
use tessera_prepare::record::{Phase, Record};
use tessera_prepare::refusal::Refusal;
use tessera_prepare::resolve::resolve;
use tessera_prepare::step::Step;
use tessera_prepare::testing::{AllLocked, boot};
use tessera_sharing::ConsumableShares;

const DRIVER: &str = "gpu.nvidia.com";
const POOL: &str = "node0";

/// A quantity as a number: bytes, or as many as there are.
fn number(quantity: &Quantity) -> u64 {
    let text = quantity.0.as_str();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        other => panic!("unit {other}"),
    };
    digits.parse::<u64>().unwrap() * unit
}

/// What a claim asks for in one request.
#[derive(Clone, Debug)]
struct Request {
    is_mig: bool,
    capacity: BTreeMap<&'static str, u64>,
    admin: bool,
    count: usize,
}

/// A device as the scheduler gave it away.
#[derive(Clone, Debug)]
struct Given {
    device: String,
    share: Option<u64>,
    consumed: BTreeMap<String, u64>,
    admin: bool,
}

/// How much a request takes of a capacity; nothing if it cannot be had.
fn consumption(capacity: &DeviceCapacity, asked: Option<u64>) -> Option<u64> {
    let value = number(&capacity.value);
    let Some(policy) = &capacity.request_policy else {
        return Some(asked.unwrap_or(value)).filter(|amount| *amount <= value);
    };
    let Some(asked) = asked else {
        return policy.default.as_ref().map(number);
    };
    let range = policy.valid_range.as_ref().unwrap();
    let min = number(&range.min);
    let max = range.max.as_ref().map_or(value, number);
    let step = range.step.as_ref().map(number);
    let above = asked.saturating_sub(min);
    let rounded = min + step.map_or(above, |step| above.div_ceil(step) * step);
    (rounded <= max).then_some(rounded)
}

/// A scheduler that counts what it has given away.
struct Scheduler {
    devices: Vec<Device>,
    given: BTreeMap<u64, Vec<Given>>,
    next_share: u64,
}

impl Scheduler {
    /// Finds the first devices that fit, beside what is given away but for the claims that are `forgotten`.
    fn allocate(&mut self, requests: &[Request], forgotten: &[u64]) -> Option<Vec<Given>> {
        let known = self
            .given
            .iter()
            .filter(|(claim, _)| !forgotten.contains(claim));
        let known: Vec<Given> = known.flat_map(|(_, given)| given.clone()).collect();
        let mut found: Vec<Given> = Vec::new();
        for request in requests {
            let first = found.len();
            for device in &self.devices {
                if found.len() - first == request.count {
                    break;
                }
                let fits = fit(device, request, known.iter().chain(&found));
                if let Some(consumed) = fits {
                    let is_shared = device.allow_multiple_allocations == Some(true);
                    self.next_share += 1;
                    found.push(Given {
                        device: device.name.clone(),
                        share: is_shared.then_some(self.next_share),
                        consumed,
                        admin: request.admin,
                    });
                }
            }
            if found.len() - first < request.count {
                return None;
            }
        }
        Some(found)
    }
}

/// What the request takes of the device, if it can be had beside what is given away.
fn fit<'g>(
    device: &Device,
    request: &Request,
    given: impl Iterator<Item = &'g Given>,
) -> Option<BTreeMap<String, u64>> {
    let is_mig = device.name.contains("-mig-");
    let capacity = device.capacity.as_ref().unwrap();
    let has_all = request
        .capacity
        .keys()
        .all(|name| capacity.contains_key(*name));
    if is_mig != request.is_mig || !has_all {
        return None;
    }
    let others: Vec<&Given> = given
        .filter(|given| given.device == device.name && !given.admin)
        .collect();
    let asked = |name: &str| request.capacity.get(name).copied();
    if device.allow_multiple_allocations != Some(true) {
        let enough = capacity.iter().all(|(name, capacity)| {
            asked(name).is_none_or(|asked| asked <= number(&capacity.value))
        });
        return (enough && (request.admin || others.is_empty())).then(BTreeMap::new);
    }
    let mut consumed = BTreeMap::new();
    for (name, capacity) in capacity {
        let amount = consumption(capacity, asked(name))?;
        let sum: u64 = others.iter().map(|other| other.consumed[name]).sum();
        // The scheduler of 1.36 asks that of admin access as well, though it does not count it afterwards.
        if sum + amount > number(&capacity.value) {
            return None;
        }
        consumed.insert(name.clone(), amount);
    }
    // A device that somebody has for themselves from before it could be shared.
    let exclusive = others.iter().any(|other| other.share.is_none());
    (request.admin || !exclusive).then_some(consumed)
}

fn object(claim: &ClaimRef, given: &[Given]) -> ResourceClaim {
    let result = |(at, given): (usize, &Given)| {
        let mut result = json!({
            "request": format!("r{at}"), "driver": DRIVER, "pool": POOL, "device": given.device,
            "adminAccess": given.admin,
        });
        if let Some(share) = given.share {
            result["shareID"] = json!(format!("00000000-0000-4000-8000-{share:012}"));
            let amounts = given.consumed.iter();
            let consumed: BTreeMap<_, _> = amounts.map(|(name, n)| (name, n.to_string())).collect();
            result["consumedCapacity"] = json!(consumed);
        }
        result
    };
    let results: Vec<Value> = given.iter().enumerate().map(result).collect();
    serde_json::from_value(json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": claim.namespace, "name": claim.name, "uid": claim.uid.as_str()},
        "spec": {},
        "status": {"allocation": {"devices": {"results": results}}},
    }))
    .unwrap()
}

/// The node: what it has prepared.
struct Prepared<'i> {
    inventory: &'i Inventory,
    sharing: ConsumableShares,
    records: BTreeMap<u64, Record>,
}

impl Prepared<'_> {
    fn prepare(&mut self, number: u64, given: &[Given]) -> Result<(), Refusal> {
        let claim = ClaimRef {
            namespace: "default".to_owned(),
            name: format!("claim-{number}"),
            uid: format!("uid-{number}").parse().unwrap(),
        };
        let allocation = allocation(
            &object(&claim, given),
            &claim,
            DRIVER,
            tessera_api::AVAILABLE,
        )?;
        let devices = resolve(&allocation, POOL, self.inventory, MigLayouts::Static)?;
        let admitted = Ledger::under(&AllLocked, self.records.values(), vec![])
            .sharing(self.sharing)
            .admit(&claim, devices)?;
        let (kind, install) = (CdiKind::claim(), DriverInstall::default());
        let plan = plan(&admitted, &kind, &install, &boot());
        let mut record = plan.record.clone();
        record.phase = Phase::Prepared;
        let mut ids: Vec<&str> = record.devices.iter().map(|d| d.cdi_id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(
            ids.len(),
            devices_of(&plan),
            "a spec names each device once"
        );
        let read = Record::decode(&record.encode()).unwrap();
        self.records.insert(number, read);
        Ok(())
    }
}

/// How many devices the spec of the plan has.
fn devices_of(plan: &Plan) -> usize {
    let [Step::WriteCdi { contents, .. }] = plan.steps.as_slice() else {
        panic!("one step writes the spec")
    };
    let spec: Value = serde_json::from_slice(contents).unwrap();
    spec["devices"].as_array().unwrap().len()
}

/// Holds if what is prepared neither overlaps nor exceeds a device, by what the scheduler has written of it.
fn assert_within(devices: &[Device], given: &BTreeMap<u64, Vec<Given>>, prepared: &Prepared<'_>) {
    for device in devices {
        let held = prepared.records.keys().flat_map(|claim| {
            let of_claim = given[claim].iter();
            of_claim.filter(|given| given.device == device.name && !given.admin)
        });
        let held: Vec<&Given> = held.collect();
        let exclusive = held.iter().filter(|given| given.share.is_none()).count();
        assert!(exclusive == 0 || held.len() == 1, "{held:?}");
        for name in ["memory", "computeShare", "shares"] {
            let Some(capacity) = device.capacity.as_ref().unwrap().get(name) else {
                continue;
            };
            let amounts = held.iter().filter_map(|given| given.consumed.get(name));
            let sum: u64 = amounts.sum();
            assert!(
                sum <= number(&capacity.value),
                "{name} of {}: {sum}",
                device.name
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Arrive(Vec<Request>, Memory),
    Leave(prop::sample::Index),
}

/// What the scheduler remembers while it places a claim.
#[derive(Clone, Debug)]
enum Memory {
    All,
    /// It has lost one claim (Kubernetes #139034 and others).
    Without(prop::sample::Index),
    Nothing,
}

fn requests() -> impl Strategy<Value = Request> {
    let gib = prop_oneof![Just(1_u64), Just(5), Just(20), Just(40), Just(79), Just(80)];
    let odd = 1..90_u64 << 30;
    let memory = prop_oneof![3 => gib.prop_map(|gib| gib << 30), 1 => odd];
    (
        prop::bool::weighted(0.3),
        prop::option::weighted(0.7, memory),
        prop::option::weighted(0.3, prop::sample::select(vec![0_u64, 10, 25, 60, 100])),
        prop::option::weighted(0.1, 1..4_u64),
        prop::bool::weighted(0.1),
        prop_oneof![6 => Just(1_usize), 1 => Just(2)],
    )
        .prop_map(|(is_mig, memory, compute, shares, admin, count)| {
            let named = [
                ("memory", memory),
                ("computeShare", compute),
                ("shares", shares),
            ];
            let capacity = named.into_iter();
            Request {
                is_mig,
                capacity: capacity.filter_map(|(name, n)| Some((name, n?))).collect(),
                admin,
                count,
            }
        })
}

fn events(memory: impl Strategy<Value = Memory>) -> impl Strategy<Value = Vec<Event>> {
    let requests = prop::collection::vec(requests(), 1..3);
    let arrive = (requests, memory).prop_map(|(requests, memory)| Event::Arrive(requests, memory));
    let leave = any::<prop::sample::Index>().prop_map(Event::Leave);
    prop::collection::vec(prop_oneof![3 => arrive, 1 => leave], 1..24)
}

fn ways() -> impl Strategy<Value = ConsumableShares> {
    let words = ["disabled", "memory", "memory", "unlimited", "3"];
    prop::sample::select(words.map(|word| word.parse().unwrap()).to_vec())
}

/// Two whole GPUs and one in two halves.
fn inventory() -> Inventory {
    let gpus = vec![gpu(0), gpu(1), cut(gpu(2), &["3g.40gb", "3g.40gb"])];
    Inventory::new(driver("580.95.05"), gpus).unwrap()
}

fn run(sharing: ConsumableShares, events: Vec<Event>) {
    let inventory = inventory();
    let node = Node {
        name: POOL.to_owned(),
        uid: "uid".to_owned(),
    };
    let offer = tessera_offer::plan(&inventory, &node, DRIVER, sharing);
    let mut scheduler = Scheduler {
        devices: offer.devices().map(Cow::into_owned).collect(),
        given: BTreeMap::new(),
        next_share: 0,
    };
    let mut prepared = Prepared {
        inventory: &inventory,
        sharing,
        records: BTreeMap::new(),
    };
    for (number, event) in (0_u64..).zip(events) {
        match event {
            Event::Leave(which) => {
                let claims: Vec<u64> = scheduler.given.keys().copied().collect();
                if !claims.is_empty() {
                    let claim = which.get(&claims);
                    scheduler.given.remove(claim);
                    prepared.records.remove(claim);
                }
            }
            Event::Arrive(requests, memory) => {
                let claims: Vec<u64> = scheduler.given.keys().copied().collect();
                let forgotten = match memory {
                    Memory::All => vec![],
                    Memory::Nothing => claims,
                    Memory::Without(which) if claims.is_empty() => {
                        let _ = which;
                        vec![]
                    }
                    Memory::Without(which) => vec![*which.get(&claims)],
                };
                let Some(given) = scheduler.allocate(&requests, &forgotten) else {
                    continue;
                };
                let outcome = prepared.prepare(number, &given);
                if forgotten.is_empty() {
                    outcome.unwrap();
                } else if outcome.is_err() {
                    // Its pod is deleted, as users are told to.
                    continue;
                }
                scheduler.given.insert(number, given);
            }
        }
        assert_within(&scheduler.devices, &scheduler.given, &prepared);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn whatever_the_scheduler_gives_away_is_prepared_and_nothing_exceeds_its_device(
        sharing in ways(),
        events in events(Just(Memory::All)),
    ) {
        run(sharing, events);
    }

    #[test]
    fn whatever_the_scheduler_forgets_nothing_that_is_prepared_exceeds_its_device(
        sharing in ways(),
        events in events(prop_oneof![
            Just(Memory::All),
            any::<prop::sample::Index>().prop_map(Memory::Without),
            Just(Memory::Nothing),
        ]),
    ) {
        run(sharing, events);
    }
}

#[test]
fn whoever_asks_for_no_amount_of_a_gpu_that_is_shared_by_memory_has_it_alone() {
    let inventory = inventory();
    let node = Node {
        name: POOL.to_owned(),
        uid: "uid".to_owned(),
    };
    let offer = tessera_offer::plan(&inventory, &node, DRIVER, ConsumableShares::Memory);
    let mut scheduler = Scheduler {
        devices: offer.devices().map(Cow::into_owned).collect(),
        given: BTreeMap::new(),
        next_share: 0,
    };
    let whole = Request {
        is_mig: false,
        capacity: BTreeMap::new(),
        admin: false,
        count: 1,
    };
    let little = Request {
        capacity: BTreeMap::from([("memory", 1_u64 << 20)]),
        ..whole.clone()
    };
    for (claim, request, expected) in [
        (0, &whole, Some("gpu-0")),
        (1, &little, Some("gpu-1")),
        (2, &whole, None),
        (3, &little, Some("gpu-1")),
    ] {
        let given = scheduler.allocate(std::slice::from_ref(request), &[]);
        let device = given.as_ref().map(|given| given[0].device.as_str());
        assert_eq!(device, expected, "claim {claim}");
        scheduler.given.extend(given.map(|given| (claim, given)));
    }
}

#[test]
fn twenty_shares_of_20_gib_are_packed_on_as_few_h200_as_brute_force_finds() {
    let h200 = |minor| Gpu {
        memory: Bytes::from_mib(143_771),
        ..gpu(minor)
    };
    let inventory = Inventory::new(driver("580.95.05"), (0..8).map(h200).collect()).unwrap();
    let node = Node {
        name: POOL.to_owned(),
        uid: "uid".to_owned(),
    };
    let sharing = ConsumableShares::Memory;
    let offer = tessera_offer::plan(&inventory, &node, DRIVER, sharing);
    let mut scheduler = Scheduler {
        devices: offer.devices().map(Cow::into_owned).collect(),
        given: BTreeMap::new(),
        next_share: 0,
    };
    let mut prepared = Prepared {
        inventory: &inventory,
        sharing,
        records: BTreeMap::new(),
    };
    let share = Request {
        is_mig: false,
        capacity: BTreeMap::from([("memory", 20 << 30)]),
        admin: false,
        count: 1,
    };
    let mut used: BTreeMap<String, u32> = BTreeMap::new();
    for claim in 0..20 {
        let given = scheduler
            .allocate(std::slice::from_ref(&share), &[])
            .unwrap();
        prepared.prepare(claim, &given).unwrap();
        *used.entry(given[0].device.clone()).or_default() += 1;
        scheduler.given.insert(claim, given);
    }
    // All that matters of a way to divide equal shares among equal GPUs is how many each has.
    let fit = (143_771_u32 << 10) / (20 << 20);
    let fewest = (1..=8_u32).find(|gpus| gpus * fit >= 20).unwrap();
    assert_eq!(used.len(), usize::try_from(fewest).unwrap());
    assert_eq!(used.into_values().collect::<Vec<_>>(), [7, 7, 6]);
}
