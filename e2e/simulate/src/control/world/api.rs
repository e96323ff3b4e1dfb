//! The API server, its watches, and the leaders that write.

use std::collections::{BTreeMap, BTreeSet};

use tessera_gang::CliquePolicy;

use super::{Event, World};
use crate::control::leader::Leader;
use crate::control::model::{Change, Domain, Phase, Time, WRITE_DEADLINE, Write};

impl World {
    pub(super) fn arrive(&mut self) {
        let largest = u64::from(self.setting.layout.clique);
        let number = self.report.arrived;
        self.report.arrived += 1;
        let min = self.chance.between(1, largest) as u32;
        let elastic = self.chance.happens(0.3) && u64::from(min) < largest;
        let policy = match self.chance.below(10) {
            0..=6 => CliquePolicy::Required,
            7..=8 => CliquePolicy::Preferred,
            _ => CliquePolicy::Spread,
        };
        self.version += 1;
        let domain = Domain {
            version: self.version,
            min,
            max: min + u32::from(elastic),
            policy,
            spares_wanted: u32::from(self.chance.happens(0.2)),
            priority: self.chance.below(3) as i32,
            arrived: self.now,
            ended: false,
            phase: Phase::Pending,
            generation: 0,
            nodes: Vec::new(),
            spares: Vec::new(),
            reserved_at: 0,
            channels: BTreeMap::new(),
            bound: BTreeSet::new(),
            unconfirmed: BTreeMap::new(),
        };
        self.store.insert(number, domain);
        self.published(number);
        if self.report.arrived < self.setting.domains {
            self.again(Some(self.setting.gap), Event::Arrive);
        }
    }

    /// Somebody writes something into a domain that means nothing to us.
    pub(super) fn touch(&mut self) {
        let all: Vec<u32> = self.store.keys().copied().collect();
        if let (false, false) = (all.is_empty(), self.resting) {
            let number = all[self.chance.index(all.len())];
            self.change(number, |_| {});
        }
    }

    /// Changes an object as others than leaders do.
    pub(super) fn change(&mut self, number: u32, change: impl FnOnce(&mut Domain)) {
        if let Some(domain) = self.store.get_mut(&number) {
            change(domain);
            self.version += 1;
            domain.version = self.version;
            self.published(number);
        }
    }

    /// Tells everybody about a domain as it is now.
    pub(super) fn published(&mut self, number: u32) {
        let Some(domain) = self.store.get(&number) else {
            self.tell(Change::Gone(number));
            return;
        };
        let domain = domain.clone();
        for node in &domain.nodes {
            let planned = domain.is_planned_on(*node);
            if planned && !self.nodes[*node as usize].containers.contains_key(&number) {
                let delay = self.chance.between(10, 500);
                self.at(delay, Event::Pod(number, *node, domain.generation));
            }
        }
        for node in domain
            .unconfirmed
            .keys()
            .filter(|node| !domain.is_planned_on(**node))
        {
            let delay = self.latency();
            self.at(delay, Event::Leave(number, *node));
        }
        self.tell(Change::Domain(number, Box::new(domain)));
    }

    pub(super) fn tell(&mut self, change: Change) {
        if self.leader.is_none() {
            return;
        }
        if self.chance_of(self.setting.faults.watch_dropped) {
            // What was under way is lost; the watch is found broken after a while, and everything is listed.
            self.watch.clear();
            let delay = self.chance.between(100, 5_000);
            self.at(delay, Event::Relist(self.term));
            return;
        }
        let soonest = self.watch.back().map_or(0, |(time, _)| *time);
        let time = soonest.max(self.now + self.latency());
        self.watch.push_back((time, change));
        self.at(time - self.now, Event::Watch(self.term));
    }

    pub(super) fn deliver(&mut self, term: u64) {
        if term != self.term {
            return;
        }
        let Some(leader) = &mut self.leader else {
            return;
        };
        while let Some((_, change)) = self.watch.pop_front_if(|(time, _)| *time <= self.now) {
            match change {
                Change::Domain(number, _) | Change::Gone(number)
                    if leader.in_flight.contains(&number) => {}
                Change::Domain(number, domain) => leader.see(number, *domain),
                Change::Gone(number) => leader.forget(number),
                Change::Node(node) => leader.see_node(node, &self.nodes[node as usize], self.now),
            }
        }
        self.wake(50);
    }

    /// Lets the leader decide soon.
    pub(super) fn wake(&mut self, delay: Time) {
        let time = self.now + delay;
        if self
            .round_at
            .is_none_or(|planned| planned > time || planned < self.now)
        {
            self.round_at = Some(time);
            self.at(delay, Event::Round(self.term));
        }
    }

    pub(super) fn round(&mut self, term: u64) {
        if term != self.term || self.round_at != Some(self.now) {
            return;
        }
        self.round_at = None;
        let Some(leader) = &mut self.leader else {
            return;
        };
        let writes = leader.round(self.now);
        let due = leader.due(self.now);
        for (number, version, write) in writes {
            let delay = self.latency().min(WRITE_DEADLINE);
            let crash = self.crash_at.filter(|crash| crash.write == self.sent);
            self.sent += 1;
            if crash.is_none_or(|crash| crash.done) {
                self.at(delay, Event::Lands(self.term, number, version, write));
            }
            if crash.is_some() {
                self.leader_dies();
                return;
            }
        }
        if let Some(due) = due {
            self.wake(due - self.now);
        }
    }

    pub(super) fn lands(&mut self, term: u64, number: u32, version: u64, write: Write) {
        let answered = !self.chance_of(self.setting.faults.answer_lost);
        if !self.chance_of(self.setting.faults.refused) {
            match self.store.get(&number) {
                Some(domain) if domain.version == version => self.write(number, write),
                _ => self.report.conflicts += 1,
            }
        }
        // Without an answer the leader gives up when the write can no longer be under way, and reads.
        let delay = if answered {
            self.latency()
        } else {
            WRITE_DEADLINE
        };
        self.at(delay, Event::Answer(term, number));
    }

    pub(super) fn write(&mut self, number: u32, write: Write) {
        self.report.writes += 1;
        let now = self.now;
        let before = self.store.get(&number).map(Domain::held);
        let before = before.unwrap_or_default();
        if matches!(write, Write::Delete) {
            self.store.remove(&number);
            self.published(number);
            return;
        }
        let mut first_ready = false;
        match &write {
            Write::Ready => first_ready = !self.report.ran.contains(&number),
            Write::Plan { first: false, .. } => self.report.replanned += 1,
            Write::Unbind => self.report.unbound += 1,
            _ => {}
        }
        self.change(number, |domain| apply(domain, write, now));
        if first_ready {
            self.report.ran.insert(number);
            let delay = self.chance.exponential(self.setting.runs as f64) as Time;
            self.at(delay, Event::Finish(number));
        }
        let after = self.store.get(&number).map(Domain::held);
        for node in before.into_iter().chain(after.unwrap_or_default()) {
            let delay = self.latency();
            self.at(delay, Event::Taint(node));
        }
    }

    pub(super) fn answer(&mut self, term: u64, number: u32) {
        if term != self.term {
            return;
        }
        let Some(leader) = &mut self.leader else {
            return;
        };
        leader.in_flight.remove(&number);
        match self.store.get(&number) {
            Some(domain) => leader.see(number, domain.clone()),
            None => leader.forget(number),
        }
        self.wake(10);
    }

    pub(super) fn leader_dies(&mut self) {
        if self.leader.take().is_some() {
            self.report.leaders_lost += 1;
            self.term += 1;
            self.watch.clear();
            self.round_at = None;
            // A lease is taken over only when no write of the old leader can be under way.
            let delay = WRITE_DEADLINE + self.chance.between(1, 10_000);
            self.at(delay, Event::LeaderStarts);
        }
    }

    pub(super) fn leader_starts(&mut self) {
        if self.leader.is_none() {
            let fresh = Leader::new(self.setting.layout, &self.nodes, &self.store, self.now);
            self.leader = Some(fresh);
            self.wake(1);
        }
    }

    /// The leader lists everything, because its watch broke.
    pub(super) fn relist(&mut self, term: u64) {
        if term != self.term {
            return;
        }
        self.watch.clear();
        if let Some(leader) = &mut self.leader {
            leader.list(&self.nodes, &self.store, self.now);
            self.wake(1);
        }
    }
}

fn apply(domain: &mut Domain, write: Write, now: Time) {
    match write {
        Write::Plan {
            nodes,
            spares,
            channels,
            first,
        } => {
            domain.generation += 1;
            for node in &nodes {
                domain.unconfirmed.insert(*node, domain.generation);
            }
            domain.bound.retain(|node| nodes.contains(node));
            domain.nodes = nodes;
            domain.spares = spares;
            domain.channels.extend(channels);
            domain.reserved_at = now;
            if first {
                domain.phase = Phase::Reserved;
            }
        }
        Write::Ready => domain.phase = Phase::Ready,
        Write::Unbind => leave_all(domain, Phase::Unbinding),
        Write::Release => leave_all(domain, Phase::Releasing),
        Write::Pend => domain.phase = Phase::Pending,
        Write::Delete => {}
    }
}

fn leave_all(domain: &mut Domain, phase: Phase) {
    domain.phase = phase;
    domain.nodes.clear();
    domain.spares.clear();
    domain.bound.clear();
}
