//! What a claim can wish of a node's GPUs, and whether what is free could fulfil it.
//!
//! What is free is reckoned from the slices and the allocations alone, as a scheduler does (KEP 4815 for counters, KEP 5075
//! for shares), so that a scheduler can be held against it.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, ResourceClaim, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::gpus::DRIVER;

/// Bytes in a mebibyte.
const MIB: u128 = 1 << 20;

/// What one claim asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// So many GPUs, each alone.
    Whole(usize),
    /// A MIG device of this profile.
    Mig(&'static str),
    /// So many GiB of a GPU.
    Share(u32),
    /// A look at a GPU, whoever has it.
    Admin,
    /// The first of these that can be had.
    Either(Vec<Wish>),
}

/// The profiles of an H100 with 80 GB.
const PROFILES: [&str; 7] = [
    "1g.10gb",
    "1g.10gb+me",
    "1g.20gb",
    "2g.20gb",
    "3g.40gb",
    "4g.40gb",
    "7g.80gb",
];

impl Wish {
    /// One that chance decides.
    pub(crate) fn random(chance: &mut fastrand::Rng) -> Self {
        match chance.u32(..20) {
            0..4 => Self::Whole(chance.usize(1..=4)),
            4..10 => Self::profile(chance),
            10..15 => Self::Share(*chance.choice(&[5, 10, 20, 40, 70]).unwrap_or(&5)),
            15..17 => Self::Admin,
            _ => Self::Either(vec![
                Self::Whole(chance.usize(2..=4)),
                Self::profile(chance),
                Self::Share(10),
            ]),
        }
    }

    fn profile(chance: &mut fastrand::Rng) -> Self {
        Self::Mig(chance.choice(&PROFILES).unwrap_or(&PROFILES[0]))
    }

    /// The request that asks for it, in a list of requests that is indented by six.
    pub(crate) fn request(&self) -> String {
        match self {
            Self::Either(all) => {
                let entries = all.iter().enumerate().map(|(at, wish)| {
                    format!("        - name: entry-{at}\n{}", wish.fields("          "))
                });
                let entries: String = entries.collect();
                format!("      - name: gpu\n        firstAvailable:\n{entries}")
            }
            one => {
                let fields = one.fields("          ");
                format!("      - name: gpu\n        exactly:\n{fields}")
            }
        }
    }

    fn fields(&self, indent: &str) -> String {
        let lines = match self {
            Self::Whole(count) => {
                vec![
                    "deviceClassName: gpu.nvidia.com".to_owned(),
                    format!("count: {count}"),
                ]
            }
            Self::Mig(profile) => vec![
                "deviceClassName: mig.nvidia.com".to_owned(),
                format!(
                    "selectors: [{{cel: {{expression: \"device.attributes['gpu.nvidia.com'].profile == '{profile}'\"}}}}]"
                ),
            ],
            Self::Share(gib) => vec![
                "deviceClassName: gpu.nvidia.com".to_owned(),
                format!("capacity: {{requests: {{memory: {gib}Gi}}}}"),
            ],
            // Without an amount it would ask for all memory, which the scheduler gives it only where all is free.
            Self::Admin => vec![
                "deviceClassName: gpu.nvidia.com".to_owned(),
                "adminAccess: true".to_owned(),
                "capacity: {requests: {memory: 1Mi}}".to_owned(),
            ],
            // A list within a list cannot be written.
            Self::Either(_) => Vec::new(),
        };
        let separator = format!(
            "
{indent}"
        );
        format!(
            "{indent}{}
",
            lines.join(&separator)
        )
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(count) => write!(f, "{count} whole"),
            Self::Mig(profile) => f.write_str(profile),
            Self::Share(gib) => write!(f, "{gib}Gi"),
            Self::Admin => f.write_str("admin"),
            Self::Either(all) => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                f.write_str(&all.join(" or "))
            }
        }
    }
}

/// What of a pool is free.
#[derive(Debug)]
pub(crate) struct Free<'a> {
    devices: Vec<&'a Device>,
    /// What is left of each counter, by set and name.
    counters: BTreeMap<(&'a str, &'a str), u128>,
    /// How many bytes of the memory of devices are given away, by device.
    given: BTreeMap<&'a str, u128>,
}

impl<'a> Free<'a> {
    /// What of the pool of a node is free beside these claims.
    pub(crate) fn of(
        node: &str,
        slices: impl IntoIterator<Item = &'a ResourceSlice>,
        claims: impl IntoIterator<Item = &'a ResourceClaim>,
    ) -> Self {
        let mut free = Self {
            devices: Vec::new(),
            counters: BTreeMap::new(),
            given: BTreeMap::new(),
        };
        for slice in slices {
            let spec = &slice.spec;
            if spec.driver != DRIVER || spec.pool.name != node {
                continue;
            }
            free.devices.extend(spec.devices.iter().flatten());
            for set in spec.shared_counters.iter().flatten() {
                for (name, counter) in &set.counters {
                    free.counters
                        .insert((&set.name, name), amount(&counter.value));
                }
            }
        }
        for claim in claims {
            for result in results(claim) {
                let counts = result.admin_access != Some(true);
                if counts && result.driver == DRIVER && result.pool == node {
                    free.give(result);
                }
            }
        }
        free
    }

    fn give(&mut self, result: &'a DeviceRequestAllocationResult) {
        let mut devices = self.devices.iter();
        let Some(device) = devices.find(|device| device.name == result.device) else {
            return;
        };
        let consumed = result.consumed_capacity.as_ref();
        let memory = consumed.and_then(|consumed| consumed.get("memory"));
        let memory = memory.map_or_else(|| memory_of(device), amount);
        let first = !self.given.contains_key(result.device.as_str());
        *self.given.entry(&result.device).or_default() += memory;
        if first {
            for (counter, used) in used(device) {
                let left = self.counters.entry(counter).or_default();
                *left = left.saturating_sub(used);
            }
        }
    }

    /// Whether the wish could be fulfilled.
    pub(crate) fn fits(&self, wish: &Wish) -> bool {
        match wish {
            Wish::Whole(count) => {
                let whole = self
                    .devices
                    .iter()
                    .filter(|device| is_of(device, "gpu", None));
                let fitting = whole.filter(|device| self.has(device, memory_of(device)));
                fitting.count() >= *count
            }
            Wish::Mig(profile) => self.devices.iter().any(|device| {
                is_of(device, "mig", Some(profile)) && self.has(device, memory_of(device))
            }),
            Wish::Share(gib) => self.has_share(u128::from(*gib) * 1024 * MIB),
            // What it asks for is compared with what is free, and not counted.
            Wish::Admin => self.has_share(MIB),
            Wish::Either(all) => all.iter().any(|wish| self.fits(wish)),
        }
    }

    fn has_share(&self, memory: u128) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|device| is_of(device, "gpu", None) && self.has(device, memory))
    }

    /// Whether so much memory of this device is free.
    fn has(&self, device: &Device, memory: u128) -> bool {
        if let Some(given) = self.given.get(device.name.as_str()) {
            return device.allow_multiple_allocations == Some(true)
                && given + memory <= memory_of(device);
        }
        let left = |counter| self.counters.get(&counter).copied().unwrap_or_default();
        memory <= memory_of(device) && used(device).all(|(counter, used)| used <= left(counter))
    }
}

/// What the claim was allocated.
pub(crate) fn results(
    claim: &ResourceClaim,
) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let status = claim.status.as_ref();
    let allocation = status.and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices
        .into_iter()
        .flat_map(|devices| devices.results.iter().flatten())
}

fn used(device: &Device) -> impl Iterator<Item = ((&str, &str), u128)> {
    let consumptions = device.consumes_counters.iter().flatten();
    consumptions.flat_map(|consumption| {
        let set = consumption.counter_set.as_str();
        let counters = consumption.counters.iter();
        counters.map(move |(name, counter)| ((set, name.as_str()), amount(&counter.value)))
    })
}

fn is_of(device: &Device, kind: &str, profile: Option<&str>) -> bool {
    let attribute = |name: &str| {
        let attributes = device.attributes.as_ref();
        attributes.and_then(|all| all.get(name)?.string.as_deref())
    };
    attribute("type") == Some(kind) && (profile.is_none() || attribute("profile") == profile)
}

fn memory_of(device: &Device) -> u128 {
    let capacities = device.capacity.as_ref();
    let memory = capacities.and_then(|capacities| capacities.get("memory"));
    memory.map_or(0, |memory| amount(&memory.value))
}

/// The quantities that we publish and that Kubernetes makes of them are whole numbers with a binary suffix or with none.
fn amount(quantity: &Quantity) -> u128 {
    let text = quantity.0.as_str();
    let units = [
        ("Ki", 1 << 10),
        ("Mi", MIB),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
    ];
    let number = |text: &str| text.parse::<u128>().unwrap_or_default();
    let mut units = units.iter();
    units
        .find_map(|(unit, size)| Some(number(text.strip_suffix(unit)?) * size))
        .unwrap_or_else(|| number(text))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NODE: &str = "node0";

    /// A GPU of two memory slices, as a whole, in halves, and all of it as one MIG device.
    fn slices() -> Vec<ResourceSlice> {
        let counters = |slices: &[usize]| -> Value {
            let counters: serde_json::Map<_, _> = slices
                .iter()
                .map(|slice| (format!("slice-{slice}"), json!({"value": "1"})))
                .collect();
            json!(counters)
        };
        let device = |name: &str, kind: &str, profile: &str, memory: &str, slices: &[usize]| {
            json!({"name": name, "attributes": {"type": {"string": kind}, "profile": {"string": profile}},
                "capacity": {"memory": {"value": memory}}, "allowMultipleAllocations": kind == "gpu",
                "consumesCounters": [{"counterSet": "set", "counters": counters(slices)}]})
        };
        let slice = |rest: Value| {
            let mut spec = json!({"driver": DRIVER, "nodeName": NODE,
                "pool": {"name": NODE, "generation": 1, "resourceSliceCount": 2}});
            for (field, value) in rest.as_object().unwrap() {
                spec[field] = value.clone();
            }
            serde_json::from_value(json!({"apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceSlice", "metadata": {}, "spec": spec}))
            .unwrap()
        };
        vec![
            slice(json!({"sharedCounters": [{"name": "set", "counters": counters(&[0, 1])}]})),
            slice(json!({"devices": [
                device("half-0", "mig", "1g.10gb", "9Gi", &[0]),
                device("half-1", "mig", "1g.10gb", "9Gi", &[1]),
                device("both", "mig", "7g.80gb", "18Gi", &[0, 1]),
                device("gpu", "gpu", "", "20Gi", &[0, 1]),
            ]})),
        ]
    }

    fn claim(results: &[Value]) -> ResourceClaim {
        let results: Vec<_> = results
            .iter()
            .map(|result| {
                let mut whole = json!({"request": "gpu", "driver": DRIVER, "pool": NODE});
                for (field, value) in result.as_object().unwrap() {
                    whole[field] = value.clone();
                }
                whole
            })
            .collect();
        serde_json::from_value(
            json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {}, "status": {"allocation": {"devices": {"results": results}}}}),
        )
        .unwrap()
    }

    /// Which of these wishes could be fulfilled beside such an allocation.
    fn fitting(result: Option<Value>) -> Vec<bool> {
        let slices = slices();
        let claims: Vec<_> = result.into_iter().map(|result| claim(&[result])).collect();
        let free = Free::of(NODE, &slices, &claims);
        [
            Wish::Whole(1),
            Wish::Whole(2),
            Wish::Mig("1g.10gb"),
            Wish::Mig("7g.80gb"),
            Wish::Share(12),
            Wish::Admin,
            Wish::Either(vec![Wish::Whole(2), Wish::Mig("1g.10gb")]),
        ]
        .iter()
        .map(|wish| free.fits(wish))
        .collect()
    }

    #[test]
    fn what_fits_beside_others_is_what_counters_and_memory_allow() {
        let [y, n] = [true, false];
        for (result, expected) in [
            (None, [y, n, y, y, y, y, y]),
            (Some(json!({"device": "half-1"})), [n, n, y, n, n, n, y]),
            (Some(json!({"device": "both"})), [n; 7]),
            (Some(json!({"device": "gpu"})), [n; 7]),
            (
                Some(json!({"device": "gpu", "consumedCapacity": {"memory": "8Gi"}})),
                [n, n, n, n, y, y, n],
            ),
            (
                Some(json!({"device": "gpu", "consumedCapacity": {"memory": "9Gi"}})),
                [n, n, n, n, n, y, n],
            ),
            (
                Some(json!({"device": "gpu", "adminAccess": true})),
                [y, n, y, y, y, y, y],
            ),
            (
                Some(json!({"device": "gpu", "pool": "other"})),
                [y, n, y, y, y, y, y],
            ),
        ] {
            let told = format!("{result:?}");
            assert_eq!(fitting(result), expected, "{told}");
        }
    }

    #[test]
    fn a_seed_repeats_its_wishes_and_brings_wishes_of_every_kind() {
        let wishes = |seed| {
            let mut chance = fastrand::Rng::with_seed(seed);
            let wishes: Vec<_> = (0..100).map(|_| Wish::random(&mut chance)).collect();
            wishes
        };
        assert_eq!(wishes(7), wishes(7));
        let kinds = |wish: &Wish| match wish {
            Wish::Whole(_) => 0,
            Wish::Mig(_) => 1,
            Wish::Share(_) => 2,
            Wish::Admin => 3,
            Wish::Either(_) => 4,
        };
        let kinds: std::collections::BTreeSet<_> = wishes(7).iter().map(kinds).collect();
        assert_eq!(kinds.len(), 5);
    }

    #[test]
    fn quantities_are_read_by_their_values() {
        for (text, value) in [
            ("7", 7),
            ("2Ki", 2048),
            ("81559Mi", 81559 * MIB),
            ("1Gi", 1 << 30),
        ] {
            assert_eq!(amount(&Quantity(text.to_owned())), value);
        }
    }
}
