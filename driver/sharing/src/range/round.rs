//! The limits that are set in one round.
//!
//! What a round gives is free already when it begins; what it lowers is given in the next. So the order of its
//! changes does not matter, nor whether the driver refuses to lower a limit because its share has grown
//! meanwhile.

use tessera_device::Bytes;

use crate::range::room::{LimitMib, Room, Rooms};
use crate::range::{LimitChange, STEP};

const STEP_MIB: u64 = STEP.0 >> 20;

/// A round.
pub(super) struct Round<'r, 's, K> {
    rooms: &'r Rooms<'s, K>,
    headroom: u64,
    /// What is neither committed nor given in this round.
    free: u64,
    changes: Vec<LimitChange<'s, K>>,
}

/// A share that has used up half of the headroom that it could have.
struct Starved<'r, 's, K> {
    room: &'r Room<'s, K>,
    held: u64,
    /// What it lacks of that headroom.
    lacks: u64,
}

impl<'r, 's, K> Round<'r, 's, K> {
    pub(super) fn of(rooms: &'r Rooms<'s, K>) -> Self {
        Self {
            rooms,
            headroom: rooms.headroom(),
            free: rooms.budget.saturating_sub(rooms.sum(Room::committed)),
            changes: Vec::new(),
        }
    }

    /// The limits to set.
    pub(super) fn limits(mut self) -> Vec<LimitChange<'s, K>> {
        self.guarantee();
        let starved = self.starved();
        let lacking = starved.iter().map(|share| share.lacks);
        let lacking = lacking.fold(0, u64::saturating_add);
        let squeezed = self.rooms.sum(Room::committed) > self.rooms.budget;
        self.lower(squeezed || lacking > self.free);
        self.raise(&starved);
        self.changes
    }

    fn set(&mut self, room: &Room<'s, K>, to: u64) {
        self.changes.push(LimitChange {
            share: room.holder,
            to: Bytes::from_mib(to),
        });
    }

    /// Gives their guarantee to shares that lack it: those that are to start, and any whose limit somebody else
    /// has set. They get it whole, and more if that is free, or wait.
    ///
    /// One that uses more than its guarantee without a limit that says so lacks nothing.
    fn guarantee(&mut self) {
        let mut room_left = self.rooms.budget.saturating_sub(self.rooms.sum(Room::held));
        for room in &self.rooms.shares {
            let lacks = match room.limit {
                LimitMib::Unset => true,
                LimitMib::At(limit) => limit < room.guarantee,
                LimitMib::Unenforced => false,
            };
            let owed = room.guarantee.saturating_sub(room.held());
            if !lacks || owed > room_left || room.used > room.guarantee {
                continue;
            }
            room_left -= owed;
            let more = (room.at(self.headroom) - room.guarantee).min(self.free);
            self.free -= more;
            self.set(room, room.guarantee + more);
        }
    }

    /// The starved shares, those with the least left first.
    fn starved(&self) -> Vec<Starved<'r, 's, K>> {
        let mut starved = Vec::new();
        for room in &self.rooms.shares {
            let LimitMib::At(limit) = room.limit else {
                continue;
            };
            // A share that took more than its ceiling is not given what it took.
            let target = room.at(self.headroom).min(room.top);
            let held = room.held();
            let lacks = target.saturating_sub(held);
            let left = held - room.used;
            let half = target.saturating_sub(room.used) / 2;
            if limit >= room.guarantee && lacks >= STEP_MIB && left < half {
                starved.push(Starved { room, held, lacks });
            }
        }
        starved.sort_by_key(|share| share.held - share.room.used);
        starved
    }

    /// Lowers limits that are above what an even division gives: every one if `all`, else those above the
    /// ceiling.
    fn lower(&mut self, all: bool) {
        for room in &self.rooms.shares {
            let LimitMib::At(limit) = room.limit else {
                continue;
            };
            let target = room.at(self.headroom);
            if limit > target && (all || limit > room.top) {
                self.set(room, target);
            }
        }
    }

    fn raise(&mut self, starved: &[Starved<'r, 's, K>]) {
        for Starved { room, held, lacks } in starved {
            let more = (*lacks).min(self.free);
            if more == *lacks || more >= STEP_MIB {
                self.free -= more;
                self.set(room, held + more);
            }
        }
    }
}
