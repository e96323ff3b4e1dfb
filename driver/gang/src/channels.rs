//! Which IMEX channel a domain has in a clique.
//!
//! A channel is global within an IMEX domain, that is, a clique: two domains that share a clique and a
//! number can map each other's memory (I9). A number is free again only when every node that may have
//! had it in a container has said that it has none any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

use crate::names::{CliqueId, GangId, NodeName};

/// How many channels the driver has unless `NVreg_ImexChannelCount` says otherwise (nv-reg.h).
pub const DEFAULT_CHANNEL_COUNT: u32 = 2048;

/// The most that `NVreg_ImexChannelCount` can be: the kernel's space of minor numbers.
pub const MOST_CHANNELS: u32 = 1 << 20;

/// The number of a channel: the minor number of its device node.
///
/// Never 0: that is the channel that the reference driver gives to everybody, and the one that a host
/// creates by itself (`NVreg_CreateImexChannel0`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u32);

impl ChannelNumber {
    /// A number that was read back; none for 0 and for what no driver can have.
    pub fn new(number: u32) -> Option<Self> {
        (1..MOST_CHANNELS).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a domain may use of a clique's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// One channel, beside other domains.
    One(ChannelNumber),
    /// Every channel, as `allocationMode: All` asks for, with nobody else in the clique.
    All,
}

/// Why a domain has no channel in a clique.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChannelRefusal {
    /// Every number is in use or not yet confirmed as released.
    #[error(
        "all {count} IMEX channels of clique {clique} are in use or being released; wait for a domain to end, or raise NVreg_ImexChannelCount on all its nodes"
    )]
    Exhausted {
        /// The clique.
        clique: CliqueId,
        /// How many channels may be given out there.
        count: u32,
    },
    /// Somebody has all channels.
    #[error(
        "domain {by} has all IMEX channels of clique {clique} (allocationMode All); wait for it to end, or use another clique"
    )]
    Exclusive {
        /// The clique.
        clique: CliqueId,
        /// Who has them.
        by: GangId,
    },
    /// All channels are wanted and somebody has one.
    #[error(
        "domain {by} has an IMEX channel of clique {clique}, so that not all can be given out (allocationMode All); wait for it to end, or use allocationMode Single"
    )]
    Shared {
        /// The clique.
        clique: CliqueId,
        /// Who has one.
        by: GangId,
    },
    /// The domain is still being released.
    #[error("domain {gang} is being released in clique {clique}; use another domain")]
    Releasing {
        /// The domain.
        gang: GangId,
        /// The clique.
        clique: CliqueId,
    },
    /// What was recorded contradicts what else was recorded.
    #[error(
        "the same IMEX channel of clique {clique} is recorded for domain {gang} and for domain {by}; delete one of the two domains"
    )]
    Twice {
        /// The clique.
        clique: CliqueId,
        /// The later domain.
        gang: GangId,
        /// The one that was there.
        by: GangId,
    },
}

/// The channels of all cliques.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    cliques: BTreeMap<CliqueId, Clique>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Clique {
    count: u32,
    /// Who has what. A number is taken as long as its domain is here.
    domains: BTreeMap<GangId, Use>,
    /// The numbers that are taken.
    taken: BTreeMap<ChannelNumber, GangId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Use {
    grant: Grant,
    /// Nodes that may have the channel in a container.
    nodes: BTreeSet<NodeName>,
    /// Whether the domain has ended, and only its nodes' word is missing.
    releasing: bool,
}

impl Default for Clique {
    fn default() -> Self {
        Self {
            count: DEFAULT_CHANNEL_COUNT,
            domains: BTreeMap::new(),
            taken: BTreeMap::new(),
        }
    }
}

impl Clique {
    fn lowest_free(&self) -> Option<ChannelNumber> {
        let mut next = 1;
        for number in self.taken.keys() {
            if number.0 != next {
                break;
            }
            next += 1;
        }
        (next < self.count).then_some(ChannelNumber(next))
    }

    fn is_free(&self, number: ChannelNumber) -> bool {
        number.0 < self.count && !self.taken.contains_key(&number)
    }

    fn exclusive(&self) -> Option<&GangId> {
        let mut all = self.domains.iter();
        all.find(|(_, other)| other.grant == Grant::All)
            .map(|(gang, _)| gang)
    }

    fn forget_if_done(&mut self, gang: &GangId) {
        let done = self
            .domains
            .get(gang)
            .is_some_and(|it| it.releasing && it.nodes.is_empty());
        if let (true, Some(gone)) = (done, self.domains.get(gang)) {
            if let Grant::One(number) = gone.grant {
                self.taken.remove(&number);
            }
            self.domains.remove(gang);
        }
    }
}

impl Channels {
    /// No channel given out.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many channels the driver of a clique's nodes has: the least of the nodes' counts, since
    /// all must have the number.
    pub fn set_count(&mut self, clique: &CliqueId, count: u32) {
        self.cliques.entry(clique.clone()).or_default().count = count.min(MOST_CHANNELS);
    }

    /// Gives a domain a channel in each of these cliques, or none: the same number in all where one is
    /// free in all. What it has already it keeps.
    pub fn grant(
        &mut self,
        gang: &GangId,
        cliques: &[CliqueId],
    ) -> Result<BTreeMap<CliqueId, ChannelNumber>, ChannelRefusal> {
        let mut numbers = BTreeMap::new();
        let mut missing = Vec::new();
        for id in cliques {
            let clique = self.cliques.entry(id.clone()).or_default();
            match clique.domains.get(gang) {
                Some(own) if own.releasing => return Err(releasing(gang, id)),
                Some(Use {
                    grant: Grant::One(number),
                    ..
                }) => {
                    numbers.insert(id.clone(), *number);
                }
                _ => {
                    if let Some(by) = clique.exclusive() {
                        let (clique, by) = (id.clone(), by.clone());
                        return Err(ChannelRefusal::Exclusive { clique, by });
                    }
                    missing.push(id);
                }
            }
        }
        let wish = numbers
            .values()
            .next()
            .copied()
            .or_else(|| self.lowest_in_all(&missing));
        for id in &missing {
            let clique = &self.cliques[*id];
            let number = wish.filter(|number| clique.is_free(*number));
            let number = number.or_else(|| clique.lowest_free());
            let number = number.ok_or_else(|| ChannelRefusal::Exhausted {
                clique: (*id).clone(),
                count: clique.count.saturating_sub(1),
            })?;
            numbers.insert((*id).clone(), number);
        }
        for id in missing {
            self.put(gang, id, Grant::One(numbers[id]));
        }
        Ok(numbers)
    }

    /// Gives a domain every channel of a clique, as `allocationMode: All` asks for.
    pub fn grant_all(&mut self, gang: &GangId, id: &CliqueId) -> Result<(), ChannelRefusal> {
        let clique = self.cliques.entry(id.clone()).or_default();
        match clique.domains.iter().next() {
            Some((own, using)) if own == gang && clique.domains.len() == 1 => {
                if using.releasing {
                    return Err(releasing(gang, id));
                }
                if let Grant::One(number) = using.grant {
                    clique.taken.remove(&number);
                }
            }
            _ => {
                if let Some(by) = clique.domains.keys().find(|other| *other != gang) {
                    let (clique, by) = (id.clone(), by.clone());
                    return Err(ChannelRefusal::Shared { clique, by });
                }
            }
        }
        self.put(gang, id, Grant::All);
        Ok(())
    }

    /// Notes that a node may have the domain's channel in a container: to be told before the node can.
    pub fn used_by(&mut self, gang: &GangId, clique: &CliqueId, node: NodeName) {
        if let Some(using) = self.using(gang, clique) {
            using.nodes.insert(node);
        }
    }

    /// Notes that a node has none of the domain's containers any more, or that the node is gone for good.
    pub fn confirmed(&mut self, gang: &GangId, clique: &CliqueId, node: &NodeName) {
        if let Some(using) = self.using(gang, clique) {
            using.nodes.remove(node);
        }
        if let Some(clique) = self.cliques.get_mut(clique) {
            clique.forget_if_done(gang);
        }
    }

    /// Ends a domain. Its numbers are free when every node has confirmed.
    pub fn release(&mut self, gang: &GangId) {
        for clique in self.cliques.values_mut() {
            if let Some(using) = clique.domains.get_mut(gang) {
                using.releasing = true;
                clique.forget_if_done(gang);
            }
        }
    }

    /// Puts back what was recorded before a restart: the nodes that may have the channel, and whether the
    /// domain had ended.
    pub fn restore(
        &mut self,
        gang: &GangId,
        id: &CliqueId,
        grant: Grant,
        nodes: impl IntoIterator<Item = NodeName>,
        ended: bool,
    ) -> Result<(), ChannelRefusal> {
        let clique = self.cliques.entry(id.clone()).or_default();
        let by = match grant {
            Grant::One(number) => clique.taken.get(&number).or_else(|| clique.exclusive()),
            Grant::All => clique.domains.keys().find(|other| *other != gang),
        };
        if let Some(by) = by.filter(|by| *by != gang) {
            let (clique, gang, by) = (id.clone(), gang.clone(), by.clone());
            return Err(ChannelRefusal::Twice { clique, gang, by });
        }
        self.put(gang, id, grant);
        if let Some(using) = self.using(gang, id) {
            using.nodes.extend(nodes);
            using.releasing = ended;
        }
        if let Some(clique) = self.cliques.get_mut(id) {
            clique.forget_if_done(gang);
        }
        Ok(())
    }

    /// What a domain may use of a clique's channels, as long as it has not ended.
    pub fn of(&self, gang: &GangId, clique: &CliqueId) -> Option<Grant> {
        let using = self.cliques.get(clique)?.domains.get(gang)?;
        (!using.releasing).then_some(using.grant)
    }

    /// Numbers that wait for nodes to confirm: domain, clique and the nodes.
    pub fn quarantined(&self) -> impl Iterator<Item = (&GangId, &CliqueId, &BTreeSet<NodeName>)> {
        self.cliques.iter().flat_map(|(id, clique)| {
            let ended = clique.domains.iter().filter(|(_, using)| using.releasing);
            ended.map(move |(gang, using)| (gang, id, &using.nodes))
        })
    }

    fn using(&mut self, gang: &GangId, clique: &CliqueId) -> Option<&mut Use> {
        self.cliques.get_mut(clique)?.domains.get_mut(gang)
    }

    fn put(&mut self, gang: &GangId, id: &CliqueId, grant: Grant) {
        let clique = self.cliques.entry(id.clone()).or_default();
        if let Grant::One(number) = grant {
            clique.taken.insert(number, gang.clone());
        }
        let using = clique.domains.entry(gang.clone()).or_insert_with(|| Use {
            grant,
            nodes: BTreeSet::new(),
            releasing: false,
        });
        using.grant = grant;
    }

    /// The lowest number that is free in all of these cliques.
    fn lowest_in_all(&self, ids: &[&CliqueId]) -> Option<ChannelNumber> {
        let cliques: Vec<&Clique> = ids.iter().map(|id| &self.cliques[*id]).collect();
        let count = cliques.iter().map(|clique| clique.count).min()?;
        let mut numbers = (1..count).map(ChannelNumber);
        numbers.find(|number| cliques.iter().all(|clique| clique.is_free(*number)))
    }
}

fn releasing(gang: &GangId, clique: &CliqueId) -> ChannelRefusal {
    ChannelRefusal::Releasing {
        gang: gang.clone(),
        clique: clique.clone(),
    }
}

#[cfg(test)]
mod tests;
