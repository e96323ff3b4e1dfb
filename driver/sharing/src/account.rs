//! What is given away of one device: all of it to one claim, or parts of it to several.
//!
//! The scheduler has counted already; this counts again, because schedulers hand out a device twice
//! (Kubernetes #139034 and others).

use std::collections::BTreeMap;
use std::fmt;

use tessera_device::{Bytes, quantity};
use thiserror::Error;

use crate::holder::Holder;

/// Names of the capacities of a shareable device.
const MEMORY: &str = "memory";
const COMPUTE_SHARE: &str = "computeShare";
const SHARES: &str = "shares";

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

/// A consumed capacity that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("consumedCapacity {name} is {found:?}, which is not an amount; the allocation is damaged")]
pub struct ConsumedError {
    /// The capacity.
    pub name: &'static str,
    /// What it says.
    pub found: String,
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

impl Hold {
    /// What an allocation consumes, by name. `None`: its device is not shared.
    ///
    /// A capacity that is not named is consumed whole, as the scheduler takes it (KEP 5075). One that
    /// this version does not know is of a newer one.
    pub fn of<'c>(
        consumed: Option<impl IntoIterator<Item = (&'c str, &'c str)>>,
        capacity: &Capacity,
    ) -> Result<Self, ConsumedError> {
        let Some(consumed) = consumed else {
            return Ok(Self::Exclusive);
        };
        let mut part = Part::from(*capacity);
        for (name, text) in consumed {
            match name {
                MEMORY => part.memory = Bytes(amount(MEMORY, text)?),
                COMPUTE_SHARE => part.compute_share = amount(COMPUTE_SHARE, text)?,
                SHARES => part.shares = amount(SHARES, text)?,
                _ => {}
            }
        }
        Ok(Self::Part(part))
    }
}

/// A whole amount, rounded up.
fn amount(name: &'static str, text: &str) -> Result<u64, ConsumedError> {
    let whole = quantity::nanos(text).map(|nanos| {
        nanos.div_euclid(quantity::ONE) + i128::from(nanos.rem_euclid(quantity::ONE) > 0)
    });
    whole
        .and_then(|whole| u64::try_from(whole).ok())
        .ok_or_else(|| ConsumedError {
            name,
            found: text.chars().take(60).collect(),
        })
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
