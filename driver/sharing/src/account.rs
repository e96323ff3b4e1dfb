//! What is given away of one device: all of it to one claim, or parts of it to several.
//!
//! The scheduler has counted already; this counts again, because schedulers hand out a device twice
//! (Kubernetes #139034 and others).

use std::collections::BTreeMap;
use std::fmt;

use tessera_claim::{COMPUTE_SHARE, Consumed, MEMORY, SHARES};
use tessera_device::Bytes;
use thiserror::Error;

use crate::holder::Holder;

/// How many holders a refusal names.
const NAMED: usize = 3;

/// What a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `memory`.
    pub memory: Bytes,
    /// `computeShare`, in percent.
    pub compute_share: u64,
    /// `shares`: how many there can be.
    pub shares: u64,
}

/// What one share has of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// `memory`.
    pub memory: Bytes,
    /// `computeShare`, in percent.
    pub compute_share: u64,
    /// `shares`.
    pub shares: u64,
}

/// How somebody holds a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Alone.
    Exclusive,
    /// A part of it.
    Part(Part),
}

/// Somebody who cannot have of the device what they want.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Overdrawn {
    /// Alone and in parts at once, or alone twice.
    #[error(
        "{holder} wants the device {}, but {by} has it {}; it can be had once that claim is released",
        manner(*alone), manner(*held_alone)
    )]
    Excluded {
        /// Who wants it.
        holder: Holder,
        /// Whether alone.
        alone: bool,
        /// Who has it: one of them.
        by: Holder,
        /// Whether alone.
        held_alone: bool,
    },
    /// More than is left.
    #[error(
        "{holder} wants {wanted} of the device's {name}, but {left} of {whole} are left beside {}; it can \
         be had once enough of them is released",
        named(by, *others)
    )]
    Sum {
        /// Who wants it.
        holder: Holder,
        /// The capacity.
        name: &'static str,
        /// How much of it is wanted.
        wanted: String,
        /// How much is left.
        left: String,
        /// How much the device has.
        whole: String,
        /// Who has the rest: the first of them.
        by: Vec<Holder>,
        /// How many more have.
        others: usize,
    },
}

fn manner(alone: bool) -> &'static str {
    if alone { "for itself" } else { "in part" }
}

fn named(by: &[Holder], others: usize) -> String {
    let names: Vec<String> = by.iter().map(Holder::to_string).collect();
    let names = names.join("; ");
    match (by.is_empty(), others) {
        (true, _) => "nobody".to_owned(),
        (false, 0) => names,
        (false, more) => format!("{names} and {more} more"),
    }
}

impl Part {
    /// What a share has that consumes so much of a device.
    ///
    /// The scheduler names every capacity that the device had when it counted (KEP 5075). So of one that
    /// is not named nothing was counted, but for memory: without that nothing is known of the share, and
    /// it has all of it.
    pub fn of(consumed: &Consumed, capacity: &Capacity) -> Self {
        Self {
            memory: consumed.memory.unwrap_or(capacity.memory),
            compute_share: consumed.compute_share.unwrap_or_default(),
            shares: consumed.shares.unwrap_or_default(),
        }
    }
}

impl From<Capacity> for Part {
    fn from(capacity: Capacity) -> Self {
        Self {
            memory: capacity.memory,
            compute_share: capacity.compute_share,
            shares: capacity.shares,
        }
    }
}

/// Who holds what of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    capacity: Capacity,
    holds: BTreeMap<Holder, Hold>,
}

impl Account {
    /// A device of which nothing is given away.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            holds: BTreeMap::new(),
        }
    }

    /// A device that is held like this, be that too much.
    pub fn held(capacity: Capacity, holds: impl IntoIterator<Item = (Holder, Hold)>) -> Self {
        Self {
            capacity,
            holds: holds.into_iter().collect(),
        }
    }

    /// Those who hold it.
    pub fn holds(&self) -> impl Iterator<Item = (&Holder, Hold)> {
        self.holds.iter().map(|(holder, hold)| (holder, *hold))
    }

    /// What is left of it.
    pub fn free(&self) -> Part {
        self.beside(None)
    }

    /// Gives it away, or says who is in the way. Whoever holds it already is not in their own way: what they
    /// hold is replaced.
    pub fn admit(&mut self, holder: Holder, hold: Hold) -> Result<(), Overdrawn> {
        let mut others = self.holds.iter().filter(|(other, _)| **other != holder);
        let in_the_way = match hold {
            Hold::Exclusive => others.next(),
            Hold::Part(_) => others.find(|(_, held)| **held == Hold::Exclusive),
        };
        if let Some((by, held)) = in_the_way {
            return Err(Overdrawn::Excluded {
                alone: hold == Hold::Exclusive,
                by: by.clone(),
                held_alone: *held == Hold::Exclusive,
                holder,
            });
        }
        if let Hold::Part(part) = hold {
            self.fits(&holder, part)?;
        }
        self.holds.insert(holder, hold);
        Ok(())
    }

    /// Takes back what `holder` has.
    pub fn release(&mut self, holder: &Holder) -> Option<Hold> {
        self.holds.remove(holder)
    }

    fn fits(&self, holder: &Holder, part: Part) -> Result<(), Overdrawn> {
        let (left, whole) = (self.beside(Some(holder)), Part::from(self.capacity));
        let refuse = |name, amounts: [&dyn fmt::Display; 3]| {
            let holders = self.holds.keys().filter(|other| *other != holder);
            let [wanted, left, whole] = amounts.map(ToString::to_string);
            Err(Overdrawn::Sum {
                holder: holder.clone(),
                name,
                wanted,
                left,
                whole,
                by: holders.clone().take(NAMED).cloned().collect(),
                others: holders.skip(NAMED).count(),
            })
        };
        if part.memory > left.memory {
            refuse(MEMORY, [&part.memory, &left.memory, &whole.memory])
        } else if part.compute_share > left.compute_share {
            let (part, left, whole) = (part.compute_share, left.compute_share, whole.compute_share);
            refuse(COMPUTE_SHARE, [&part, &left, &whole])
        } else if part.shares > left.shares {
            refuse(SHARES, [&part.shares, &left.shares, &whole.shares])
        } else {
            Ok(())
        }
    }

    /// What is left beside all holders but this one.
    fn beside(&self, but: Option<&Holder>) -> Part {
        let mut left = Part::from(self.capacity);
        let others = self.holds.iter().filter(|(holder, _)| Some(*holder) != but);
        for (_, hold) in others {
            let Hold::Part(part) = hold else {
                return Part::default();
            };
            left.memory = Bytes(left.memory.0.saturating_sub(part.memory.0));
            left.compute_share = left.compute_share.saturating_sub(part.compute_share);
            left.shares = left.shares.saturating_sub(part.shares);
        }
        left
    }
}

#[cfg(test)]
mod tests;
