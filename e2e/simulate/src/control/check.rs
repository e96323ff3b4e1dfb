//! The properties that must hold after every event, and when all has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tessera_gang::CliquePolicy;

use super::model::{BIND_TIMEOUT, Phase, REPLACE_TIMEOUT, Time};
use super::world::World;
use crate::layout::GPUS;

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property, as the design names it.
    pub property: &'static str,
    /// The seed that shows it again.
    pub seed: u64,
    /// The number of the event after which it did not hold.
    pub event: u64,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            property,
            seed,
            event,
            found,
        } = self;
        write!(
            f,
            "{property} does not hold after event {event} of seed {seed}: {found}"
        )
    }
}

/// How late a leader may be with something that is due: it may have died, and writes may be refused.
const SLACK: Time = 120_000;

#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Since when a domain has had some of its pods and too few.
    partial: BTreeMap<u32, Time>,
}

impl Checks {
    pub(crate) fn after(&mut self, world: &World) -> Result<(), Violation> {
        channels_differ(world)?;
        cliques_are_kept(world)?;
        nothing_is_taken_twice(world)?;
        holds_expire(world)?;
        nobody_waits_and_holds(world)?;
        self.none_is_partial_for_long(world)
    }

    /// All domains that came have run and are gone, and nothing is left of them.
    pub(crate) fn at_rest(world: &World) -> Result<(), Violation> {
        let arrived: BTreeSet<u32> = (0..world.report.arrived).collect();
        let never: Vec<u32> = arrived.difference(&world.report.ran).copied().collect();
        if !never.is_empty() {
            return Err(found(world, "L1", format!("domains {never:?} never ran")));
        }
        if let Some((number, domain)) = world.store.first_key_value() {
            return Err(found(
                world,
                "S6",
                format!("domain {number} is left: {domain:?}"),
            ));
        }
        let left = world
            .nodes
            .iter()
            .position(|node| !node.containers.is_empty() || node.tainted);
        match left {
            Some(node) => Err(found(
                world,
                "S6",
                format!("node {node} has {:?}", world.nodes[node]),
            )),
            None => Ok(()),
        }
    }

    pub(crate) fn stuck(world: &World) -> Violation {
        let left: Vec<_> = world.store.iter().take(3).collect();
        found(
            world,
            "L1",
            format!("nothing comes to rest; domains left: {left:?}"),
        )
    }

    /// S3: no domain has some of its pods and too few for longer than it takes to give them up.
    fn none_is_partial_for_long(&mut self, world: &World) -> Result<(), Violation> {
        let mut pods: BTreeMap<u32, u32> = BTreeMap::new();
        for node in world.nodes.iter().filter(|node| node.away_since.is_none()) {
            for domain in node.containers.keys() {
                *pods.entry(*domain).or_default() += 1;
            }
        }
        let few = |(number, pods): &(&u32, &u32)| {
            world
                .store
                .get(number)
                .is_some_and(|domain| **pods < domain.min)
        };
        let partial: BTreeSet<u32> = pods.iter().filter(few).map(|(number, _)| *number).collect();
        self.partial.retain(|number, _| partial.contains(number));
        for number in partial {
            let since = *self.partial.entry(number).or_insert(world.now);
            if world.now - since > BIND_TIMEOUT + REPLACE_TIMEOUT + SLACK {
                let domain = &world.store[&number];
                let text = format!(
                    "domain {number} has had {} pods since {since}: {domain:?}",
                    pods[&number]
                );
                return Err(found(world, "S3", text));
            }
        }
        Ok(())
    }
}

fn found(world: &World, property: &'static str, found: String) -> Violation {
    Violation {
        property,
        seed: world.setting.seed,
        event: world.report.events,
        found,
    }
}

/// S1: containers of one clique have one channel only if they are of one domain.
fn channels_differ(world: &World) -> Result<(), Violation> {
    let mut users: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for (at, node) in (0u32..).zip(&world.nodes) {
        let clique = world.setting.layout.clique_of(at);
        for (domain, container) in &node.containers {
            let user = users.entry((clique, container.channel)).or_insert(*domain);
            if user != domain {
                let text = format!(
                    "domains {user} and {domain} have channel {} of clique {clique}",
                    container.channel
                );
                return Err(found(world, "S1", text));
            }
        }
    }
    Ok(())
}

/// S2: a domain that must be in one clique has its containers in one.
fn cliques_are_kept(world: &World) -> Result<(), Violation> {
    let mut cliques: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (at, node) in (0u32..).zip(&world.nodes) {
        for domain in node.containers.keys() {
            cliques
                .entry(*domain)
                .or_default()
                .insert(world.setting.layout.clique_of(at));
        }
    }
    for (number, cliques) in cliques {
        let required = world
            .store
            .get(&number)
            .is_some_and(|domain| domain.policy == CliquePolicy::Required);
        if required && cliques.len() > 1 {
            return Err(found(
                world,
                "S2",
                format!("domain {number} has pods in cliques {cliques:?}"),
            ));
        }
    }
    Ok(())
}

/// S4: no node is held by two domains, and no GPU is used twice. And S1 for what is not yet seen: where a domain
/// has a container, it is known that it may.
fn nothing_is_taken_twice(world: &World) -> Result<(), Violation> {
    let mut holders: BTreeMap<u32, u32> = BTreeMap::new();
    for (number, domain) in &world.store {
        for node in domain.held() {
            if let Some(other) = holders.insert(node, *number) {
                return Err(found(
                    world,
                    "S4",
                    format!("node {node} is held by domains {other} and {number}"),
                ));
            }
        }
    }
    for (at, node) in (0u32..).zip(&world.nodes) {
        if node.strangers + GPUS * node.containers.len() as u32 > GPUS {
            return Err(found(world, "S4", format!("node {at} has {node:?}")));
        }
        for domain in node.containers.keys() {
            let known = world
                .store
                .get(domain)
                .is_some_and(|domain| domain.unconfirmed.contains_key(&at));
            if !known {
                return Err(found(
                    world,
                    "S1",
                    format!("node {at} has a pod of domain {domain}, which is not to be there"),
                ));
            }
        }
    }
    Ok(())
}

/// L3: no reservation is held for long without its pods.
fn holds_expire(world: &World) -> Result<(), Violation> {
    let late = world.store.iter().find(|(_, domain)| {
        domain.phase == Phase::Reserved && world.now > domain.reserved_at + BIND_TIMEOUT + SLACK
    });
    match late {
        Some((number, domain)) => Err(found(
            world,
            "L3",
            format!("domain {number} still waits for pods: {domain:?}"),
        )),
        None => Ok(()),
    }
}

/// L2: who waits for nodes holds none, so that nobody waits for somebody who waits.
fn nobody_waits_and_holds(world: &World) -> Result<(), Violation> {
    let holding = world
        .store
        .iter()
        .find(|(_, domain)| domain.phase == Phase::Pending && !domain.held().is_empty());
    match holding {
        Some((number, domain)) => Err(found(
            world,
            "L2",
            format!("domain {number} waits and holds: {domain:?}"),
        )),
        None => Ok(()),
    }
}
