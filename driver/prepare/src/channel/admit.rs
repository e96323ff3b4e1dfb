//! Who holds which channel of the node, and whether somebody else may.
//!
//! Two domains that hold one number in one clique can read each other's memory (invariant I9). The
//! controller gives every domain of a clique a number of its own; on its node, this is the last line of
//! defence.
//!
//! # Guarantees
//! What is admitted has no channel in common with any claim of another domain among the records. Pods of
//! one domain share its channel.

use tessera_claim::ClaimRef;

use super::{ChannelRecord, ChannelRefusal, Granted, PreparedChannel, UnreadableChannel};

/// Proof that the lock on the node's channels is held. The shell's lock guard implements it.
pub trait ChannelGuard {}

/// Channels that a claim may have, for as long as the lock is held.
#[derive(Debug)]
pub struct Admitted<'g, G> {
    _guard: &'g G,
    pub(super) claim: ClaimRef,
    pub(super) devices: Vec<Granted>,
}

/// Admits `claim` to its channels, or says who is in the way, by the records that were read while
/// `guard` was held.
///
/// What they say of `claim` itself is not in its way: it is being prepared again.
pub fn admit<'g, 'r, G: ChannelGuard>(
    guard: &'g G,
    records: impl IntoIterator<Item = &'r ChannelRecord>,
    unreadable: &[UnreadableChannel],
    claim: &ClaimRef,
    devices: Vec<Granted>,
) -> Result<Admitted<'g, G>, ChannelRefusal> {
    let records: Vec<&ChannelRecord> = records.into_iter().collect();
    let others = |record: &&&ChannelRecord| record.claim.uid != claim.uid;
    for device in &devices {
        let lost = unreadable.iter().find(|record| record.claim != claim.uid);
        if let Some(lost) = lost {
            return Err(ChannelRefusal::Unaccounted {
                claim: claim.clone(),
                channels: device.channels,
                record: lost.claim.clone(),
                problem: lost.problem.clone(),
            });
        }
        let holder = records.iter().filter(others).find_map(|record| {
            let mut held = record.devices.iter();
            let held = held.find(|held| conflicts(device, held))?;
            Some((&record.claim, held))
        });
        let within = devices
            .iter()
            .find(|other| other.domain != device.domain && device.channels.overlap(other.channels));
        let (by, domain) = match (holder, within) {
            (Some((by, held)), _) => (by, &held.domain),
            (None, Some(other)) => (claim, &other.domain),
            (None, None) => continue,
        };
        return Err(ChannelRefusal::Held {
            claim: claim.clone(),
            device: device.allocated.device.clone(),
            channels: device.channels,
            by: by.clone(),
            domain: domain.clone(),
        });
    }
    Ok(Admitted {
        _guard: guard,
        claim: claim.clone(),
        devices,
    })
}

fn conflicts(device: &Granted, held: &PreparedChannel) -> bool {
    device.domain != held.domain && device.channels.overlap(held.channels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::Channels::{self, All, One};
    use crate::channel::testing::{AllLocked, granted, record};
    use crate::ledger::Flaw;

    fn admits(held: &[(&str, Channels)], domain: &str, channels: Channels) -> bool {
        let records: Vec<ChannelRecord> = (0..)
            .zip(held)
            .map(|(n, (domain, channels))| record(&format!("holder{n}"), domain, *channels))
            .collect();
        let claim = crate::testing::claim("newcomer");
        let devices = vec![granted(domain, channels)];
        admit(&AllLocked, &records, &[], &claim, devices).is_ok()
    }

    #[test]
    fn a_channel_is_shared_within_a_domain_and_with_no_other() {
        for (held, domain, channels, admitted) in [
            (&[][..], "d1", One(1), true),
            (&[("d1", One(1))], "d1", One(1), true),
            (&[("d2", One(2))], "d1", One(1), true),
            (&[("d2", One(1))], "d1", One(1), false),
            (&[("d2", All)], "d1", One(1), false),
            (&[("d2", One(2))], "d1", All, false),
            (&[("d1", One(1)), ("d1", All)], "d1", All, true),
        ] {
            assert_eq!(
                admits(held, domain, channels),
                admitted,
                "{held:?} {domain} {channels}"
            );
        }
    }

    #[test]
    fn a_refusal_names_the_holder_and_its_domain() {
        let held = record("holder", "d2", One(1));
        let claim = crate::testing::claim("newcomer");
        let refusal = admit(
            &AllLocked,
            [&held],
            &[],
            &claim,
            vec![granted("d1", One(1))],
        );
        let text = refusal.unwrap_err().to_string();
        for part in ["default/newcomer", "default/holder", "IMEX channel 1", "d2"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_claim_is_not_in_its_own_way_but_cannot_join_two_domains_by_one_channel() {
        let own = record("a", "d2", One(1));
        let admitted = admit(
            &AllLocked,
            [&own],
            &[],
            &own.claim,
            vec![granted("d1", One(1))],
        );
        assert!(admitted.is_ok());
        let both = vec![granted("d1", One(1)), granted("d2", One(1))];
        assert!(admit(&AllLocked, [], &[], &own.claim, both).is_err());
        let apart = vec![granted("d1", One(1)), granted("d2", One(2))];
        assert!(admit(&AllLocked, [], &[], &own.claim, apart).is_ok());
    }

    #[test]
    fn while_a_record_cannot_be_read_no_channel_is_given_to_another_claim() {
        let lost = UnreadableChannel {
            claim: "lost-uid".parse().unwrap(),
            problem: "damage".to_owned(),
            flaw: Flaw::Damaged,
            copy: None,
        };
        let admits = |claim: &str| {
            let claim = crate::testing::claim(claim);
            let devices = vec![granted("d1", One(1))];
            admit(&AllLocked, [], std::slice::from_ref(&lost), &claim, devices).is_ok()
        };
        assert!(!admits("newcomer"));
        assert!(admits("lost"));
    }

    proptest! {
        #[test]
        fn no_sequence_of_claims_ever_gives_two_domains_one_channel(
            claims in prop::collection::vec((0u8..3, prop::option::of(0u32..3)), 1..12)
        ) {
            let mut records: Vec<ChannelRecord> = Vec::new();
            for (n, (domain, number)) in claims.into_iter().enumerate() {
                let (domain, channels) = (format!("d{domain}"), number.map_or(All, One));
                let newcomer = record(&format!("claim{n}"), &domain, channels);
                let devices = vec![granted(&domain, channels)];
                let free = records.iter().all(|held| held.devices.iter().all(|device| {
                    device.domain.as_str() == domain || !device.channels.overlap(channels)
                }));
                let admitted = admit(&AllLocked, &records, &[], &newcomer.claim, devices).is_ok();
                prop_assert_eq!(admitted, free);
                if admitted {
                    records.push(newcomer);
                }
            }
        }
    }
}
