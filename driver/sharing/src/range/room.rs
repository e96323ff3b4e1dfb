//! The shares of a card in whole MiB, rounded to the safe side.

use std::collections::BTreeMap;

use crate::range::reclaim::{Pressed, Rungs};
use crate::range::{Card, Lending, Limit, ShareState};

const MIB: u64 = 1 << 20;

/// The shares of a card, in the order of their holders.
pub(super) struct Rooms<'s, K> {
    /// What all of them together may have.
    pub(super) budget: u64,
    pub(super) shares: Vec<Room<'s, K>>,
}

/// One share.
pub(super) struct Room<'s, K> {
    pub(super) holder: &'s K,
    pub(super) guarantee: u64,
    /// How far it may be let grow: at least its guarantee.
    pub(super) top: u64,
    pub(super) used: u64,
    pub(super) limit: LimitMib,
    pub(super) rungs: Rungs,
    pub(super) pressed: Pressed,
}

/// [`Limit`] in MiB.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitMib {
    Unset,
    At(u64),
    Unenforced,
}

impl<'s, K> Room<'s, K> {
    fn of(holder: &'s K, share: &ShareState, lending: Lending) -> Self {
        let guarantee = share.guarantee.0.div_ceil(MIB);
        let gives_back = share.rungs.swap || share.rungs.evict;
        let ceiling = match lending {
            Lending::ToReclaimable if !gives_back => guarantee,
            Lending::ToReclaimable | Lending::ToAll => share.ceiling.0 / MIB,
        };
        Self {
            holder,
            guarantee,
            top: ceiling.max(guarantee),
            used: share.used.0.div_ceil(MIB),
            limit: match share.limit {
                Limit::Unset => LimitMib::Unset,
                Limit::At(limit) => LimitMib::At(limit.0.div_ceil(MIB)),
                Limit::Unenforced => LimitMib::Unenforced,
            },
            rungs: share.rungs,
            pressed: share.pressed,
        }
    }

    /// What it cannot be brought below without taking memory from it.
    pub(super) fn floor(&self) -> u64 {
        self.guarantee.max(self.used)
    }

    /// What it uses above its guarantee.
    pub(super) fn borrowed(&self) -> u64 {
        self.used.saturating_sub(self.guarantee)
    }

    /// Its limit where every share may grow by as much as `headroom`.
    pub(super) fn at(&self, headroom: u64) -> u64 {
        if self.limit == LimitMib::Unenforced {
            return self.floor();
        }
        let most = self.top.max(self.floor());
        let wanted = self.used.saturating_add(headroom);
        wanted.clamp(self.floor(), most)
    }

    /// What it may use without asking, or uses without having asked.
    pub(super) fn held(&self) -> u64 {
        match self.limit {
            LimitMib::Unset => 0,
            LimitMib::At(limit) => limit.max(self.used),
            LimitMib::Unenforced => self.floor(),
        }
    }

    /// What others must leave alone: what it may use, and its guarantee.
    pub(super) fn committed(&self) -> u64 {
        self.held().max(self.guarantee)
    }
}

impl<'s, K> Rooms<'s, K> {
    pub(super) fn of(card: &Card, shares: &'s BTreeMap<K, ShareState>) -> Self {
        let room = |(holder, share)| Room::of(holder, share, card.lending);
        Self {
            budget: card.memory.0.saturating_sub(card.reserve.0) / MIB,
            shares: shares.iter().map(room).collect(),
        }
    }

    pub(super) fn sum(&self, of: impl Fn(&Room<'s, K>) -> u64) -> u64 {
        self.shares.iter().map(of).fold(0, u64::saturating_add)
    }

    /// What guarantees lack because others use it.
    pub(super) fn missing(&self) -> u64 {
        self.sum(Room::floor).saturating_sub(self.budget)
    }

    /// The largest headroom that the card has for all shares alike.
    pub(super) fn headroom(&self) -> u64 {
        let (mut fits, mut too_much) = (0, self.budget.saturating_add(1));
        while too_much - fits > 1 {
            let middle = fits + (too_much - fits) / 2;
            if self.sum(|room| room.at(middle)) <= self.budget {
                fits = middle;
            } else {
                too_much = middle;
            }
        }
        fits
    }
}
