//! Chooses cliques, and how many nodes of each.

use std::cmp::Reverse;
use std::num::NonZeroU32;

use crate::cluster::Cluster;
use crate::demand::NodeCount;
use crate::view::{View, as_u32};

/// What a cluster has free for one shape.
#[derive(Clone, Copy)]
pub(crate) struct Vacancy<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) view: &'a View,
}

/// How many nodes of which cliques.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) shares: Vec<Share>,
    /// How many nodes share a clique.
    pub(crate) segment: u32,
    /// How many should have, where the policy gave way.
    pub(crate) relaxed_from: Option<NonZeroU32>,
}

/// Nodes of one clique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) clique: u32,
    pub(crate) nodes: u32,
    pub(crate) room: u32,
}

/// A clique and its room.
#[derive(Clone, Copy, Debug)]
struct Open {
    room: u32,
    clique: u32,
}

/// What one group of a topology level, or the whole cluster, has for segments of one size.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    /// Whole segments.
    segments: u64,
    /// The most nodes that a clique has beside its whole segments.
    beside: u32,
    /// Nodes with room.
    room: u64,
    cliques: u32,
    /// How many cliques suffice, those with most room taken first.
    suffice: Option<u32>,
}

impl Sum {
    fn add(&mut self, room: u32, segment: u32) {
        self.segments += u64::from(room / segment);
        self.beside = self.beside.max(room % segment);
        self.room += u64::from(room);
        self.cliques += 1;
    }

    /// The largest gang that it can take: one that is smaller fits too.
    ///
    /// If a gang does not use every whole segment, what is left of it (less than a segment) goes into
    /// one of those; if it does, it goes beside them.
    fn takes(&self, segment: u32) -> u64 {
        self.segments * u64::from(segment) + u64::from(self.beside)
    }
}

impl<'a> Vacancy<'a> {
    /// The best fit in one clique: the one that has least left over if it has room for the most that is
    /// wanted, spares included; else the one with most room.
    pub(crate) fn one_clique(
        self,
        count: NodeCount,
        spares: u32,
        within: Option<usize>,
    ) -> Option<Choice> {
        let all = count.max().saturating_add(spares);
        let fewer = || {
            let fewer = self.view.below(all);
            let mut fewer = fewer.take_while(|(room, _)| *room >= count.min());
            let (room, place) = fewer.find(|(_, place)| self.is_within(place.clique, within))?;
            Some(Share {
                clique: place.clique,
                nodes: room.min(count.max()),
                room,
            })
        };
        let fit = self.best_fit(all, within).map(|fit| Share {
            nodes: count.max(),
            ..fit
        });
        fit.or_else(fewer).map(Choice::of)
    }

    /// The clique that has least left over beside so many nodes.
    fn best_fit(self, nodes: u32, within: Option<usize>) -> Option<Share> {
        let mut enough = self.view.at_least(nodes);
        let (room, place) = enough.find(|(_, place)| self.is_within(place.clique, within))?;
        Some(Share {
            clique: place.clique,
            nodes,
            room,
        })
    }

    /// The fewest cliques for segments of this size; among groups where as few suffice the one of the
    /// narrowest level, then the one that is fullest.
    pub(crate) fn fewest_cliques(
        self,
        count: NodeCount,
        segment: u32,
        within: Option<usize>,
    ) -> Option<Choice> {
        let (nodes, least) = self.reach(count, segment, within)?;
        if let Some(fit) = self.best_fit(nodes, within) {
            return Some(Choice {
                segment,
                ..Choice::of(fit)
            });
        }
        let open = self.open(least);
        let sums = self.count_sufficient(&open, nodes, segment, within);
        let group = self.preferred(&sums)?;
        let open = self.in_group(&open, group);
        let shares = pack(&open, nodes, segment)?;
        Some(Choice {
            shares,
            segment,
            relaxed_from: None,
        })
    }

    /// How many nodes a gang gets over several cliques, and the least room of a clique that can be among
    /// the fewest that suffice: cliques with less need not be looked at.
    fn reach(self, count: NodeCount, segment: u32, within: Option<usize>) -> Option<(u32, u32)> {
        if within.is_some() {
            let nodes = largest(&self.sums(&self.open(1), segment, within), segment);
            let nodes = u32::try_from(nodes.min(u64::from(count.max()))).ok()?;
            return (nodes >= count.min()).then_some((nodes, 1));
        }
        let wanted = u64::from(count.max());
        let mut sum = Sum::default();
        let mut most = 0;
        for (room, _) in self.view.by_room() {
            most = most.max(room);
            sum.add(room, segment);
            if sum.takes(segment) >= wanted {
                // As many cliques as these, each of them as roomy as the roomiest, leave this much for the last.
                let others = u64::from(sum.cliques - 1) * u64::from(most);
                let least = u32::try_from(wanted.saturating_sub(others)).ok()?;
                return Some((count.max(), least.max(1)));
            }
        }
        let nodes = u32::try_from(sum.takes(segment)).ok()?;
        (nodes >= count.min()).then_some((nodes, 1))
    }

    /// As many cliques as possible, as evenly as possible; the fullest cliques first, so that others stay whole.
    pub(crate) fn most_cliques(
        self,
        count: NodeCount,
        segment: u32,
        within: Option<usize>,
    ) -> Option<Choice> {
        let open = self.open(1);
        let sums = self.sums_at(&open, segment, within);
        let candidates = sums.iter().enumerate().filter(|(_, sum)| sum.room > 0);
        let (group, sum) = candidates.max_by(|(a, left), (b, right)| {
            let worth = |sum: &Sum| {
                (
                    sum.takes(segment).min(u64::from(count.max())),
                    sum.cliques,
                    Reverse(sum.room),
                )
            };
            worth(left)
                .cmp(&worth(right))
                .then_with(|| self.values(*b).cmp(&self.values(*a)))
        })?;
        let nodes = u32::try_from(sum.takes(segment).min(u64::from(count.max()))).ok()?;
        if nodes < count.min() {
            return None;
        }
        let shares = scatter(&self.in_group(&open, group), nodes, segment)?;
        Some(Choice {
            shares,
            segment,
            relaxed_from: None,
        })
    }

    /// The largest gang of such segments that fits.
    pub(crate) fn largest_in_segments(self, segment: u32, within: Option<usize>) -> u64 {
        largest(&self.sums(&self.open(1), segment, within), segment)
    }

    /// The clique with most room.
    pub(crate) fn roomiest(self, within: Option<usize>) -> Option<(u32, u32)> {
        let mut all = self.view.by_room();
        let found = all.find(|(_, place)| self.is_within(place.clique, within));
        found.map(|(room, place)| (place.clique, room))
    }

    pub(crate) fn is_within(self, clique: u32, within: Option<usize>) -> bool {
        within.is_none_or(|level| self.cluster.clique(clique).path[level].is_some())
    }

    /// Cliques with at least so much room, most room first.
    fn open(self, least: u32) -> Vec<Open> {
        let all = self.view.by_room();
        let all = all.take_while(|(room, _)| *room >= least);
        all.map(|(room, place)| Open {
            room,
            clique: place.clique,
        })
        .collect()
    }

    /// The number under which sums keep the whole cluster.
    fn everything(self) -> usize {
        self.cluster.groups.end()
    }

    /// The groups of a clique: of the level `within` and narrower ones, and the whole cluster if no level is named.
    fn groups(self, clique: u32, within: Option<usize>) -> impl Iterator<Item = usize> {
        let path = &self.cluster.clique(clique).path[within.unwrap_or(0)..];
        let groups = path.iter().flatten().map(|group| *group as usize);
        // A group of a narrower level counts only inside one of the level that is asked for.
        let inside = self.is_within(clique, within);
        let whole = within.is_none().then_some(self.everything());
        groups.filter(move |_| inside).chain(whole)
    }

    fn sums(self, open: &[Open], segment: u32, within: Option<usize>) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.everything() + 1];
        for clique in open {
            for group in self.groups(clique.clique, within) {
                sums[group].add(clique.room, segment);
            }
        }
        sums
    }

    /// As [`Self::sums`], without narrower groups.
    fn sums_at(self, open: &[Open], segment: u32, within: Option<usize>) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.everything() + 1];
        for clique in open {
            let group = match within {
                Some(level) => {
                    self.cluster.clique(clique.clique).path[level].map(|group| group as usize)
                }
                None => Some(self.everything()),
            };
            if let Some(group) = group {
                sums[group].add(clique.room, segment);
            }
        }
        sums
    }

    /// For each group how many of its cliques suffice for so many nodes.
    fn count_sufficient(
        self,
        open: &[Open],
        nodes: u32,
        segment: u32,
        within: Option<usize>,
    ) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.everything() + 1];
        for clique in open {
            for group in self.groups(clique.clique, within) {
                let sum = &mut sums[group];
                if sum.suffice.is_none() {
                    sum.add(clique.room, segment);
                    if sum.takes(segment) >= u64::from(nodes) {
                        sum.suffice = Some(sum.cliques);
                    }
                }
            }
        }
        sums
    }

    /// The group in which fewest cliques suffice; then the narrowest, the fullest, the first by its values.
    fn preferred(self, sums: &[Sum]) -> Option<usize> {
        let level = |group: usize| {
            let narrow = group != self.everything();
            Reverse(narrow.then(|| self.cluster.groups.key(as_u32(group)).level))
        };
        let sufficient = sums.iter().enumerate().filter_map(|(group, sum)| {
            let cliques = sum.suffice?;
            Some((group, (cliques, level(group), self.view.group_room(group))))
        });
        let best = sufficient.min_by(|(a, left), (b, right)| {
            left.cmp(right)
                .then_with(|| self.values(*a).cmp(&self.values(*b)))
        });
        best.map(|(group, _)| group)
    }

    fn values(self, group: usize) -> Vec<&'a str> {
        if group == self.everything() {
            Vec::new()
        } else {
            self.cluster.group_values(as_u32(group))
        }
    }

    fn in_group(self, open: &[Open], group: usize) -> Vec<Open> {
        let inside = |clique: u32| {
            let path = &self.cluster.clique(clique).path;
            group == self.everything()
                || path.iter().flatten().any(|other| *other as usize == group)
        };
        open.iter()
            .filter(|clique| inside(clique.clique))
            .copied()
            .collect()
    }
}

fn largest(sums: &[Sum], segment: u32) -> u64 {
    sums.iter().map(|sum| sum.takes(segment)).max().unwrap_or(0)
}

/// Takes the cliques with most room whole until the rest fits into one, and for that the best fit.
///
/// `open` has the cliques with most room first.
fn pack(open: &[Open], nodes: u32, segment: u32) -> Option<Vec<Share>> {
    let mut shares: Vec<Share> = Vec::new();
    let mut rest = nodes;
    let mut left = open;
    while rest > 0 {
        let enough = left.partition_point(|clique| clique.room >= rest);
        if let Some(tightest) = left[..enough].last() {
            let room = tightest.room;
            let first = left.partition_point(|clique| clique.room > room);
            shares.push(Share::of(left[first], rest));
            return Some(shares);
        }
        let next = left.first().filter(|clique| clique.room >= segment);
        let Some(&next) = next else {
            // Less than a segment is left, which no further clique takes: it goes beside whole segments.
            put_beside(&mut shares, rest)?;
            return Some(shares);
        };
        let whole = (next.room / segment * segment).min(rest / segment * segment);
        shares.push(Share::of(next, whole));
        rest -= whole;
        left = &left[1..];
    }
    Some(shares)
}

/// Deals segments out evenly.
fn scatter(open: &[Open], nodes: u32, segment: u32) -> Option<Vec<Share>> {
    let segments = u64::from(nodes / segment);
    let rest = nodes % segment;
    // The fullest first; those that are equally full in their order.
    let mut cliques: Vec<Open> = open.to_vec();
    cliques.sort_by_key(|clique| clique.room);
    let dealt = |each: u32| -> u64 {
        let shares = cliques
            .iter()
            .map(|clique| u64::from((clique.room / segment).min(each)));
        shares.sum()
    };
    let most = cliques.last().map_or(0, |clique| clique.room / segment);
    let each = (0..=most).find(|each| dealt(*each) >= segments)?;
    let base = each.saturating_sub(1);
    let mut more = segments - dealt(base);
    let mut shares: Vec<Share> = Vec::new();
    for clique in cliques {
        let has = clique.room / segment;
        let mut takes = has.min(base);
        if more > 0 && has >= each && each > 0 {
            takes += 1;
            more -= 1;
        }
        shares.push(Share::of(clique, takes * segment));
    }
    if rest > 0 {
        let unused = shares
            .iter_mut()
            .find(|share| share.nodes == 0 && share.room >= rest);
        match unused {
            Some(share) => share.nodes = rest,
            None => put_beside(&mut shares, rest)?,
        }
    }
    shares.retain(|share| share.nodes > 0);
    Some(shares)
}

/// Puts less than a segment beside the segments of a clique: where least is left over.
fn put_beside(shares: &mut [Share], rest: u32) -> Option<()> {
    let able = shares
        .iter_mut()
        .filter(|share| share.room - share.nodes >= rest);
    let share = able.min_by_key(|share| share.room - share.nodes)?;
    share.nodes += rest;
    Some(())
}

impl Choice {
    /// All in one clique.
    fn of(share: Share) -> Self {
        Self {
            shares: vec![share],
            segment: share.nodes,
            relaxed_from: None,
        }
    }
}

impl Share {
    fn of(clique: Open, nodes: u32) -> Self {
        Self {
            clique: clique.clique,
            nodes,
            room: clique.room,
        }
    }
}
