//! Domains of a fixed size: nodes for all of the gang, or for none.

use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};
use tessera_api::ComputeDomain;
use tessera_gang::{Demand, Policy};

use super::{Round, after, uid};
use crate::demand;
use crate::place::{NotPlaced, template_name};
use crate::policy;
use crate::situation::Situation;
use crate::slots::Slots;
use crate::status::{self, IN_USE};
use crate::world::StoredSlots;

/// How long slots outlive their last pod: a job that is made again takes its nodes again.
pub(super) const IDLE: SignedDuration = SignedDuration::from_secs(30);

impl Round<'_> {
    /// A gang: nodes for all of it, or for none.
    pub(super) fn gang(
        &mut self,
        domain: &ComputeDomain,
        nodes: NonZeroU32,
        stored: Option<&StoredSlots>,
    ) -> (Situation, Option<Slots>) {
        if let Some(by) = self.ending.get(uid(domain)) {
            return self.yielding(stored, by.clone());
        }
        let chosen = policy::chosen(self.world, domain, nodes, self.rules.preemption);
        if let Some(stored) = stored.filter(|stored| stored.slots.are_offered()) {
            if stored.slots.wait() {
                return self.preempting(domain, stored);
            }
            if let Some(slots) = chosen
                .as_ref()
                .ok()
                .and_then(|chosen| self.recovered(domain, &stored.slots, chosen))
            {
                let placed = self.placed(&slots, Some(slots.hostnames.len()));
                return (Situation::Placed(placed), Some(slots));
            }
            // What is wrong with a policy takes nothing away from whom it has placed.
            let (policy, replaces) = chosen.map_or_else(
                |_| (Policy::default(), false),
                |chosen| (chosen.policy, chosen.replaces),
            );
            return self.kept(domain, stored, &policy, replaces);
        }
        if let Some(slots) = stored.and_then(|stored| self.returned(domain, stored)) {
            let placed = self.placed(&slots, Some(slots.hostnames.len()));
            return (Situation::Placed(placed), Some(slots));
        }
        let chosen = match chosen {
            Ok(chosen) => chosen,
            Err(why) => return (Situation::NotPlaced(why.into()), None),
        };
        let site = self.site();
        let wanted = match demand::wanted(self.world, domain, nodes, site.largest()) {
            Ok(Some(wanted)) => wanted,
            Ok(None) => {
                let template = template_name(domain);
                return (Situation::AwaitingPods { template }, None);
            }
            Err(unknown) => return (Situation::AwaitingClaims { pod: unknown.pod }, None),
        };
        let earlier = stored.map(|stored| &stored.slots);
        let demand = site.demand(domain, &chosen, &wanted);
        match site.gang(domain, &demand, earlier) {
            Ok(slots) => {
                let placed = self.placed(&slots, Some(slots.hostnames.len()));
                (Situation::Placed(placed), Some(slots))
            }
            Err(why) => self.without_room(domain, &demand, earlier, why),
        }
    }

    /// A gang for which there is no room as things are: others are ended for it, or it waits.
    fn without_room(
        &mut self,
        domain: &ComputeDomain,
        demand: &Demand,
        earlier: Option<&Slots>,
        why: NotPlaced,
    ) -> (Situation, Option<Slots>) {
        if let Some(slots) = self.preemption(domain, demand, earlier) {
            return (Situation::Preempting(self.progress(&slots)), Some(slots));
        }
        self.waits(domain, demand, &why);
        (Situation::NotPlaced(why), None)
    }

    /// A gang that has its slots: they stay, grow with its pods, are closed, or are taken back.
    fn kept(
        &mut self,
        domain: &ComputeDomain,
        stored: &StoredSlots,
        policy: &Policy,
        replaces: bool,
    ) -> (Situation, Option<Slots>) {
        let slots = &stored.slots;
        let placed = self.placed(slots, Some(slots.hostnames.len()));
        let (pending, bound) = self.world.stages(domain);
        let used = self.users.contains_key(uid(domain));
        let end = if pending == 0 {
            after(self.idle_since(domain), IDLE)
        } else {
            let limit = SignedDuration::try_from(policy.bind_timeout);
            after(slots.offered, limit.unwrap_or(SignedDuration::MAX))
        };
        let unused = bound == 0 && !used;
        let over = unused && (placed.is_broken() || self.now >= end);
        if unused {
            self.due(end);
        }
        if over {
            let template = template_name(domain);
            let withdrawn = slots.withdrawn(self.now);
            return (Situation::AwaitingPods { template }, Some(withdrawn));
        }
        // Where nodes are replaced one by one, the pods of the others come and go as they like.
        let closes = placed.is_broken() && !(replaces && bound > 0);
        let needed = self.site().slots_needed(domain);
        let next = if closes {
            slots.closed(&self.world.slots_held(uid(domain)))
        } else if slots.closed.is_some() || needed > slots.count {
            slots.opened(self.site().slots_to_offer(domain))
        } else {
            slots.clone()
        };
        (Situation::Placed(placed), (next != *slots).then_some(next))
    }

    /// Since when no pod of a domain is there: as the stored status says, or from now on.
    pub(super) fn idle_since(&self, domain: &ComputeDomain) -> Timestamp {
        let stored = domain.status.as_ref();
        let used = stored.and_then(|status| status::condition(status, IN_USE));
        let unused = used.filter(|used| used.status == "False");
        unused.map_or(self.now, |unused| unused.last_transition_time.0)
    }
}
