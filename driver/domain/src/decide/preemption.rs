//! Gangs that get the nodes of others of lower priority.
//!
//! # Flow
//! 1. The gang's slots are written, without devices, on the nodes that it is to have: from then on they are held for it.
//!    The slice names the domains that make room ([`Slots::awaits`]), and is the only record of what has begun.
//! 2. The slots of these domains are withdrawn, so that pods which are made again do not come back.
//! 3. Their pods are evicted.
//! 4. When none of them is left, the gang's slots get their devices.
//!
//! Each of these is decided from what is stored, and only when the one before it is.
//!
//! # Guarantees
//! Nobody is ended before there are nodes and a channel for the whole gang. Every pod that is evicted has a lower
//! priority than every pod of the gang, and is of a domain whose policy lets it be ended.

use std::collections::{BTreeMap, BTreeSet};

use tessera_api::{ComputeDomain, DomainSize};
use tessera_gang::preempt::preempt;
use tessera_gang::running::Running;
use tessera_gang::{Demand, GangId};

use super::gang::IDLE;
use super::{Decision, Round, after, uid};
use crate::facts::{ObjectName, PodFacts, PodStage};
use crate::place::template_name;
use crate::policy;
use crate::situation::{Preempting, Situation};
use crate::slots::{MOST_SLOTS, Slots};
use crate::world::{StoredSlots, World};
use crate::write;

/// Most domains that are ended for one: as many UIDs as an annotation has room for many times over
/// (`TotalAnnotationSizeLimitB` in `pkg/apis/core/validation/validation.go` is 256 KiB).
const MOST_VICTIMS: usize = 512;

/// The domains that are being ended, by their UIDs, each with the one for which it is: as far as slots that are stored say.
pub(super) fn ending(stored: &BTreeMap<&str, StoredSlots>) -> BTreeMap<String, ObjectName> {
    let waiting = stored.values().filter(|stored| stored.slots.wait());
    waiting
        .flat_map(|stored| {
            let slots = &stored.slots;
            slots.awaits.iter().map(|uid| (uid, &slots.name))
        })
        .map(|(uid, by)| (uid.clone(), by.clone()))
        .collect()
}

impl Round<'_> {
    /// The slots of a gang for which there is room only if others end: they wait for these.
    pub(super) fn preemption(
        &self,
        domain: &ComputeDomain,
        demand: &Demand,
        earlier: Option<&Slots>,
    ) -> Option<Slots> {
        if !(self.rules.preemption && demand.policy.preempts) {
            return None;
        }
        let demand = Demand {
            priority: rank(self.world, domain)?,
            ..demand.clone()
        };
        // What others are ended for is as good as gone, and may be enough for this one too.
        let leaving = self.leaving();
        let running = self.running();
        let site = self.site();
        let asked = site.asked(&demand);
        let preemption = if leaving.is_empty() {
            site.behind(domain, &asked, |cluster| preempt(cluster, &asked, running))
        } else {
            let mut cluster = site.cluster_without(domain, &leaving);
            site.keep(&mut cluster, &asked);
            preempt(&cluster, &asked, running)
        }?;
        let slots = site
            .slots(domain, &demand, &preemption.placement, earlier)
            .ok()?;
        let mut awaits: BTreeSet<String> = leaving
            .into_iter()
            .filter(|other| self.is_on(other, &slots))
            .collect();
        let victims = preemption.victims.iter().map(GangId::as_str);
        awaits.extend(victims.map(str::to_owned));
        (awaits.len() <= MOST_VICTIMS).then(|| Slots {
            count: 0,
            awaits: awaits.into_iter().collect(),
            ..slots
        })
    }

    /// The domains that are being ended, or will be after this round, but for those that a budget keeps.
    pub(super) fn leaving(&self) -> BTreeSet<String> {
        let waiting = self.promised.all().filter(|slots| slots.wait());
        let awaited = waiting.flat_map(|slots| &slots.awaits);
        let kept = |uid: &&String| {
            let mut pods = self.pods_to_end(uid);
            pods.any(|pod| self.world.budget(&pod.name).is_some())
        };
        awaited.filter(|uid| !kept(uid)).cloned().collect()
    }

    /// Whether a domain has, or had until now, a node of these slots.
    fn is_on(&self, domain: &str, slots: &Slots) -> bool {
        let own = self.stored.get(domain).map(|stored| &stored.slots);
        own.is_some_and(|own| meet(own, slots))
    }

    /// The gangs that have nodes, as far as somebody may be ended for others: looked up once in a round.
    fn running(&self) -> &[Running] {
        self.running.get_or_init(|| {
            let running = self.world.domains().filter_map(|domain| {
                let stored = self.stored.get(uid(domain))?;
                let DomainSize::Gang(nodes) = domain.spec.size() else {
                    return None;
                };
                let slots = &stored.slots;
                let settled = slots.are_offered() && !slots.wait();
                let ends = self.ending.contains_key(uid(domain))
                    || domain.metadata.deletion_timestamp.is_some();
                let chosen = policy::chosen(self.world, domain, nodes, self.rules.preemption);
                let priorities = self.world.pods_of(domain).map(|pod| pod.priority);
                Some(Running {
                    gang: uid(domain).into(),
                    priority: priorities.max()?,
                    ran_for: self
                        .now
                        .duration_since(slots.offered)
                        .try_into()
                        .unwrap_or_default(),
                    ends_in: None,
                    may_be_ended: settled && !ends && chosen.is_ok_and(|it| it.preemptible),
                })
            });
            running.collect()
        })
    }

    /// A gang that waits for others to end: its nodes stay held until it gets its slots, or it is given up.
    pub(super) fn preempting(
        &mut self,
        domain: &ComputeDomain,
        stored: &StoredSlots,
    ) -> (Situation, Option<Slots>) {
        let slots = &stored.slots;
        let placed = self.placed(slots, Some(slots.hostnames.len()));
        let rank = rank(self.world, domain);
        let idle = self.world.pods_of(domain).next().is_none();
        let over = if idle {
            let end = after(self.idle_since(domain), IDLE);
            self.due(end);
            self.now >= end
        } else {
            // Whoever it may not end stays, and it cannot wait for that.
            rank.is_none_or(|rank| {
                self.awaited(slots)
                    .any(|pod| !pod.ending && pod.priority >= rank)
            })
        };
        if over || placed.is_broken() || !self.rules.preemption {
            let template = template_name(domain);
            let withdrawn = slots.withdrawn(self.now);
            return (Situation::AwaitingPods { template }, Some(withdrawn));
        }
        let holds = |uid: &String| {
            let stored = self.stored.get(uid.as_str());
            stored.is_some_and(|stored| stored.slots.are_offered())
        };
        if self.awaited(slots).next().is_none() && !slots.awaits.iter().any(holds) {
            let offered = Slots {
                count: self.site().slots_to_offer(domain),
                awaits: Vec::new(),
                offered: self.now,
                ..slots.clone()
            };
            return (Situation::Placed(placed), Some(offered));
        }
        (Situation::Preempting(self.progress(slots)), None)
    }

    /// How far it is with those for whose end slots wait.
    pub(super) fn progress(&self, slots: &Slots) -> Preempting {
        let names = |uid: &String| {
            let domain = self.world.domain_of_uid(uid)?;
            Some(ObjectName::of(&domain.metadata).to_string())
        };
        Preempting {
            nodes: slots.hostnames.len(),
            victims: slots.awaits.iter().filter_map(names).collect(),
            kept: self.awaited(slots).find_map(|pod| {
                let why = self.world.budget(&pod.name)?.to_owned();
                Some((pod.name.clone(), why))
            }),
        }
    }

    /// A domain that is being ended for another.
    pub(super) fn yielding(
        &self,
        stored: Option<&StoredSlots>,
        by: ObjectName,
    ) -> (Situation, Option<Slots>) {
        let offered = stored.filter(|stored| stored.slots.are_offered());
        let withdrawn = offered.map(|stored| stored.slots.withdrawn(self.now));
        (Situation::Preempted { by }, withdrawn)
    }

    /// The slots of a gang whose pods go on: those for which they were withdrawn did not take their nodes.
    pub(super) fn returned(&self, domain: &ComputeDomain, stored: &StoredSlots) -> Option<Slots> {
        let slots = &stored.slots;
        bound(self.world, domain).find(|pod| !pod.ending)?;
        let taken = self.promised.offered().any(|(other, _)| meet(other, slots));
        let held = self.world.slots_held(uid(domain));
        let held = held.last().map_or(0, |last| last.saturating_add(1));
        let count = self.site().slots_to_offer(domain).max(held.min(MOST_SLOTS));
        (!taken).then(|| Slots {
            count,
            released: None,
            ..slots.clone()
        })
    }

    /// The evictions that are due: of pods of domains whose slots are withdrawn, for gangs that hold their nodes.
    pub(super) fn evictions(&self) -> Vec<Decision> {
        if !self.rules.preemption {
            return Vec::new();
        }
        // Of one that ends for several, once.
        let mut due: BTreeMap<&ObjectName, Vec<&PodFacts>> = BTreeMap::new();
        let waiting = self.stored.values().filter(|stored| stored.slots.wait());
        for slots in waiting.map(|stored| &stored.slots) {
            // Given up in this round.
            let goes_on = self.promised.offered_to(&slots.domain);
            if goes_on.is_none_or(|slots| !slots.wait()) {
                continue;
            }
            let preemptor = self.world.domain_of_uid(&slots.domain);
            let Some(rank) = preemptor.and_then(|domain| rank(self.world, domain)) else {
                continue;
            };
            for uid in &slots.awaits {
                let pods = self.pods_to_end(uid);
                let ends = pods.filter(|pod| !pod.ending && pod.priority < rank);
                let ends: Vec<&PodFacts> = ends.collect();
                if let Some(first) = ends.first() {
                    due.insert(&first.name, ends);
                }
            }
        }
        let each = due.into_values().map(|pods| Decision {
            writes: pods.into_iter().map(write::evict).collect(),
            ..Decision::default()
        });
        each.collect()
    }

    /// The pods for whose end slots wait.
    fn awaited<'a>(&'a self, slots: &'a Slots) -> impl Iterator<Item = &'a PodFacts> {
        let domains = slots.awaits.iter();
        let domains = domains.filter_map(|uid| self.world.domain_of_uid(uid));
        domains.flat_map(|domain| bound(self.world, domain))
    }

    /// The pods of a domain that is being ended; none as long as others could come after them.
    fn pods_to_end<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a PodFacts> + use<'a> {
        let stored = self.stored.get(uid);
        let withdrawn = stored.is_none_or(|stored| !stored.slots.are_offered());
        let domain = self.world.domain_of_uid(uid).filter(|_| withdrawn);
        domain
            .into_iter()
            .flat_map(|domain| bound(self.world, domain))
    }
}

/// The least priority among the pods of a gang, all of which are to run together: only who is below each of them is ended.
/// None where there is no pod, or one whose priority class ends nobody.
fn rank(world: &World, domain: &ComputeDomain) -> Option<i32> {
    let mut pods = world.pods_of(domain);
    pods.try_fold(None, |least: Option<i32>, pod| {
        (!pod.never_preempts).then(|| Some(least.map_or(pod.priority, |it| it.min(pod.priority))))
    })?
}

pub(super) fn bound<'a>(
    world: &'a World,
    domain: &'a ComputeDomain,
) -> impl Iterator<Item = &'a PodFacts> {
    let pods = world.pods_of(domain);
    pods.filter(|pod| pod.stage == PodStage::Bound)
}

/// Whether slots have a node in common.
fn meet(one: &Slots, other: &Slots) -> bool {
    let nodes: BTreeSet<&String> = one.hostnames.iter().chain(&one.spares).collect();
    let mut others = other.hostnames.iter().chain(&other.spares);
    others.any(|node| nodes.contains(node))
}
