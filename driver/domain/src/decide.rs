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
//! - Domains are gone through in one order, by priority and age, those that have waited for long first: of two that cannot
//!   both be placed it is the same that waits, whatever the order of events.
//! - A domain that is deleted stays until no pod uses it, and then goes whatever nodes say: what they have not
//!   let go of is kept in quarantine by the slice, not by the domain.

mod end;
mod gang;
pub mod outlook;
mod preemption;
mod queue;
mod recovery;
mod report;
mod slices;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tessera_api::{ComputeDomain, DomainSize, SessionsOf};
use tessera_gang::Levels;
use tessera_gang::running::Running;

use self::queue::in_order;
use self::slices::slots_writes;
use crate::apart::apart;
use crate::cliques::{Flaw, Sessions, Sharer};
use crate::facts::{FabricFacts, ObjectName, PodStage};
use crate::keys;
use crate::notice::{self, Notice};
use crate::place::{Ahead, Site, template_name};
use crate::promised::{self, Promised};
use crate::situation::{Placed, Situation};
use crate::slots::{Holds, Slots};
use crate::template;
use crate::tenants::Tenants;
use crate::world::{Kind, StoredSlots, World};
use crate::write::{self, Verb, Write};

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
    /// When it is to be decided again even if nothing happens: something may be due then. It is later than now.
    pub look_again: Option<Timestamp>,
}

/// What the administrator of the cluster says of domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The topology levels that policies may name.
    pub levels: Levels,
    /// Whether domains are ended for others of higher priority, where a policy says so.
    pub preemption: bool,
    /// Whose NVLink sessions are. Where each domain has one of its own, it has its nodes to itself.
    pub sessions_of: SessionsOf,
}

/// What is to be written now.
pub fn decide(world: &World, rules: &Rules, now: Timestamp) -> Decisions {
    let mut round = Round::new(world, rules, now);
    for domain in in_order(world, now) {
        let decision = round.domain(domain);
        round.note(decision);
    }
    for eviction in round.evictions() {
        round.note(eviction);
    }
    for write in round.leftovers() {
        round.note(Decision {
            writes: vec![write],
            ..Decision::default()
        });
    }
    round.decisions
}

/// The time so long after another; the end of time if there is none.
fn after(start: Timestamp, pause: SignedDuration) -> Timestamp {
    start.checked_add(pause).unwrap_or(Timestamp::MAX)
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
    rules: &'w Rules,
    now: Timestamp,
    fabric: BTreeMap<&'w str, &'w FabricFacts>,
    sessions: Sessions<'w>,
    stored: BTreeMap<&'w str, StoredSlots>,
    /// Who has which node, where each domain has a session of its own.
    tenants: Option<Tenants<'w>>,
    users: BTreeMap<&'w str, Vec<String>>,
    promised: Promised,
    /// The first gang that waits for room, once it is known.
    ahead: Option<Ahead>,
    /// The domains that are being ended, by their UIDs, each with the one for which it is.
    ending: BTreeMap<String, ObjectName>,
    running: OnceCell<Vec<Running>>,
    /// The oldest domain that wants each template.
    claimants: BTreeMap<ObjectName, &'w ComputeDomain>,
    decisions: Decisions,
}

impl<'w> Round<'w> {
    fn new(world: &'w World, rules: &'w Rules, now: Timestamp) -> Self {
        let stored = world.slots();
        Self {
            world,
            rules,
            now,
            fabric: world.fabric(),
            sessions: Sessions::of(world),
            users: world.users(),
            promised: Promised::of(&stored, world, rules.sessions_of),
            tenants: match rules.sessions_of {
                SessionsOf::Clique => None,
                SessionsOf::Domain => Some(Tenants::of(world, &stored)),
            },
            ahead: None,
            ending: preemption::ending(&stored),
            running: OnceCell::new(),
            claimants: claimants(world),
            stored,
            decisions: Decisions::default(),
        }
    }

    /// Something may be due at this time; what is past is due now, and was decided.
    fn due(&mut self, at: Timestamp) {
        let earlier = self.decisions.look_again.unwrap_or(Timestamp::MAX);
        if at > self.now {
            self.decisions.look_again = Some(earlier.min(at));
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

    fn placed(&self, slots: &Slots, gang: Option<usize>) -> Placed {
        let (mut lost, mut unready, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let mut starting = Vec::new();
        let sharer = Sharer {
            domain: &slots.domain,
            chosen: gang.is_some(),
        };
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
                match self.sessions.wrong(&node.name, sharer, others) {
                    None => {}
                    Some(Flaw::Starting(node)) => starting.push(node),
                    Some(Flaw::Unready(node)) => unready.push(node),
                }
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
            starting,
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
        let closed = slots.closed.is_some();
        let waiting = pods.filter(|pod| !closed && pod.stage == PodStage::Pending);
        let shut_out = waiting.filter(|pod| !pod.tolerates_reservation());
        let nodes = promised::held(self.world, slots);
        let open = nodes.filter(|node| node.held_for() != Some(&slots.domain));
        shut_out
            .map(write::tolerate)
            .chain(open.map(|node| write::taint(node, &slots.domain)))
            .collect()
    }

    fn site(&self) -> Site<'_> {
        Site {
            world: self.world,
            fabric: &self.fabric,
            sessions: &self.sessions,
            promised: &self.promised,
            ahead: self.ahead.as_ref(),
            tenants: self.tenants.as_ref(),
            levels: &self.rules.levels,
            now: self.now,
        }
    }
}

#[cfg(test)]
mod tests;
