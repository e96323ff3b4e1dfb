//! The controller that leads: what it has seen, and what it writes because of it.
//!
//! It keeps no state of its own that is not in the API server, but for back-off: a new leader begins with a list.

mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tessera_gang::channels::{ChannelNumber, Grant};
use tessera_gang::node::Health;
use tessera_gang::placement::Member;
use tessera_gang::policy::Replacement;
use tessera_gang::queue::{Rules, plan_all};
use tessera_gang::running::Running;
use tessera_gang::shadow::Shadow;
use tessera_gang::{
    Channels, CliqueId, CliqueShare, Cluster, Demand, GangId, NodeCount, NodeName, Placement,
    Policy,
};

use super::model::{BIND_TIMEOUT, Domain, NODE_GRACE, Node, Phase, REPLACE_TIMEOUT, Time, Write};
use crate::layout::{GPUS, Layout};
use crate::placers::demand;

/// What a leader knows.
#[derive(Debug)]
pub(crate) struct Leader {
    layout: Layout,
    cluster: Cluster,
    channels: Channels,
    domains: BTreeMap<u32, Domain>,
    away: BTreeMap<u32, Time>,
    /// Domains with a write under way.
    pub(crate) in_flight: BTreeSet<u32>,
    shadow: Option<Shadow>,
    /// Domains that are not to be planned before a time, and how often they failed.
    back_off: BTreeMap<u32, (Time, u32)>,
}

/// Writes to be sent: domain, the version that it must still have, and the change.
pub(crate) type Writes = Vec<(u32, u64, Write)>;

pub(crate) fn gang(domain: u32) -> GangId {
    format!("domain-{domain:07}").into()
}

fn node_number(name: &NodeName) -> u32 {
    let digits = name.as_str().trim_start_matches("node-");
    digits.parse().expect("nodes are named by numbers")
}

impl Leader {
    /// A leader that has just listed everything.
    pub(crate) fn new(
        layout: Layout,
        nodes: &[Node],
        store: &BTreeMap<u32, Domain>,
        now: Time,
    ) -> Self {
        let mut leader = Self {
            layout,
            cluster: layout.cluster(),
            channels: Channels::new(),
            domains: BTreeMap::new(),
            away: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            shadow: None,
            back_off: BTreeMap::new(),
        };
        leader.list(nodes, store, now);
        leader
    }

    /// Takes in everything that there is. What is planned for writes under way stays.
    pub(crate) fn list(&mut self, nodes: &[Node], store: &BTreeMap<u32, Domain>, now: Time) {
        for (at, node) in (0u32..).zip(nodes) {
            self.see_node(at, node, now);
        }
        let known = self
            .domains
            .keys()
            .copied()
            .filter(|number| !store.contains_key(number));
        for number in known.collect::<Vec<_>>() {
            if !self.in_flight.contains(&number) {
                self.forget(number);
            }
        }
        for (number, domain) in store {
            if !self.in_flight.contains(number) {
                self.see(*number, domain.clone());
            }
        }
    }

    /// Takes in a domain as the API server has it. What is older than what is known is left.
    pub(crate) fn see(&mut self, number: u32, domain: Domain) {
        let known = self.domains.get(&number);
        if known.is_some_and(|known| known.version > domain.version) {
            return;
        }
        let id = gang(number);
        let held = domain.held();
        if held.is_empty() {
            self.cluster.release(&id);
        } else {
            let names = held.iter().map(|node| self.layout.name(*node).into());
            self.cluster.restore(&id, names, GPUS);
        }
        self.see_channels(&id, &domain);
        self.domains.insert(number, domain);
    }

    fn see_channels(&mut self, id: &GangId, domain: &Domain) {
        for (at, number) in &domain.channels {
            let clique = clique(*at);
            let number = ChannelNumber::new(*number).expect("only such numbers are written");
            let known = self.channels.of(id, &clique);
            if known != Some(Grant::One(number)) && domain.phase != Phase::Releasing {
                self.channels
                    .restore(id, &clique, Grant::One(number), [], false)
                    .expect("two domains never have one channel");
            } else if known.is_none() {
                // It has ended. This leader has released it already, unless it is new.
                let mine = |node: &&u32| self.layout.clique_of(**node) == *at;
                let nodes = domain.unconfirmed.keys().filter(mine);
                let nodes: Vec<NodeName> =
                    nodes.map(|node| self.layout.name(*node).into()).collect();
                if !nodes.is_empty() {
                    let restored =
                        self.channels
                            .restore(id, &clique, Grant::One(number), nodes, true);
                    restored.expect("two domains never have one channel");
                }
            }
        }
        for node in domain.unconfirmed.keys() {
            let clique = clique(self.layout.clique_of(*node));
            self.channels
                .used_by(id, &clique, self.layout.name(*node).into());
        }
        let gone: Vec<(CliqueId, NodeName)> = self
            .domains
            .get(&domain_number(id))
            .into_iter()
            .flat_map(|before| before.unconfirmed.keys())
            .filter(|node| !domain.unconfirmed.contains_key(node))
            .map(|node| {
                (
                    clique(self.layout.clique_of(*node)),
                    self.layout.name(*node).into(),
                )
            })
            .collect();
        for (clique, node) in gone {
            self.channels.confirmed(id, &clique, &node);
        }
        if domain.phase == Phase::Releasing {
            self.channels.release(id);
        }
    }

    /// A domain is gone from the API server: every node had confirmed.
    pub(crate) fn forget(&mut self, number: u32) {
        let id = gang(number);
        self.cluster.release(&id);
        self.channels.release(&id);
        if let Some(domain) = self.domains.remove(&number) {
            for node in domain.unconfirmed.keys() {
                let clique = clique(self.layout.clique_of(*node));
                self.channels
                    .confirmed(&id, &clique, &self.layout.name(*node).into());
            }
        }
        self.back_off.remove(&number);
        self.in_flight.remove(&number);
    }

    pub(crate) fn see_node(&mut self, at: u32, node: &Node, now: Time) {
        let mut facts = self.layout.facts(at);
        facts.used = node.strangers;
        if let Some(since) = node.away_since {
            facts.health = Health::Unfit;
            self.away.entry(at).or_insert(since.min(now));
        } else {
            self.away.remove(&at);
        }
        self.cluster.upsert(facts);
    }

    /// Decides what to write. Domains with a write under way are left alone.
    pub(crate) fn round(&mut self, now: Time) -> Writes {
        let mut writes = Vec::new();
        let idle = self
            .domains
            .keys()
            .filter(|number| !self.in_flight.contains(number));
        for number in idle.copied().collect::<Vec<_>>() {
            let domain = self.domains[&number].clone();
            if let Some(write) = self.upkeep(number, &domain, now) {
                writes.push((number, domain.version, write));
            }
        }
        let settled: BTreeSet<u32> = writes.iter().map(|(number, ..)| *number).collect();
        writes.extend(self.plan_waiting(&settled, now));
        self.in_flight
            .extend(writes.iter().map(|(number, ..)| *number));
        writes
    }

    fn grant(&mut self, number: u32, cliques: &BTreeSet<u32>) -> Option<BTreeMap<u32, u32>> {
        let ids: Vec<CliqueId> = cliques.iter().copied().map(clique).collect();
        let granted = self.channels.grant(&gang(number), &ids).ok()?;
        Some(
            granted
                .iter()
                .map(|(id, number)| (clique_number(id), number.get()))
                .collect(),
        )
    }

    /// The demand of a domain, as its object says.
    fn demand(number: u32, domain: &Domain, now: Time) -> Demand {
        Demand {
            nodes: NodeCount::new(domain.min, domain.max).expect("simulated domains have nodes"),
            policy: Policy {
                clique: domain.policy,
                spares: domain.spares_wanted,
                replacement: Replacement {
                    shrink: true,
                    migrate: true,
                    timeout: Duration::from_millis(REPLACE_TIMEOUT),
                },
                ..Policy::default()
            },
            priority: domain.priority,
            waiting: Duration::from_millis(now.saturating_sub(domain.arrived)),
            ..demand(gang(number), domain.min)
        }
    }

    /// What a domain holds, as the planner says it.
    fn placement(&self, domain: &Domain) -> Placement {
        let mut shares: Vec<CliqueShare> = Vec::new();
        let mut share = |node: &u32, spare: bool| {
            let id = clique(self.layout.clique_of(*node));
            let at = shares
                .iter()
                .position(|share| share.clique.as_ref() == Some(&id));
            let at = at.unwrap_or_else(|| {
                shares.push(CliqueShare {
                    clique: Some(id),
                    nodes: Vec::new(),
                    spares: Vec::new(),
                });
                shares.len() - 1
            });
            let member = Member::from(NodeName::from(self.layout.name(*node)));
            if spare {
                shares[at].spares.push(member);
            } else {
                shares[at].nodes.push(member);
            }
        };
        domain.nodes.iter().for_each(|node| share(node, false));
        domain.spares.iter().for_each(|node| share(node, true));
        Placement {
            cliques: shares,
            gpus_per_node: GPUS,
            segment: domain.min,
            level: None,
            relaxed_from: None,
        }
    }

    fn plan_waiting(&mut self, settled: &BTreeSet<u32>, now: Time) -> Writes {
        let waits = |(number, domain): &(&u32, &Domain)| {
            let backed_off = self
                .back_off
                .get(number)
                .is_some_and(|(until, _)| *until > now);
            domain.phase == Phase::Pending
                && !domain.ended
                && !backed_off
                && !settled.contains(number)
                && !self.in_flight.contains(number)
        };
        let waiting = self.domains.iter().filter(waits);
        let waiting: Vec<Demand> = waiting
            .map(|(number, domain)| Self::demand(*number, domain, now))
            .collect();
        let running = self
            .domains
            .iter()
            .filter(|(_, domain)| domain.phase != Phase::Pending);
        let running: Vec<Running> = running
            .map(|(number, domain)| Running {
                gang: gang(*number),
                priority: domain.priority,
                ran_for: Duration::ZERO,
                ends_in: None,
                may_be_ended: false,
            })
            .collect();
        let before = self.shadow.take();
        let round = plan_all(
            &mut self.cluster,
            &waiting,
            &running,
            before.as_ref(),
            Rules::default(),
        );
        self.shadow = round.shadow;
        let mut writes = Vec::new();
        for (id, placement) in round.placed {
            let number = domain_number(&id);
            let nodes: Vec<u32> = placement.nodes().map(node_number).collect();
            let spares = placement.spares().map(node_number).collect();
            let cliques = nodes
                .iter()
                .map(|node| self.layout.clique_of(*node))
                .collect();
            let Some(channels) = self.grant(number, &cliques) else {
                self.cluster.release(&id);
                continue;
            };
            let write = Write::Plan {
                nodes,
                spares,
                channels,
                first: true,
            };
            writes.push((number, self.domains[&number].version, write));
        }
        writes
    }

    /// When the next thing is due without any change.
    pub(crate) fn due(&self, now: Time) -> Option<Time> {
        let binding = self.domains.values().filter(|domain| !domain.is_whole());
        let binding = binding.map(|domain| domain.reserved_at + BIND_TIMEOUT);
        let backed_off = self.back_off.values().map(|(until, _)| *until);
        let lost = self
            .away
            .values()
            .flat_map(|since| [since + NODE_GRACE, since + REPLACE_TIMEOUT]);
        binding
            .chain(backed_off)
            .chain(lost)
            .filter(|due| *due > now)
            .min()
    }
}

fn domain_number(id: &GangId) -> u32 {
    let digits = id.as_str().trim_start_matches("domain-");
    digits.parse().expect("domains are named by numbers")
}

fn clique(number: u32) -> CliqueId {
    format!("rack-{number:05}.0").into()
}

fn clique_number(id: &CliqueId) -> u32 {
    let digits = id
        .as_str()
        .trim_start_matches("rack-")
        .trim_end_matches(".0");
    digits.parse().expect("cliques are named by numbers")
}
