//! Whether claim, pool and domain agree, and which channel that comes to.

use tessera_api::AllocationMode;
use tessera_claim::{AllocatedDevice, ClaimRef, NoSlot, Slot};

use super::{ChannelRefusal, Channels, Disagreement, DomainUid, Wanted};

/// What the API server says about the domain of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainFacts {
    /// What the domain's slices say of the slot.
    Slot(Result<Slot, NoSlot>),
    /// The UIDs of the `ComputeDomain`s in the claim's namespace.
    OfNamespace(Vec<String>),
}

/// A device with the channels that the claim may have, as long as nobody else's are in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// What the scheduler allocated.
    pub allocated: AllocatedDevice,
    /// The domain.
    pub domain: DomainUid,
    /// The channels.
    pub channels: Channels,
}

/// The channel that `wanted` comes to.
///
/// A slot is granted to claims of its domain's own namespace that name the domain; what the slice says
/// counts, because a tenant writes claims and not slices. The node's channel is granted to claims that
/// name a domain of their own namespace, as the reference driver grants it.
pub fn grant(
    claim: &ClaimRef,
    wanted: Wanted,
    facts: &DomainFacts,
) -> Result<Granted, ChannelRefusal> {
    let number = match facts {
        DomainFacts::Slot(slot) => of_slot(claim, &wanted, slot.as_ref())?,
        DomainFacts::OfNamespace(domains) => of_node(claim, &wanted, domains)?,
    };
    let channels = match wanted.mode {
        AllocationMode::Single => Channels::One(number),
        AllocationMode::All => Channels::All,
    };
    Ok(Granted {
        allocated: wanted.allocated,
        domain: wanted.domain,
        channels,
    })
}

fn of_slot(
    claim: &ClaimRef,
    wanted: &Wanted,
    slot: Result<&Slot, &NoSlot>,
) -> Result<u32, ChannelRefusal> {
    let slot = slot.map_err(|missing| {
        let missing = match missing {
            NoSlot::Absent => "there is no such slot any more".to_owned(),
            NoSlot::Malformed { attribute } => format!(
                "its ResourceSlice does not say what it must (attribute {attribute}); the controller \
                 writes it"
            ),
        };
        not_found(claim, wanted, missing)
    })?;
    let mismatch = |disagreement| ChannelRefusal::Mismatch {
        claim: claim.clone(),
        device: wanted.allocated.device.clone(),
        pool: wanted.allocated.pool.clone(),
        disagreement,
    };
    if slot.domain != wanted.domain.as_str() {
        return Err(mismatch(Disagreement::Domain {
            named: wanted.domain.clone(),
            of: format!("ComputeDomain {}", slot.domain),
        }));
    }
    if slot.namespace != claim.namespace {
        return Err(mismatch(Disagreement::Namespace {
            domain: slot.namespace.clone(),
        }));
    }
    Ok(slot.channel)
}

/// The reference driver has one channel for everybody, which is number 0.
fn of_node(claim: &ClaimRef, wanted: &Wanted, domains: &[String]) -> Result<u32, ChannelRefusal> {
    let known = domains.iter().any(|uid| uid == wanted.domain.as_str());
    let missing = || {
        format!(
            "namespace {} has no ComputeDomain with UID {}",
            claim.namespace, wanted.domain
        )
    };
    known
        .then_some(0)
        .ok_or_else(|| not_found(claim, wanted, missing()))
}

fn not_found(claim: &ClaimRef, wanted: &Wanted, missing: String) -> ChannelRefusal {
    ChannelRefusal::NotFound {
        claim: claim.clone(),
        device: wanted.allocated.device.clone(),
        pool: wanted.allocated.pool.clone(),
        missing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::testing::{all_of, allocation, domain};
    use crate::channel::wanted;

    fn slot(domain: &str, namespace: &str) -> DomainFacts {
        DomainFacts::Slot(Ok(Slot {
            domain: domain.to_owned(),
            namespace: namespace.to_owned(),
            channel: 5,
        }))
    }

    fn granted(pool: &str, device: &str, facts: &DomainFacts) -> Result<Channels, ChannelRefusal> {
        let allocation = allocation("a", pool, device, Some("d1"));
        let wanted = wanted(&allocation, "node0").unwrap().remove(0);
        grant(&allocation.claim, wanted, facts).map(|granted| {
            assert_eq!(granted.domain, domain("d1"));
            granted.channels
        })
    }

    #[test]
    fn a_slot_is_granted_to_its_own_domain_in_its_own_namespace_only() {
        let of = |facts: &DomainFacts| granted("domain-d1", "slot-0", facts);
        assert_eq!(of(&slot("d1", "default")), Ok(Channels::One(5)));
        let other_namespace = of(&slot("d1", "team-b")).unwrap_err().to_string();
        assert!(
            other_namespace.contains("namespace team-b"),
            "{other_namespace}"
        );
        // Whoever writes slices has written nonsense; nobody gets a channel by it.
        let other_domain = of(&slot("d2", "default")).unwrap_err().to_string();
        assert!(other_domain.contains("ComputeDomain d2"), "{other_domain}");
        for lacking in [
            NoSlot::Absent,
            NoSlot::Malformed {
                attribute: "channel",
            },
        ] {
            let refusal = of(&DomainFacts::Slot(Err(lacking))).unwrap_err();
            assert!(
                matches!(refusal, ChannelRefusal::NotFound { .. }),
                "{refusal}"
            );
        }
    }

    proptest! {
        /// S5: whatever pool, device and domain a tenant writes into its claim, what the slice says decides.
        #[test]
        fn s5_a_channel_is_granted_to_claims_of_its_domain_and_namespace_alone(
            pool in "(domain-d[12]|node0)", named in "d[12]", namespace in "team-[ab]",
            of in "d[12]", of_namespace in "team-[ab]", all in any::<bool>(),
        ) {
            let mut claimed = allocation("a", &pool, "slot-0", Some(&named));
            claimed.claim.namespace.clone_from(&namespace);
            let claimed = if all { all_of(claimed) } else { claimed };
            let facts = slot(&of, &of_namespace);
            let wanted = wanted(&claimed, "node0").map(|mut wanted| wanted.remove(0));
            let granted = wanted.and_then(|wanted| Ok(grant(&claimed.claim, wanted, &facts)?));
            let own = (&named, &namespace) == (&of, &of_namespace);
            prop_assert!(own || granted.is_err(), "{granted:?}");
            prop_assert!(!own || pool != format!("domain-{of}") || granted.is_ok(), "{granted:?}");
        }
    }

    #[test]
    fn the_nodes_channel_is_granted_for_a_domain_of_the_claims_namespace() {
        let of = |uids: &[&str]| {
            let uids = uids.iter().map(|uid| (*uid).to_owned()).collect();
            granted("node0", "channel-0", &DomainFacts::OfNamespace(uids))
        };
        assert_eq!(of(&["d0", "d1"]), Ok(Channels::One(0)));
        let text = of(&["d0"]).unwrap_err().to_string();
        assert!(
            text.contains("namespace default has no ComputeDomain with UID d1"),
            "{text}"
        );
    }

    #[test]
    fn a_claim_for_all_channels_gets_all_whatever_the_slots_number() {
        let allocation = all_of(allocation("a", "domain-d1", "slot-0", Some("d1")));
        let wanted = wanted(&allocation, "node0").unwrap().remove(0);
        let granted = grant(&allocation.claim, wanted, &slot("d1", "default")).unwrap();
        assert_eq!(granted.channels, Channels::All);
    }
}
