//! What ends: domains that are deleted, slots that are taken back, and what no domain has any more.

use tessera_api::ComputeDomain;

use super::slices::{slice_end, slots_writes};
use super::{Round, uid};
use crate::place::template_name;
use crate::quarantine;
use crate::situation::Situation;
use crate::template::template_end;
use crate::uninstall;
use crate::world::StoredSlots;
use crate::write::{self, Write};

impl Round<'_> {
    pub(super) fn deleted(
        &mut self,
        domain: &ComputeDomain,
        stored: Option<&StoredSlots>,
    ) -> (Situation, Vec<Write>) {
        let mut writes = self.withdrawal(domain, stored);
        let template = template_name(domain);
        let facts = self.world.template(&template);
        if let Some(facts) = facts.filter(|facts| facts.domain.as_deref() == Some(uid(domain))) {
            writes.extend(template_end(&template, facts));
        }
        if let Some(pods) = self.users.get(uid(domain)) {
            let mut pods = pods.clone();
            pods.sort();
            pods.dedup();
            return (Situation::InUse { pods }, writes);
        }
        writes.extend(uninstall::unfinalized(domain));
        (Situation::Ending, writes)
    }

    pub(super) fn withdrawal(
        &mut self,
        domain: &ComputeDomain,
        stored: Option<&StoredSlots>,
    ) -> Vec<Write> {
        let Some(stored) = stored.filter(|stored| stored.slots.are_offered()) else {
            return Vec::new();
        };
        let withdrawn = stored.slots.withdrawn(self.now);
        let writes = slots_writes(&withdrawn, Some(stored));
        self.promised
            .put(self.world, withdrawn, template_name(domain));
        writes
    }

    /// What no domain has any more: taints, slots of a domain that is gone, channels whose quarantine is over.
    pub(super) fn leftovers(&mut self) -> Vec<Write> {
        let (mut writes, mut ends) = (Vec::new(), Vec::new());
        // A taint of somebody before is that of who has the node now, once it is written.
        let held = self.promised.whole_nodes(self.world);
        let tainted = self.world.nodes().filter(|node| node.held_for().is_some());
        let open = tainted.filter(|node| !held.contains(node.name.as_str()));
        writes.extend(open.map(write::untaint));
        for (domain, stored) in &self.stored {
            let living = self.world.domain_of_uid(domain).is_some();
            if stored.slots.are_offered() {
                if !living {
                    let withdrawn = stored.slots.withdrawn(self.now);
                    writes.extend(slots_writes(&withdrawn, Some(stored)));
                }
                continue;
            }
            // What was offered again in this round is no leftover.
            if self.promised.is_offered(domain) {
                continue;
            }
            let in_use = self.users.contains_key(domain);
            if !in_use && quarantine::is_over(self.world, &self.fabric, &stored.slots, self.now) {
                writes.extend(stored.slices.iter().map(|slice| slice_end(slice)));
            } else {
                ends.extend(quarantine::ends(&stored.slots));
            }
        }
        for end in ends {
            self.due(end);
        }
        writes
    }
}
