//! Lets time pass: one event after the other, from a seed.

mod api;
mod nodes;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use super::check::{Checks, Violation};
use super::leader::Leader;
use super::model::{Change, Domain, Faults, Node, Setting, Time, Write};
use crate::chance::Chance;

/// At which write a leader dies, counted from the first, and whether the write is done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashAt {
    /// The number of the write.
    pub write: u64,
    /// Whether the API server still gets it.
    pub done: bool,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events that happened.
    pub events: u64,
    /// Domains that came.
    pub arrived: u32,
    /// Domains whose pods were all there at least once.
    pub ran: BTreeSet<u32>,
    /// Writes of leaders that the API server took.
    pub writes: u64,
    /// Writes that it refused because the object had changed.
    pub conflicts: u64,
    /// Leaders that died.
    pub leaders_lost: u64,
    /// Nodes that were lost or cut off.
    pub nodes_lost: u64,
    /// Plans that replaced, added or gave up nodes of a running domain.
    pub replanned: u64,
    /// Reservations that were given up because not all pods came.
    pub unbound: u64,
    /// Virtual time that passed, in milliseconds.
    pub time: u64,
}

#[derive(Clone, Debug)]
enum Event {
    Arrive,
    Finish(u32),
    NodeLost,
    NodeBack(u32),
    StrangerComes,
    Touch,
    StrangerGoes(u32, u32),
    LeaderDies,
    LeaderStarts,
    /// Watched changes are delivered. The number is that of the leader that they are for.
    Watch(u64),
    Relist(u64),
    Round(u64),
    Lands(u64, u32, u64, Write),
    /// The answer to a write, and what the leader then reads.
    Answer(u64, u32),
    /// A pod of a plan looks for its node.
    Pod(u32, u32, u64),
    /// A node has read the domain and makes the container.
    Prepared(u32, u32),
    /// A node tells that a pod is prepared.
    Bound(u32, u32),
    /// A node sees that a domain is not planned on it any more.
    Leave(u32, u32),
    /// A container has ended.
    Ended(u32, u32),
    /// A node's word that it has no container of a domain arrives, with the plan that it had seen.
    Confirmed(u32, u32, u64),
    Taint(u32),
}

pub(crate) struct World {
    pub(crate) setting: Setting,
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    pub(crate) store: BTreeMap<u32, Domain>,
    pub(crate) report: Report,
    chance: Chance,
    queue: BinaryHeap<Reverse<(Time, u64, usize)>>,
    events: Vec<Option<Event>>,
    vacant: Vec<usize>,
    order: u64,
    leader: Option<Leader>,
    term: u64,
    watch: VecDeque<(Time, Change)>,
    round_at: Option<Time>,
    /// Nothing new happens any more.
    resting: bool,
    crash_at: Option<CrashAt>,
    sent: u64,
    version: u64,
}

/// Runs a setting until everything has come to rest, or until a property does not hold.
pub fn run(setting: Setting, crash_at: Option<CrashAt>) -> Result<Report, Violation> {
    let mut world = World::new(setting, crash_at);
    let mut checks = Checks::default();
    // Coming to rest takes no longer than everything before it, unless something is stuck.
    let patience = setting.events.saturating_mul(20).saturating_add(1_000_000);
    while let Some(event) = world.next() {
        world.happen(event);
        checks.after(&world)?;
        world.report.events += 1;
        if world.report.events == setting.events {
            world.rest();
        }
        if world.report.events > patience {
            return Err(Checks::stuck(&world));
        }
    }
    Checks::at_rest(&world)?;
    world.report.time = world.now;
    Ok(world.report)
}

impl World {
    fn new(setting: Setting, crash_at: Option<CrashAt>) -> Self {
        let nodes = vec![Node::default(); setting.layout.nodes as usize];
        let mut world = Self {
            setting,
            now: 0,
            nodes,
            store: BTreeMap::new(),
            report: Report::default(),
            chance: Chance::new(setting.seed),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            vacant: Vec::new(),
            order: 0,
            leader: None,
            term: 0,
            watch: VecDeque::new(),
            round_at: None,
            resting: false,
            crash_at,
            sent: 0,
            version: 0,
        };
        world.at(0, Event::LeaderStarts);
        world.at(1, Event::Arrive);
        let Faults {
            leader_dies,
            node_lost,
            strangers,
            touched,
            ..
        } = setting.faults;
        for (mean, event) in [
            (leader_dies, Event::LeaderDies),
            (node_lost, Event::NodeLost),
            (strangers, Event::StrangerComes),
            (touched, Event::Touch),
        ] {
            world.again(mean, event);
        }
        world
    }

    fn at(&mut self, delay: Time, event: Event) {
        let slot = if let Some(slot) = self.vacant.pop() {
            self.events[slot] = Some(event);
            slot
        } else {
            self.events.push(Some(event));
            self.events.len() - 1
        };
        self.order += 1;
        self.queue
            .push(Reverse((self.now + delay, self.order, slot)));
    }

    fn next(&mut self) -> Option<Event> {
        let Reverse((time, _, slot)) = self.queue.pop()?;
        self.now = time;
        self.vacant.push(slot);
        self.events[slot].take()
    }

    /// Lets something happen once more after a time of this mean, unless the cluster is to come to rest.
    fn again(&mut self, mean: Option<Time>, event: Event) {
        if let (Some(mean), false) = (mean, self.resting) {
            let delay = self.chance.exponential(mean as f64) as Time;
            self.at(delay + 1, event);
        }
    }

    fn latency(&mut self) -> Time {
        self.chance.between(1, self.setting.faults.latency)
    }

    fn chance_of(&mut self, probability: f64) -> bool {
        !self.resting && self.chance.happens(probability)
    }

    /// Nothing new comes or breaks any more; what is broken is mended.
    fn rest(&mut self) {
        self.resting = true;
        for node in 0..self.setting.layout.nodes {
            if self.nodes[node as usize].away_since.is_some() {
                self.at(1_000, Event::NodeBack(node));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let faults = self.setting.faults;
        match event {
            Event::Arrive => self.arrive(),
            Event::Finish(number) => self.change(number, |domain| domain.ended = true),
            Event::NodeLost => {
                self.node_lost();
                self.again(faults.node_lost, Event::NodeLost);
            }
            Event::NodeBack(node) => self.node_back(node),
            Event::StrangerComes => {
                self.stranger();
                self.again(faults.strangers, Event::StrangerComes);
            }
            Event::Touch => {
                self.touch();
                self.again(faults.touched, Event::Touch);
            }
            Event::StrangerGoes(node, gpus) => {
                self.nodes[node as usize].strangers -= gpus;
                self.tell(Change::Node(node));
            }
            Event::LeaderDies => {
                self.leader_dies();
                self.again(faults.leader_dies, Event::LeaderDies);
            }
            Event::LeaderStarts => self.leader_starts(),
            Event::Watch(term) => self.deliver(term),
            Event::Relist(term) => self.relist(term),
            Event::Round(term) => self.round(term),
            Event::Lands(term, number, version, write) => self.lands(term, number, version, write),
            Event::Answer(term, number) => self.answer(term, number),
            Event::Pod(number, node, generation) => self.pod(number, node, generation),
            Event::Prepared(number, node) => self.prepared(number, node),
            Event::Bound(number, node) => {
                self.change(number, |domain| {
                    if domain.is_planned_on(node) {
                        domain.bound.insert(node);
                    }
                });
            }
            Event::Leave(number, node) => self.leave(number, node),
            Event::Ended(number, node) => self.ended(number, node),
            Event::Confirmed(number, node, generation) => self.confirmed(number, node, generation),
            Event::Taint(node) => {
                let held = self
                    .store
                    .values()
                    .any(|domain| domain.held().contains(&node));
                self.nodes[node as usize].tainted = held;
            }
        }
    }
}
