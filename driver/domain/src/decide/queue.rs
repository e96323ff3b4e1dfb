//! Whose turn it is, and what is kept for whom.
//!
//! # Flow
//! Domains are gone through in [`in_order`]. The first gang for which there is no room though others' ends could help it is the
//! head of the queue: those behind it are planned beside the nodes that it is to have ([`Head`]).
//!
//! # Guarantees
//! - Nothing of it is stored: how long a domain waits stands in its status, and for which nodes the head waits follows from what
//!   is held. Another controller goes on with the same.
//! - Where the head has room as soon as those have gone who are on their way out, nobody behind it gets a node of that plan. Where
//!   nobody knows when it has room, that holds from when it has waited for [`Queue::promote_after`].
//! - Nodes that are kept are kept from other domains alone. A domain that runs and has lost a node gets one of them: else the
//!   head might wait for a domain that waits for it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use tessera_api::ComputeDomain;
use tessera_gang::head::Head;
use tessera_gang::queue::{Rules as Queue, Turn};
use tessera_gang::{Blocked, Demand};

use super::preemption::bound;
use super::{Round, after, seniority};
use crate::facts::ObjectName;
use crate::place::{Ahead, NotPlaced};
use crate::slots::Slots;
use crate::status;
use crate::tenants::Tenants;
use crate::world::World;

/// Domains that have waited long enough first, in the order in which they began to wait; then those of higher priority, of
/// the same the older.
pub(super) fn in_order(world: &World, now: Timestamp) -> Vec<&ComputeDomain> {
    let rules = Queue::default();
    let mut domains: Vec<&ComputeDomain> = world.domains().collect();
    domains.sort_by_cached_key(|domain| {
        let priorities = world.pods_of(domain).map(|pod| pod.priority);
        let waiting = status::waiting(domain, now);
        let turn = rules.turn(priorities.max().unwrap_or(0), waiting);
        let longest = (turn == Turn::Aged).then_some(Reverse(waiting));
        (turn, longest, seniority(domain))
    });
    domains
}

impl Round<'_> {
    /// There is no room for a gang: if it is the first, others are kept off the nodes that it is to have.
    pub(super) fn waits(&mut self, domain: &ComputeDomain, demand: &Demand, why: &NotPlaced) {
        let rules = Queue::default();
        if self.ahead.is_none() && why.blocked().is_some_and(Blocked::passes) {
            self.ahead = self.head(domain, demand, rules);
        }
        let began = after(
            self.now,
            -SignedDuration::try_from(demand.waiting).unwrap_or(SignedDuration::MAX),
        );
        for pause in [rules.promote_after, rules.aged_after] {
            let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
            self.due(after(began, pause));
        }
    }

    fn head(&self, domain: &ComputeDomain, demand: &Demand, rules: Queue) -> Option<Ahead> {
        let site = self.site();
        let demand = &site.asked(demand);
        let going = self.going();
        let soon = if going.is_empty() {
            None
        } else {
            tessera_gang::place(&site.cluster_without(domain, &going), demand)
        };
        let head = match soon {
            Some(placement) => Head::about_to_begin(demand, &placement),
            // Nobody says how long a domain runs.
            None => site.with_cluster(domain, |cluster| {
                Head::of(cluster, demand, &[], None, rules)
            })?,
        };
        let whole = self.tenants.as_ref().is_some_and(Tenants::are_needed);
        Some(Ahead {
            name: ObjectName::of(&domain.metadata),
            head: if whole {
                head.keeping_whole_nodes()
            } else {
                head
            },
        })
    }

    /// The domains that are on their way out, by their UIDs: they are gone or deleted, have let their nodes go or are ended, and
    /// have no pods but such as are ending.
    fn going(&self) -> BTreeSet<String> {
        let mut going = self.leaving();
        let known = self.promised.all().filter(|slots| self.goes(slots));
        going.extend(known.map(|slots| slots.domain.clone()));
        going
    }

    fn goes(&self, slots: &Slots) -> bool {
        let Some(domain) = self.world.domain_of_uid(&slots.domain) else {
            return slots.are_offered();
        };
        let over = !slots.are_offered() || domain.metadata.deletion_timestamp.is_some();
        let mut pods = bound(self.world, domain).peekable();
        // Slots that were let go, and whose pods have gone, are in nobody's way.
        let holds = slots.are_offered() || pods.peek().is_some();
        over && holds && pods.all(|pod| pod.ending)
    }
}
