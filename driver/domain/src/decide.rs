//! What is to be written now, domain by domain.
//!
//! # Flow
//! [`decide`] looks at everything that is known and answers the writes that bring the cluster nearer to what
//! it should be. They are done in order; then it is asked again. When nothing is to be written, all is as it
//! should be.
//!
//! # Guarantees
//! - The slots are the first write of a plan and its only record, so that a crash between any two writes
//!   is made good by the next decision.
//! - Domains are gone through in one order, by priority and age: of two that cannot both be placed it is the
//!   same that waits, whatever the order of events.
//! - A domain that is deleted stays until no pod uses it, and then goes whatever nodes say: what they have not
//!   let go of is kept in quarantine by the slice, not by the domain.

pub mod outlook;
mod recovery;
mod report;
mod slices;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tessera_api::{ComputeDomain, DomainSize};
use tessera_gang::{Levels, Policy};

use self::slices::{slice_end, slots_writes};
use crate::apart::apart;
use crate::cliques::Sessions;
use crate::demand;
use crate::facts::{FabricFacts, ObjectName, PodStage};
use crate::keys;
use crate::notice::{self, Notice};
use crate::place::{Site, template_name};
use crate::policy;
use crate::promised::{self, Promised};
use crate::quarantine;
use crate::situation::{Placed, Situation};
use crate::slots::{Holds, Slots};
use crate::status::{self, IN_USE};
use crate::template::{self, template_end};
use crate::uninstall;
use crate::world::{Kind, StoredSlots, World};
use crate::write::{self, Verb, Write};

/// How long slots outlive their last pod: a job that is made again takes its nodes again.
const IDLE: SignedDuration = SignedDuration::from_secs(30);

/// What is to be done about one domain, in this order. When a write fails, the later ones of the same
/// domain are not done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The domain; none for what no domain has any more.
    pub domain: Option<ObjectName>,
    /// The writes.
    pub writes: Vec<Write>,
    /// What is told when they are done.
    pub notices: Vec<Notice>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// For each domain for which there is something.
    pub each: Vec<Decision>,
    /// How many domains there are by the reason of their condition `Ready`.
    pub reasons: BTreeMap<&'static str, usize>,
    /// Whether something is to be decided when time has passed, even if nothing happens.
    pub time_matters: bool,
}

/// What is to be written now. `levels` are the topology levels that policies may name.
pub fn decide(world: &World, levels: &Levels, now: Timestamp) -> Decisions {
    let mut round = Round::new(world, levels, now);
    for domain in in_order(world) {
        let decision = round.domain(domain);
        round.note(decision);
    }
    for write in round.leftovers() {
        round.note(Decision {
            writes: vec![write],
            ..Decision::default()
        });
    }
    round.decisions
}

/// Domains of higher priority first, of the same the older.
fn in_order(world: &World) -> Vec<&ComputeDomain> {
    let mut domains: Vec<&ComputeDomain> = world.domains().collect();
    domains.sort_by_cached_key(|domain| {
        let priorities = world.pods_of(domain).map(|pod| pod.priority);
        (Reverse(priorities.max().unwrap_or(0)), seniority(domain))
    });
    domains
}

/// The oldest domain that wants each template.
fn claimants(world: &World) -> BTreeMap<ObjectName, &ComputeDomain> {
    let mut oldest: BTreeMap<ObjectName, &ComputeDomain> = BTreeMap::new();
    for domain in world.domains() {
        let first = oldest.entry(template_name(domain)).or_insert(domain);
        if seniority(domain) < seniority(first) {
            *first = domain;
        }
    }
    oldest
}

/// Older domains come first; of the same second, by UID.
fn seniority(domain: &ComputeDomain) -> (Timestamp, String) {
    let created = crate::facts::time(domain.metadata.creation_timestamp.as_ref());
    (created, uid(domain).to_owned())
}

fn uid(domain: &ComputeDomain) -> &str {
    domain.metadata.uid.as_deref().unwrap_or_default()
}

/// One look at everything.
struct Round<'w> {
    world: &'w World,
    levels: &'w Levels,
    now: Timestamp,
    fabric: BTreeMap<&'w str, &'w FabricFacts>,
    sessions: Sessions<'w>,
    stored: BTreeMap<&'w str, StoredSlots>,
    users: BTreeMap<&'w str, Vec<String>>,
    promised: Promised,
    /// The oldest domain that wants each template.
    claimants: BTreeMap<ObjectName, &'w ComputeDomain>,
    decisions: Decisions,
}

impl<'w> Round<'w> {
    fn new(world: &'w World, levels: &'w Levels, now: Timestamp) -> Self {
        let stored = world.slots();
        Self {
            world,
            levels,
            now,
            fabric: world.fabric(),
            sessions: Sessions::of(world),
            users: world.users(),
            promised: Promised::of(&stored, world),
            claimants: claimants(world),
            stored,
            decisions: Decisions::default(),
        }
    }

    fn note(&mut self, decision: Decision) {
        if !decision.writes.is_empty() || !decision.notices.is_empty() {
            self.decisions.each.push(decision);
        }
    }

    fn domain(&mut self, domain: &ComputeDomain) -> Decision {
        let stored = self.stored.get(uid(domain)).cloned();
        let (situation, mut writes) = if domain.metadata.deletion_timestamp.is_some() {
            self.deleted(domain, stored.as_ref())
        } else if let Some(refusal) = self.refusal(domain) {
            (refusal, self.withdrawal(domain, stored.as_ref()))
        } else {
            self.living(domain, stored.as_ref())
        };
        let reason = situation.ready().reason;
        *self.decisions.reasons.entry(reason).or_default() += 1;
        let notices = notice::notices(self.world, domain, &situation);
        // Nobody reads the status of what goes with this round.
        if situation != Situation::Ending {
            writes.extend(self.status(domain, &situation, stored.as_ref()));
        }
        Decision {
            domain: Some(ObjectName::of(&domain.metadata)),
            writes,
            notices,
        }
    }

    /// Why a domain cannot be served at all: its template's name is another's.
    fn refusal(&self, domain: &ComputeDomain) -> Option<Situation> {
        let template = template_name(domain);
        let first = self.claimants.get(&template);
        if let Some(rival) = first.filter(|first| uid(first) != uid(domain)) {
            let by = ObjectName::of(&rival.metadata);
            return Some(Situation::TemplateNameTaken { template, by });
        }
        let facts = self.world.template(&template)?;
        let ours = facts.domain.as_deref() == Some(uid(domain));
        (!ours).then_some(Situation::TemplateNotOurs { template })
    }

    fn living(
        &mut self,
        domain: &ComputeDomain,
        stored: Option<&StoredSlots>,
    ) -> (Situation, Vec<Write>) {
        let mut writes = Vec::new();
        let finalizers = domain.metadata.finalizers.iter().flatten();
        let mut finalizers: Vec<&str> = finalizers.map(String::as_str).collect();
        if !finalizers.contains(&keys::FINALIZER) {
            finalizers.push(keys::FINALIZER);
            writes.push(write::finalizers(domain, &finalizers));
        }
        let (situation, slots) = match domain.spec.size() {
            DomainSize::FollowsPods => self.everywhere(domain, stored),
            DomainSize::Gang(nodes) => self.gang(domain, nodes, stored),
        };
        if let Some(slots) = slots {
            writes.extend(slots_writes(&slots, stored));
            writes.extend(self.admissions(domain, &slots));
            self.promised.put(self.world, slots, template_name(domain));
        } else if let Some(stored) = stored.filter(|stored| stored.slots.are_offered()) {
            writes.extend(self.admissions(domain, &stored.slots));
        }
        // After the slots, so that pods that came with the domain meet them at their first attempt.
        if self.world.template(&template_name(domain)).is_none() {
            writes.push(Write {
                kind: Kind::Template,
                name: template_name(domain),
                verb: Verb::Create(json!(template::template(domain))),
            });
        }
        (situation, writes)
    }

    /// A domain that follows its pods: slots on every node, on those that come later too.
    fn everywhere(
        &self,
        domain: &ComputeDomain,
        stored: Option<&StoredSlots>,
    ) -> (Situation, Option<Slots>) {
        let offered = stored.map(|stored| &stored.slots);
        match self.site().everywhere(domain, offered) {
            Ok(slots) => {
                let placed = self.placed(&slots, None);
                let changed = offered != Some(&slots);
                (Situation::Placed(placed), changed.then_some(slots))
            }
            Err(why) => (Situation::NotPlaced(why), None),
        }
    }

    /// A gang: nodes for all of it, or for none.
    fn gang(
        &mut self,
        domain: &ComputeDomain,
        nodes: std::num::NonZeroU32,
        stored: Option<&StoredSlots>,
    ) -> (Situation, Option<Slots>) {
        let chosen = policy::chosen(self.world, domain, nodes);
        if let Some(stored) = stored.filter(|stored| stored.slots.are_offered()) {
            if let Some(slots) = chosen
                .as_ref()
                .ok()
                .and_then(|chosen| self.recovered(domain, &stored.slots, chosen))
            {
                let placed = self.placed(&slots, Some(slots.hostnames.len()));
                return (Situation::Placed(placed), Some(slots));
            }
            // What is wrong with a policy takes nothing away from whom it has placed.
            let policy = chosen.map_or_else(|_| Policy::default(), |chosen| chosen.policy);
            return self.kept(domain, stored, &policy);
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
            Err(why) => (Situation::NotPlaced(why), None),
        }
    }

    /// A gang that has its slots: they stay, grow with its pods, or are taken back.
    fn kept(
        &mut self,
        domain: &ComputeDomain,
        stored: &StoredSlots,
        policy: &Policy,
    ) -> (Situation, Option<Slots>) {
        let slots = &stored.slots;
        let placed = self.placed(slots, Some(slots.hostnames.len()));
        let (pending, bound) = self.world.stages(domain);
        let used = self.users.contains_key(uid(domain));
        let idle = pending + bound == 0 && !used;
        let stuck = bound == 0 && !used && pending > 0;
        let since = |start: Timestamp| self.now.duration_since(start);
        let unbound = SignedDuration::try_from(policy.bind_timeout).unwrap_or(SignedDuration::MAX);
        let over = (idle && since(self.idle_since(domain)) >= IDLE)
            || (stuck && (since(slots.offered) >= unbound || placed.is_broken()));
        self.decisions.time_matters |= idle || stuck;
        if over {
            let template = template_name(domain);
            let withdrawn = slots.withdrawn(self.now);
            return (Situation::AwaitingPods { template }, Some(withdrawn));
        }
        let needed = self.site().slots_needed(domain);
        let grown = (needed > slots.count).then(|| Slots {
            count: needed.next_multiple_of(8),
            ..slots.clone()
        });
        (Situation::Placed(placed), grown)
    }

    /// Since when no pod of a domain is there: as the stored status says, or from now on.
    fn idle_since(&self, domain: &ComputeDomain) -> Timestamp {
        let stored = domain.status.as_ref();
        let used = stored.and_then(|status| status::condition(status, IN_USE));
        let unused = used.filter(|used| used.status == "False");
        unused.map_or(self.now, |unused| unused.last_transition_time.0)
    }

    fn placed(&self, slots: &Slots, gang: Option<usize>) -> Placed {
        let (mut lost, mut unready, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for share in slots.shares() {
            let here = |hostname: &String| self.world.node_by_hostname(hostname);
            let names = || share.iter().filter_map(here).map(|node| node.name.as_str());
            let mut ready = Vec::new();
            for hostname in share {
                let Some(node) = here(hostname) else {
                    lost.push(hostname.clone());
                    continue;
                };
                let fabric = self.fabric.get(node.name.as_str());
                let Some(fabric) = fabric.filter(|fabric| fabric.is_ready()) else {
                    unready.push(node.name.clone());
                    continue;
                };
                ready.push((node, *fabric));
                // A gang shares memory among its nodes of a clique, pods that are followed with whom they meet.
                let others = names().filter(|_| gang.is_some());
                unready.extend(self.sessions.wrong(&node.name, others));
            }
            left.extend(apart(&ready));
        }
        Placed {
            gang,
            cliques: slots.shares().count(),
            holds: slots.holds,
            gpus_per_node: slots.gpus_per_node,
            lost,
            unready,
            // What follows its pods was never in one clique.
            apart: gang.map(|_| left).unwrap_or_default(),
        }
    }

    /// Lets the domain's pods onto its nodes, and keeps others from them.
    fn admissions(&self, domain: &ComputeDomain, slots: &Slots) -> Vec<Write> {
        if slots.holds != Holds::WholeNodes || !slots.are_offered() {
            return Vec::new();
        }
        // Pods first: one that the scheduler tries between the two would be turned away.
        let pods = self.world.pods_of(domain);
        let waiting = pods.filter(|pod| pod.stage == PodStage::Pending);
        let shut_out = waiting.filter(|pod| !pod.tolerates_reservation());
        let nodes = promised::held(self.world, slots);
        let open = nodes.filter(|node| node.held_for() != Some(&slots.domain));
        shut_out
            .map(write::tolerate)
            .chain(open.map(|node| write::taint(node, &slots.domain)))
            .collect()
    }

    fn deleted(
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

    fn withdrawal(&mut self, domain: &ComputeDomain, stored: Option<&StoredSlots>) -> Vec<Write> {
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
    fn leftovers(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        for node in self.world.nodes() {
            let Some(held_for) = node.held_for() else {
                continue;
            };
            if !self.promised.holds(self.world, held_for, &node.name) {
                writes.push(write::untaint(node));
            }
        }
        for (domain, stored) in &self.stored {
            let living = self.world.domains().any(|other| uid(other) == *domain);
            if stored.slots.are_offered() {
                if !living {
                    let withdrawn = stored.slots.withdrawn(self.now);
                    writes.extend(slots_writes(&withdrawn, Some(stored)));
                }
                continue;
            }
            self.decisions.time_matters = true;
            // What was offered again in this round is no leftover.
            if self.promised.is_offered(domain) {
                continue;
            }
            let in_use = self.users.contains_key(domain);
            if !in_use && quarantine::is_over(self.world, &self.fabric, &stored.slots, self.now) {
                writes.extend(stored.slices.iter().map(|slice| slice_end(slice)));
            }
        }
        writes
    }

    fn site(&self) -> Site<'_> {
        Site {
            world: self.world,
            fabric: &self.fabric,
            sessions: &self.sessions,
            promised: &self.promised,
            levels: self.levels,
            now: self.now,
        }
    }
}

#[cfg(test)]
mod tests;
