//! What an allocation asks for.

use tessera_api::{AllocationMode, Config};
use tessera_claim::{AllocatedDevice, Allocation, ClaimRef};

use super::{ChannelRefusal, DomainUid};
use crate::refusal::Refusal;

/// What the pool of a domain's slots is named before the domain's UID.
const POOL_OF_DOMAIN: &str = "domain-";

/// What a slot is named before its number.
const SLOT: &str = "slot-";

/// The channel of the node's own pool, which everybody gets who asks as with the reference driver.
const NODE_CHANNEL: &str = "channel-0";

/// The devices of the node's own pool that no claim is given: the one of the reference driver's daemons,
/// and the one that tells of the node.
const NOT_SERVED: [&str; 2] = ["daemon-0", "fabric"];

/// The pool of a domain's slots.
pub fn pool_of(domain: &DomainUid) -> String {
    format!("{POOL_OF_DOMAIN}{domain}")
}

/// How a device leads to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// It is a slot of its domain: the slot's slice names the channel.
    Slot,
    /// It is channel 0 of the node, as the reference driver has it.
    Node,
}

/// An allocated device, and the domain that its configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What the scheduler allocated.
    pub allocated: AllocatedDevice,
    /// How it leads to a channel.
    pub via: Via,
    /// The domain. Whether the claim may have a channel of it is another question.
    pub domain: DomainUid,
    /// How many channels.
    pub mode: AllocationMode,
}

/// Reads what an allocation asks for. `pool` is the pool that this node publishes.
///
/// The domain of a slot is the one of its pool; a configuration that names another is refused here.
pub fn wanted(allocation: &Allocation, pool: &str) -> Result<Vec<Wanted>, Refusal> {
    let claim = &allocation.claim;
    let each = allocation.devices.iter();
    each.map(|allocated| one(claim, allocated, pool)).collect()
}

fn one(claim: &ClaimRef, allocated: &AllocatedDevice, pool: &str) -> Result<Wanted, Refusal> {
    let via = via(claim, allocated, pool)?;
    let (domain, mode) = named_domain(claim, allocated)?;
    if via == Via::Slot && allocated.pool != pool_of(&domain) {
        return Err(ChannelRefusal::other_domain(claim, allocated, &domain).into());
    }
    Ok(Wanted {
        allocated: allocated.clone(),
        via,
        domain,
        mode,
    })
}

fn via(claim: &ClaimRef, allocated: &AllocatedDevice, pool: &str) -> Result<Via, Refusal> {
    let device = allocated.device.as_str();
    let of_domain = allocated.pool.strip_prefix(POOL_OF_DOMAIN);
    let is_domain = of_domain.is_some_and(|uid| uid.parse::<DomainUid>().is_ok());
    match (allocated.pool == pool, device) {
        (true, NODE_CHANNEL) => Ok(Via::Node),
        (true, device) if NOT_SERVED.contains(&device) => Err(ChannelRefusal::NotServed {
            claim: claim.clone(),
            device: allocated.device.clone(),
        }
        .into()),
        (false, _) if is_domain && device.starts_with(SLOT) => Ok(Via::Slot),
        (_, _) => Err(Refusal::UnknownDevice {
            claim: claim.clone(),
            pool: allocated.pool.clone(),
            device: allocated.device.clone(),
        }),
    }
}

fn named_domain(
    claim: &ClaimRef,
    allocated: &AllocatedDevice,
) -> Result<(DomainUid, AllocationMode), ChannelRefusal> {
    let without = |why: String| ChannelRefusal::WithoutDomain {
        claim: claim.clone(),
        device: allocated.device.clone(),
        why,
    };
    match &allocated.configuration {
        Some(Config::ComputeDomainChannel(config)) => {
            let domain = config.domain_id.parse();
            let domain =
                domain.map_err(|error: super::DomainUidError| without(error.to_string()))?;
            Ok((domain, config.allocation_mode))
        }
        _ => Err(without(
            "no ComputeDomainChannelConfig applies to it".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::testing::{allocation, domain};
    use crate::reason::Reason;

    #[track_caller]
    fn refused(allocation: &Allocation, reason: Reason, mentions: &[&str]) {
        let refusal = wanted(allocation, "node0").unwrap_err();
        let text = refusal.to_string();
        assert_eq!(refusal.reason(), reason, "{text}");
        for mention in mentions {
            assert!(text.contains(mention), "{mention} in {text}");
        }
    }

    #[test]
    fn a_slot_and_the_nodes_channel_are_told_apart_by_their_pools() {
        for (pool, device, via) in [
            ("domain-d1", "slot-7", Via::Slot),
            ("node0", "channel-0", Via::Node),
        ] {
            let wanted = wanted(&allocation("a", pool, device, Some("d1")), "node0").unwrap();
            assert_eq!(wanted[0].via, via);
            assert_eq!(wanted[0].domain, domain("d1"));
        }
    }

    #[test]
    fn what_no_pool_of_the_driver_holds_is_unknown_here() {
        for (pool, device) in [
            ("node0", "channel-1"),
            ("node0", "slot-0"),
            ("node1", "channel-0"),
            ("domain-d1", "channel-0"),
            ("domain-", "slot-0"),
            ("domain-../x", "slot-0"),
        ] {
            let allocation = allocation("a", pool, device, Some("d1"));
            refused(&allocation, Reason::UnknownDevice, &[pool, device]);
        }
    }

    #[test]
    fn a_slot_whose_configuration_names_another_domain_is_refused_with_both() {
        let forged = allocation("a", "domain-d1", "slot-0", Some("d2"));
        refused(&forged, Reason::DomainMismatch, &["d2", "domain-d1"]);
    }

    #[test]
    fn a_channel_without_a_domain_and_what_is_no_channel_are_refused_with_a_remedy() {
        let plain = allocation("a", "domain-d1", "slot-0", None);
        refused(&plain, Reason::ChannelWithoutDomain, &["template"]);
        let odd = allocation("a", "node0", "channel-0", Some("../d1"));
        refused(&odd, Reason::ChannelWithoutDomain, &["../d1"]);
        for device in ["daemon-0", "fabric"] {
            let allocation = allocation("a", "node0", device, Some("d1"));
            refused(&allocation, Reason::DeviceNotServed, &[device]);
        }
    }
}
