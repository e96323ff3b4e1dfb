//! Fuzz targets: decisions about shares in any state, possible or not.

use std::collections::BTreeMap;

use bolero::TypeGenerator;
use tessera_device::Bytes;
use tessera_fuzz::fuzz;

use crate::range::{Card, Lending, Limit, Pressed, Rung, Rungs, ShareState, decide};
use crate::testing::holder;

/// An amount, mostly one that a card can have.
#[derive(Clone, Copy, Debug, TypeGenerator)]
enum Amount {
    Mebibytes(u16),
    Gibibytes(u8),
    Few(u8),
    Any(u64),
}

impl Amount {
    fn bytes(self) -> Bytes {
        match self {
            Self::Mebibytes(mib) => Bytes::from_mib(mib.into()),
            Self::Gibibytes(gib) => Bytes::from_mib(u64::from(gib) << 10),
            Self::Few(gib) => Bytes::from_mib(u64::from(gib % 16) << 10),
            Self::Any(bytes) => Bytes(bytes),
        }
    }
}

#[derive(Clone, Debug, TypeGenerator)]
struct Share {
    guarantee: Amount,
    ceiling: Amount,
    used: Amount,
    limit: Option<Amount>,
    enforced: bool,
    rungs: (bool, bool, bool),
    pressed: Option<(bool, u8)>,
}

impl Share {
    fn state(&self) -> ShareState {
        let rung = |at: u8| [Rung::Trim, Rung::Swap, Rung::Evict][usize::from(at % 3)];
        let (trim, swap, evict) = self.rungs;
        ShareState {
            guarantee: self.guarantee.bytes(),
            ceiling: self.ceiling.bytes(),
            used: self.used.bytes(),
            limit: match self.limit {
                _ if !self.enforced => Limit::Unenforced,
                None => Limit::Unset,
                Some(limit) => Limit::At(limit.bytes()),
            },
            rungs: Rungs { trim, swap, evict },
            pressed: match self.pressed {
                None => Pressed::Not,
                Some((true, at)) => Pressed::Under(rung(at)),
                Some((false, at)) => Pressed::Spent(rung(at)),
            },
        }
    }
}

#[derive(Clone, Debug, TypeGenerator)]
struct Situation {
    memory: Amount,
    reserve: Amount,
    careful: bool,
    shares: Vec<Share>,
}

#[test]
fn in_no_situation_a_decision_gives_more_than_there_is_or_takes_what_is_in_use() {
    fuzz!(5_000, Situation, |situation| {
        let card = Card {
            memory: situation.memory.bytes(),
            reserve: situation.reserve.bytes(),
            lending: if situation.careful {
                Lending::ToReclaimable
            } else {
                Lending::ToAll
            },
        };
        let shares: BTreeMap<_, _> = situation
            .shares
            .iter()
            .enumerate()
            .map(|(n, share)| (holder(&format!("share{n:03}")), share.state()))
            .collect();
        let decision = decide(&card, &shares);
        assert_eq!(decide(&card, &shares), decision);
        let budget = card.memory.0.saturating_sub(card.reserve.0);
        for change in &decision.limits {
            let share = &shares[change.share];
            assert!(change.to >= share.guarantee && change.to >= share.used);
            if let Limit::At(limit) = share.limit
                && change.to <= limit
            {
                continue;
            }
            // What a share uses already is not given to it.
            let used = Bytes::from_mib(share.used.0.div_ceil(1 << 20)).0;
            assert!(change.to.0 <= budget.max(used));
            let most = share.ceiling.max(share.guarantee).0;
            assert!(change.to.0 <= most.saturating_add(1 << 20));
        }
        for reclaim in &decision.reclaims {
            let share = &shares[reclaim.share];
            assert!(share.used > share.guarantee && reclaim.down_to < share.used);
            assert!(!matches!(share.pressed, Pressed::Under(_)));
        }
    });
}
