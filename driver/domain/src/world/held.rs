//! The slots that domains have, and the claims and pods that have them.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use crate::keys::domain_of_pool;
use crate::slots::{SliceFacts, Slots, slot_number};

/// The slots of a domain as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSlots {
    /// The slots, with their whole number.
    pub slots: Slots,
    /// Generation of their pool.
    pub generation: i64,
    /// The names of their slices.
    pub slices: Vec<String>,
}

impl World {
    /// The slots of every domain that has some, by the domain's UID. Of a pool's slices those of the
    /// highest generation count, as for the scheduler.
    pub fn slots(&self) -> BTreeMap<&str, StoredSlots> {
        let mut all: BTreeMap<&str, StoredSlots> = BTreeMap::new();
        for (name, slice) in self.slices.iter() {
            let SliceFacts::Slots { slots, generation } = slice else {
                continue;
            };
            let new = || StoredSlots {
                slots: slots.clone(),
                generation: *generation,
                slices: Vec::new(),
            };
            match all.get_mut(slots.domain.as_str()) {
                None => drop(all.insert(&slots.domain, new())),
                Some(stored) if stored.generation < *generation => {
                    let slices = std::mem::take(&mut stored.slices);
                    *stored = new();
                    stored.slices = slices;
                }
                Some(stored) if stored.generation == *generation => {
                    stored.slots.join(slots);
                }
                Some(_) => {}
            }
            if let Some(stored) = all.get_mut(slots.domain.as_str()) {
                stored.slices.push(name.name.clone());
            }
        }
        all
    }

    /// The pods that hold a slot of each domain, by the domain's UID.
    pub fn users(&self) -> BTreeMap<&str, Vec<String>> {
        let mut users: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for claim in self.claims() {
            for slot in &claim.slots {
                let Some(domain) = domain_of_pool(&slot.pool) else {
                    continue;
                };
                let of = users.entry(domain).or_default();
                if claim.users.is_empty() {
                    // Allocated and used by nobody: about to be used, or about to be let go.
                    of.push(claim.name.to_string());
                }
                of.extend(claim.users.iter().cloned());
            }
        }
        users
    }

    /// The numbers of the slots that claims hold of a domain.
    pub fn slots_held(&self, domain: &str) -> BTreeSet<u32> {
        let held = self.claims().flat_map(|claim| &claim.slots);
        let own = held.filter(|slot| domain_of_pool(&slot.pool) == Some(domain));
        own.filter_map(|slot| slot_number(&slot.device)).collect()
    }
}
