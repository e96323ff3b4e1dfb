//! Where slices of the reference driver and an offer of ours differ.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use serde_json::Value;
use tessera_offer::Offer;

/// Where two descriptions of a machine differ.
pub(crate) type Differences = BTreeSet<String>;

/// What the reference does not say and this driver does, and the other way round, and what they say otherwise: each with
/// the reason.
pub(crate) fn listed(differences: &[(&str, &str)]) -> Differences {
    let listed: Differences = differences
        .iter()
        .map(|(what, _)| (*what).to_owned())
        .collect();
    assert_eq!(listed.len(), differences.len(), "each is listed once");
    listed
}

type Told = BTreeMap<String, Value>;

/// All that a device says, by what it says it of.
pub(crate) fn told(device: &Device) -> Told {
    let attributes = device.attributes.iter().flatten().map(|(name, attribute)| {
        (
            format!("attribute {name}"),
            serde_json::to_value(attribute).unwrap(),
        )
    });
    let capacities = device
        .capacity
        .iter()
        .flatten()
        .flat_map(|(name, capacity)| {
            let policy = capacity.request_policy.as_ref();
            let value = serde_json::to_value(&capacity.value).unwrap();
            let policy = policy.map(|policy| serde_json::to_value(policy).unwrap());
            [
                (format!("capacity {name}"), Some(value)),
                (format!("policy of capacity {name}"), policy),
            ]
        });
    let capacities = capacities.filter_map(|(what, value)| Some((what, value?)));
    let used = device.consumes_counters.iter().flatten().flat_map(|used| {
        let counters = serde_json::to_value(&used.counters).unwrap();
        entries(&format!("counter of {}", used.counter_set), counters)
    });
    let mut rest = serde_json::to_value(device).unwrap();
    let rest = rest.as_object_mut().unwrap();
    for said in ["name", "attributes", "capacity", "consumesCounters"] {
        rest.remove(said);
    }
    let rest = std::mem::take(rest).into_iter();
    attributes
        .chain(capacities)
        .chain(used)
        .chain(rest.map(|(name, value)| (format!("field {name}"), value)))
        .collect()
}

fn entries(of: &str, object: Value) -> Told {
    let Value::Object(object) = object else {
        panic!("{of} is a map")
    };
    let named = |(name, value)| (format!("{of} {name}"), value);
    object.into_iter().map(named).collect()
}

/// Compares by key, and says of each key where it is missing or that the values differ.
pub(crate) fn compare<T: PartialEq>(
    theirs: &BTreeMap<String, T>,
    ours: &BTreeMap<String, T>,
) -> Differences {
    let keys: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    keys.into_iter()
        .filter_map(|key| match (theirs.get(key), ours.get(key)) {
            (Some(_), None) => Some(format!("{key}: only there")),
            (None, Some(_)) => Some(format!("{key}: only here")),
            (Some(one), Some(other)) => (one != other).then(|| format!("{key}: otherwise")),
            (None, None) => None,
        })
        .collect()
}

pub(crate) fn by_name<'d>(
    devices: impl IntoIterator<Item = &'d Device>,
) -> BTreeMap<String, &'d Device> {
    devices
        .into_iter()
        .map(|device| (device.name.clone(), device))
        .collect()
}

/// Where captured slices of a pool and an offer of the same machine differ: in their devices, in what devices of a type
/// say, in their counters, and in what stands in one slice. Devices are the same that have one name; their order is left
/// to [`order`].
pub(crate) fn differences(theirs: &[ResourceSlice], offer: &Offer) -> Differences {
    let ours = offer.slices(theirs[0].spec.pool.generation);
    assert_eq!(frames(theirs), frames(&ours));
    let mut found = compare(&counter_sets(theirs), &counter_sets(&ours));
    found.extend(compare(&neighbours(theirs), &neighbours(&ours)));
    let (theirs, ours) = (by_name(devices(theirs)), by_name(devices(&ours)));
    let mut of_type: BTreeMap<&str, Vec<Differences>> = BTreeMap::new();
    for (name, device) in &theirs {
        if let Some(ours) = ours.get(name) {
            let differences = compare(&told(device), &told(ours));
            of_type.entry(kind(device)).or_default().push(differences);
        }
    }
    for (kind, each) in of_type {
        for difference in each.iter().flatten() {
            let is_of_all = each.iter().all(|one| one.contains(difference));
            let of = if is_of_all { "each" } else { "a" };
            found.insert(format!("{of} {kind}: {difference}"));
        }
    }
    found
}

/// The names of devices as the scheduler looks at them.
pub(crate) fn order(slices: &[ResourceSlice]) -> Vec<&str> {
    devices(slices).map(|device| device.name.as_str()).collect()
}

fn devices(slices: &[ResourceSlice]) -> impl Iterator<Item = &Device> {
    slices
        .iter()
        .flat_map(|slice| slice.spec.devices.iter().flatten())
}

/// What each slice says beside its contents, and its owner. All of a pool say the same.
fn frames(slices: &[ResourceSlice]) -> BTreeSet<String> {
    let frame = |slice: &ResourceSlice| {
        let mut frame = slice.spec.clone();
        frame.devices = None;
        frame.shared_counters = None;
        frame.pool.resource_slice_count = 0;
        let count = usize::try_from(slice.spec.pool.resource_slice_count);
        assert_eq!(count, Ok(slices.len()), "the pool is whole");
        serde_json::to_string(&(frame, &slice.metadata.owner_references)).unwrap()
    };
    slices.iter().map(frame).collect()
}

fn counter_sets(slices: &[ResourceSlice]) -> Told {
    let sets = slices
        .iter()
        .flat_map(|slice| slice.spec.shared_counters.iter().flatten());
    sets.flat_map(|set| {
        let counters = serde_json::to_value(&set.counters).unwrap();
        entries(&format!("counter set {}", set.name), counters)
    })
    .collect()
}

/// By device, the first of those in its slice.
fn neighbours(slices: &[ResourceSlice]) -> BTreeMap<String, String> {
    let of_slice = |slice: &ResourceSlice| {
        let names = by_name(slice.spec.devices.iter().flatten()).into_keys();
        let names: Vec<_> = names.collect();
        let first = names.first().cloned().unwrap_or_default();
        let beside = |name| (format!("device {name}"), first.clone());
        names.into_iter().map(beside).collect::<Vec<_>>()
    };
    slices.iter().flat_map(of_slice).collect()
}

fn kind(device: &Device) -> &str {
    let attributes = device.attributes.as_ref();
    let kind = attributes.and_then(|attributes| attributes.get("type"));
    kind.and_then(|kind| kind.string.as_deref()).unwrap()
}
