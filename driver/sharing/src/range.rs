//! How far each share of a card may grow, from one moment to the next.
//!
//! # What is promised
//! - The limits of all shares together never exceed the card less its reserve, at no moment: no change of a
//!   decision relies on another one of it, so that any of them may fail or come late.
//! - A share that runs has a limit of at least its guarantee. Guarantees are not lent: what is lent is what no
//!   claim was given.
//! - A share gets no limit, and so does not start, until its guarantee is free. Whoever borrowed it gets no more
//!   memory, and is made to give back as far as its own ladder allows.
//! - The same shares lead to the same decision. While their use stays as it is, decisions end after a few rounds
//!   in one that changes nothing.
//!
//! # How
//! What is free is divided so that every share that may grow can grow by as much as any other: each limit is the
//! use plus one *headroom* for all, within guarantee and ceiling. The headroom is the largest that the card has
//! room for. Limits are left alone as long as nobody has used up half of what such a division would give.

use std::collections::BTreeMap;

use tessera_device::Bytes;

use crate::holder::Holder;

mod reclaim;
mod room;
mod round;
mod tenants;

pub use reclaim::{Pressed, Reclaim, Rung, Rungs};
use room::Rooms;
use round::Round;
pub use tenants::{Measured, Promised, Tenant, tenants};

/// The least by which the limit of a share that has its guarantee is raised: less is not worth a call to the
/// driver.
pub const STEP: Bytes = Bytes::from_mib(64);

/// The memory that shares divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// All of it.
    pub memory: Bytes,
    /// What the driver and the contexts of processes take outside of limits, as the device publishes it.
    pub reserve: Bytes,
    /// To whom what no claim was given is lent.
    pub lending: Lending,
}

/// To whom memory is lent that a later claim may be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lending {
    /// To every share whose ceiling lets it grow. A claim that comes later waits for a borrower that cannot be
    /// made to give back, and may wait in vain.
    #[default]
    ToAll,
    /// Only to shares that can be swapped out or evicted. Every claim gets its guarantee.
    ToReclaimable,
}

/// A share at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareState {
    /// What it always has.
    pub guarantee: Bytes,
    /// How far it may grow.
    pub ceiling: Bytes,
    /// What it uses, as far as that counts against its limit.
    pub used: Bytes,
    /// Its limit.
    pub limit: Limit,
    /// What may be done to it.
    pub rungs: Rungs,
    /// What has been done to it.
    pub pressed: Pressed,
}

/// The limit that is in force for a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// None yet: the share has not started.
    Unset,
    /// This one, and it can change.
    At(Bytes),
    /// None, ever, because nothing holds the share: it counts by what it uses, and at least by its guarantee.
    Unenforced,
}

/// A limit that is to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange<'s, K = Holder> {
    /// Whose.
    pub share: &'s K,
    /// The new limit. Never less than the use that the decision saw: the driver refuses that.
    pub to: Bytes,
}

/// What is to be done now. Changes may be made in any order; if any was made, the next decision follows at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'s, K = Holder> {
    /// Limits to set.
    pub limits: Vec<LimitChange<'s, K>>,
    /// Shares from which memory is to be taken.
    pub reclaims: Vec<Reclaim<'s, K>>,
    /// What guarantees lack because others borrowed it. Nothing more can be done about it if nothing is to be
    /// reclaimed and no share is under pressure already.
    pub missing: Bytes,
}

/// Decides about the shares of a card, each under a name of its own. Where all else is the same the order of the names
/// decides.
pub fn decide<'s, K: Ord>(card: &Card, shares: &'s BTreeMap<K, ShareState>) -> Decision<'s, K> {
    let rooms = Rooms::of(card, shares);
    Decision {
        limits: Round::of(&rooms).limits(),
        reclaims: reclaim::reclaims(&rooms),
        missing: Bytes::from_mib(rooms.missing()),
    }
}

#[cfg(test)]
mod tests;
