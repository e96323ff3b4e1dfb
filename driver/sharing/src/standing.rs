//! How a container fares with its limit.

use tessera_device::Bytes;

use crate::range::{Limit, ShareState};

/// Hundredths of the limit from which on it is near.
const NEAR: u64 = 95;
/// Hundredths below which it is not near any more: in between it stays what it was.
const NOT_NEAR: u64 = 90;

/// How a container fares with its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// It has nearly all that it may have at the moment.
    pub near_limit: bool,
    /// It has what it must not.
    pub violation: Option<Violation>,
}

/// What a container has that it must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Violation {
    /// More than its limit.
    AboveLimit,
    /// Memory, without any limit: somebody has taken it away.
    NoLimit,
}

impl Violation {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::AboveLimit, Self::NoLimit];

    /// The value of labels and reasons.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AboveLimit => "AboveLimit",
            Self::NoLimit => "NoLimit",
        }
    }
}

impl Standing {
    /// That of a container in this state, which was `before`.
    pub fn of(share: &ShareState, before: Self) -> Self {
        let Limit::At(limit) = share.limit else {
            return Self::default();
        };
        let used = share.used;
        let hundredths = if before.near_limit { NOT_NEAR } else { NEAR };
        let is_near = u128::from(used.0) * 100 >= u128::from(limit.0) * u128::from(hundredths);
        Self {
            near_limit: is_near && used > Bytes(0),
            violation: if limit == Bytes(u64::MAX) {
                Some(Violation::NoLimit)
            } else {
                (used > limit).then_some(Violation::AboveLimit)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::{Pressed, Rungs};

    fn standing(used: u64, limit: Limit, near_limit: bool) -> Standing {
        let share = ShareState {
            guarantee: Bytes(0),
            ceiling: Bytes(0),
            used: Bytes(used),
            limit,
            rungs: Rungs::default(),
            pressed: Pressed::Not,
        };
        let before = Standing {
            near_limit,
            violation: None,
        };
        Standing::of(&share, before)
    }

    #[test]
    fn a_share_is_near_its_limit_until_it_is_well_below() {
        for (used, was, is) in [
            (94, false, false),
            (95, false, true),
            (100, false, true),
            (94, true, true),
            (90, true, true),
            (89, true, false),
        ] {
            let found = standing(used, Limit::At(Bytes(100)), was);
            assert_eq!((found.near_limit, found.violation), (is, None), "{used}");
        }
        assert_eq!(standing(0, Limit::At(Bytes(0)), false), Standing::default());
    }

    #[test]
    fn what_is_above_a_limit_or_without_one_is_a_violation() {
        let at = |limit| Limit::At(Bytes(limit));
        for (used, limit, expected) in [
            (100, at(100), None),
            (101, at(100), Some(Violation::AboveLimit)),
            (1, at(u64::MAX), Some(Violation::NoLimit)),
            (7, Limit::Unenforced, None),
            (0, Limit::Unset, None),
        ] {
            assert_eq!(standing(used, limit, false).violation, expected);
        }
    }
}
