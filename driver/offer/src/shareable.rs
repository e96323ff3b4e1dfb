//! Makes a device one that several claims can share (KEP 5075).
//!
//! One device serves whoever wants it alone and whoever wants a part. By the reference driver's value
//! `memory`, which is ours too, a claim that names no amount has all memory, and so the device alone.
//!
//! Limits of policies stand in `validateRequestPolicy` of Kubernetes' validation: `min` is at most `default`,
//! that is at most `max`, `min` and a `step` together are at most the value, and `max` is a multiple of `step`.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, DeviceAttribute, DeviceCapacity,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tessera_device::Bytes;
use tessera_sharing::{
    COMPUTE_SHARE, ConsumableShares, DYNAMIC_MEMORY, FULL_COMPUTE, MEMORY, MEMORY_ENFORCEMENT,
    Mechanisms, SHARES, Tier,
};

/// Memory is asked for in multiples of this.
const STEP: Bytes = Bytes::from_mib(1);

/// The range of a capacity: what is asked for by a claim that does not ask, the least and the most of it, and its
/// steps.
struct Range<A> {
    default: A,
    min: A,
    max: A,
    step: Option<A>,
}

impl<A: ToString> Range<A> {
    fn policy(&self) -> CapacityRequestPolicy {
        let quantity = |amount: &A| Quantity(amount.to_string());
        CapacityRequestPolicy {
            default: Some(quantity(&self.default)),
            valid_range: Some(CapacityRequestPolicyRange {
                min: quantity(&self.min),
                max: Some(quantity(&self.max)),
                step: self.step.as_ref().map(quantity),
            }),
            valid_values: None,
        }
    }
}

/// How many attributes and capacities a MIG device has more because it can be shared.
pub(crate) fn additions(shares: ConsumableShares) -> usize {
    match shares {
        ConsumableShares::Disabled => 0,
        ConsumableShares::Memory | ConsumableShares::Unlimited => 2,
        ConsumableShares::Number(_) => 3,
    }
}

/// Whether a device with so much memory can be shared like this: there must be something to divide.
pub(crate) fn is_shareable(memory: Option<Bytes>, shares: ConsumableShares) -> bool {
    let divisible = |memory| shares.capacity(memory).memory > STEP;
    shares.is_on() && memory.is_some_and(divisible)
}

/// Gives the capacities of a device with so much memory policies by which it can be shared, and adds those
/// that only shares have. `tier` is what holds its shares to their memory, `grows` whether they can have more than
/// they were given: it is said of no MIG device, some of which have as many attributes as there can be without it.
pub(crate) fn share(
    memory: Bytes,
    shares: ConsumableShares,
    (tier, grows): (Tier, Option<bool>),
    attributes: &mut BTreeMap<String, DeviceAttribute>,
    capacity: &mut BTreeMap<String, DeviceCapacity>,
) {
    for capacity in capacity.values_mut() {
        capacity.request_policy = Some(told_only());
    }
    capacity.insert(MEMORY.to_owned(), of_memory(memory, shares));
    let compute = Range {
        default: 0,
        min: 0,
        max: FULL_COMPUTE,
        step: Some(1),
    };
    capacity.insert(COMPUTE_SHARE.to_owned(), with(&FULL_COMPUTE, &compute));
    if let Some(number) = shares.number() {
        let range = Range {
            default: 1,
            min: 1,
            max: number,
            step: (number > 1).then_some(1),
        };
        capacity.insert(SHARES.to_owned(), with(&number, &range));
    }
    let tier = DeviceAttribute {
        string: Some(tier.as_str().to_owned()),
        ..DeviceAttribute::default()
    };
    let grows = grows.map(|grows| DeviceAttribute {
        bool: Some(grows),
        ..DeviceAttribute::default()
    });
    for (name, value) in [(MEMORY_ENFORCEMENT, Some(tier)), (DYNAMIC_MEMORY, grows)] {
        let name = format!("{}/{name}", Mechanisms::DOMAIN);
        attributes.extend(value.map(|value| (name, value)));
    }
}

fn of_memory(memory: Bytes, shares: ConsumableShares) -> DeviceCapacity {
    let all = shares.capacity(memory).memory;
    let (default, min) = match shares {
        ConsumableShares::Disabled | ConsumableShares::Memory => (all, STEP),
        ConsumableShares::Unlimited | ConsumableShares::Number(_) => (Bytes(0), Bytes(0)),
    };
    let range = Range {
        default,
        min,
        max: all,
        step: Some(STEP),
    };
    with(&all, &range)
}

fn with<A: ToString>(value: &A, range: &Range<A>) -> DeviceCapacity {
    DeviceCapacity {
        value: Quantity(value.to_string()),
        request_policy: Some(range.policy()),
    }
}

/// The policy of a capacity that tells what a device is, and is used up by nobody who does not ask for it.
/// Without one the first share would have all of it.
fn told_only() -> CapacityRequestPolicy {
    let nothing = || Quantity("0".to_owned());
    CapacityRequestPolicy {
        default: Some(nothing()),
        valid_range: Some(CapacityRequestPolicyRange {
            min: nothing(),
            max: None,
            step: None,
        }),
        valid_values: None,
    }
}
