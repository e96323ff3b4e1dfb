//! From whom memory is taken that a guarantee needs, and how.
//!
//! Shares above their guarantee come first and last: nobody else gives. The mildest means is tried on all of
//! them before a harder one on any, and of those that would suffer the same, the one that borrowed most is
//! taken: so that few are. A share whose ladder ends gets no more memory, and keeps what it has.

use std::cmp::Reverse;

use tessera_device::Bytes;

use crate::holder::Holder;
use crate::range::room::{Room, Rooms};

/// A means of taking memory from a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// It is told to give back what it keeps in reserve.
    Trim,
    /// It is swapped out.
    Swap,
    /// Its pod is evicted.
    Evict,
}

/// The means that may be used on a share, by its user's will and its node's mechanisms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rungs {
    /// [`Rung::Trim`]
    pub trim: bool,
    /// [`Rung::Swap`]
    pub swap: bool,
    /// [`Rung::Evict`]
    pub evict: bool,
}

/// What has been done to a share since it has more than others can spare.
///
/// Whoever applies decisions keeps it: a means is under way until it has had its time, and is spent after. It
/// is forgotten once a decision finds nothing missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressed {
    /// Nothing.
    #[default]
    Not,
    /// This is being done.
    Under(Rung),
    /// This and all milder means have been tried.
    Spent(Rung),
}

/// A share from which memory is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaim<'s, K = Holder> {
    /// Whose.
    pub share: &'s K,
    /// How.
    pub rung: Rung,
    /// What it may still use afterwards, where it may use anything.
    pub down_to: Bytes,
}

impl Rungs {
    /// The mildest that may be used after `spent`.
    fn after(self, spent: Option<Rung>) -> Option<Rung> {
        [
            (Rung::Trim, self.trim),
            (Rung::Swap, self.swap),
            (Rung::Evict, self.evict),
        ]
        .into_iter()
        .find_map(|(rung, may)| (may && Some(rung) > spent).then_some(rung))
    }
}

impl<K> Room<'_, K> {
    /// What the card gains if this works. A swapped share keeps its guarantee, an evicted one keeps nothing.
    fn gain(&self, rung: Rung) -> u64 {
        match rung {
            Rung::Trim | Rung::Swap => self.borrowed(),
            Rung::Evict => self.floor(),
        }
    }

    fn next(&self) -> Option<Rung> {
        match self.pressed {
            Pressed::Not => self.rungs.after(None),
            Pressed::Spent(rung) => self.rungs.after(Some(rung)),
            Pressed::Under(_) => None,
        }
    }
}

/// Shares to take memory from now: for guarantees that lack it, and from shares above their ceiling.
pub(super) fn reclaims<'s, K>(rooms: &Rooms<'s, K>) -> Vec<Reclaim<'s, K>> {
    let under_way = rooms.sum(|room| match room.pressed {
        Pressed::Under(rung) => room.gain(rung),
        Pressed::Not | Pressed::Spent(_) => 0,
    });
    let mut missing = rooms.missing().saturating_sub(under_way);
    let mut able: Vec<_> = rooms
        .shares
        .iter()
        .filter(|room| room.borrowed() > 0)
        .filter_map(|room| Some((room.next()?, room)))
        .collect();
    able.sort_by_key(|(rung, room)| (*rung, Reverse(room.borrowed())));
    let mut taken = Vec::new();
    for (rung, room) in able {
        let down_to = match (missing > 0, room.used > room.top) {
            (true, _) => room.guarantee,
            (false, true) => room.top,
            (false, false) => continue,
        };
        missing = missing.saturating_sub(room.gain(rung));
        taken.push(Reclaim {
            share: room.holder,
            rung,
            down_to: Bytes::from_mib(down_to),
        });
    }
    taken
}
