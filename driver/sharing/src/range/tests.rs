use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::testing::holder;

mod card;
mod steps;

const GIB: u64 = 1 << 30;
/// A decision that changes nothing is reached after so many rounds: some limits go down, starting shares start,
/// starved ones grow.
const ROUNDS: usize = 4;

/// An H200 of 140 GiB, of which one is reserved.
const CARD: Card = Card {
    memory: Bytes(141 * GIB),
    reserve: Bytes(GIB),
    lending: Lending::ToAll,
};

const EVICT: Rungs = Rungs {
    trim: false,
    swap: false,
    evict: true,
};

/// A share that may grow to the whole card.
fn share(guarantee: u64, used: u64, limit: Option<u64>) -> ShareState {
    ShareState {
        guarantee: Bytes(guarantee * GIB),
        ceiling: Bytes(140 * GIB),
        used: Bytes(used * GIB),
        limit: limit.map_or(Limit::Unset, |limit| Limit::At(Bytes(limit * GIB))),
        rungs: Rungs::default(),
        pressed: Pressed::Not,
    }
}

fn shares<const N: usize>(states: [ShareState; N]) -> BTreeMap<Holder, ShareState> {
    let named = states.into_iter().enumerate();
    named
        .map(|(n, state)| (holder(&format!("share{n:02}")), state))
        .collect()
}

/// Sets what a decision says, as a driver that never refuses.
fn apply(decision: &Decision<'_>, shares: &mut BTreeMap<Holder, ShareState>) {
    for change in &decision.limits {
        shares.get_mut(change.share).unwrap().limit = Limit::At(change.to);
    }
}

/// Decides and applies until nothing changes.
fn settle(card: &Card, shares: &mut BTreeMap<Holder, ShareState>) {
    for _ in 0..ROUNDS {
        let before = shares.clone();
        let decision = decide(card, &before);
        if decision.limits.is_empty() {
            return;
        }
        apply(&decision, shares);
    }
    let decision = decide(card, shares);
    assert!(decision.limits.is_empty(), "{decision:?}\n{shares:?}");
}

fn limit(share: &ShareState) -> u64 {
    match share.limit {
        Limit::At(limit) => limit.0,
        Limit::Unset | Limit::Unenforced => 0,
    }
}

fn limits(shares: &BTreeMap<Holder, ShareState>) -> Vec<u64> {
    shares.values().map(|share| limit(share) / GIB).collect()
}

#[test]
fn what_is_free_is_headroom_for_all_alike() {
    let mut three = shares([share(5, 0, None), share(5, 0, None), share(5, 0, None)]);
    settle(&CARD, &mut three);
    assert_eq!(limits(&three), [46, 46, 46]);
    let mut alone = shares([share(5, 0, None)]);
    settle(&CARD, &mut alone);
    assert_eq!(limits(&alone), [140]);
}

/// Three shares of 5 GiB on an H200, one of which grows.
#[test]
fn growth_stops_where_the_guarantees_of_others_begin() {
    let mut three = shares([share(5, 0, None), share(5, 0, None), share(5, 0, None)]);
    let grower = holder("share00");
    let mut grown = 0;
    loop {
        settle(&CARD, &mut three);
        let state = three.get_mut(&grower).unwrap();
        let limit = limit(state);
        if state.used.0 + (64 << 20) > limit {
            break;
        }
        state.used = Bytes(limit.min(state.used.0 + 4 * GIB));
        grown = state.used.0;
    }
    assert!((130 * GIB).abs_diff(grown) <= STEP.0, "{grown}");
    let others: Vec<u64> = three.values().skip(1).map(limit).collect();
    assert!(others.iter().all(|limit| *limit >= 5 * GIB), "{others:?}");
}

#[test]
fn a_share_whose_guarantee_is_free_starts_at_once_or_when_unused_limits_are_lowered() {
    let beside = share(20, 30, Some(140));
    let mut two = shares([beside, share(20, 0, None)]);
    let first = decide(&CARD, &two);
    let lowered = first
        .limits
        .iter()
        .map(|change| change.share.claim.name.as_str());
    assert_eq!(lowered.collect::<Vec<_>>(), ["share00"]);
    assert_eq!(first.missing, Bytes(0));
    settle(&CARD, &mut two);
    assert_eq!(limits(&two), [85, 55]);
}

#[test]
fn a_share_does_not_start_while_its_guarantee_is_borrowed_and_the_borrower_gets_no_more() {
    let mut two = shares([share(20, 130, Some(140)), share(20, 0, None)]);
    settle(&CARD, &mut two);
    assert_eq!(limits(&two), [130, 0]);
    let decision = decide(&CARD, &two);
    assert_eq!(decision.missing, Bytes(10 * GIB));
    assert_eq!(decision.reclaims, []);
    // As the borrower gives back, its limit follows down.
    let borrower = holder("share00");
    for (used, expected) in [(125, [125, 0]), (121, [121, 0]), (120, [120, 20])] {
        two.get_mut(&borrower).unwrap().used = Bytes(used * GIB);
        settle(&CARD, &mut two);
        assert_eq!(limits(&two), expected);
    }
}

#[test]
fn the_mildest_means_comes_first_and_the_greatest_borrower_before_others() {
    let all = Rungs {
        trim: true,
        swap: true,
        evict: true,
    };
    let mut evictable = share(10, 40, Some(40));
    evictable.rungs = EVICT;
    let mut able = share(10, 30, Some(30));
    able.rungs = all;
    let stubborn = share(10, 50, Some(50));
    let newcomer = share(30, 0, None);
    let names = |decision: &Decision<'_>| -> Vec<(String, Rung)> {
        let reclaims = decision.reclaims.iter();
        reclaims
            .map(|one| (one.share.claim.name.clone(), one.rung))
            .collect()
    };
    let mut four = shares([evictable, able, stubborn, newcomer]);
    let able = holder("share01");
    for (pressed, expected) in [
        // 10 GiB are missing; trimming one of the two that can give would do.
        (Pressed::Not, vec![("share01", Rung::Trim)]),
        (Pressed::Under(Rung::Trim), vec![]),
        (Pressed::Spent(Rung::Trim), vec![("share01", Rung::Swap)]),
        (Pressed::Under(Rung::Swap), vec![]),
        // Now both can only be evicted, and the other borrowed more.
        (Pressed::Spent(Rung::Swap), vec![("share00", Rung::Evict)]),
        (Pressed::Spent(Rung::Evict), vec![("share00", Rung::Evict)]),
    ] {
        four.get_mut(&able).unwrap().pressed = pressed;
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(name, rung)| (name.to_owned(), rung))
            .collect();
        assert_eq!(names(&decide(&CARD, &four)), expected, "{pressed:?}");
    }
    four.remove(&holder("share03"));
    assert_eq!(names(&decide(&CARD, &four)), []);
}

#[test]
fn memory_is_lent_only_to_those_who_can_be_made_to_give_back_where_the_node_says_so() {
    let careful = Card {
        lending: Lending::ToReclaimable,
        ..CARD
    };
    let mut evictable = share(5, 0, None);
    evictable.rungs = EVICT;
    let mut two = shares([share(5, 0, None), evictable]);
    settle(&careful, &mut two);
    assert_eq!(limits(&two), [5, 135]);
}

#[test]
fn a_ceiling_that_is_lowered_below_the_use_ends_growth_and_then_takes_the_means_of_the_ladder() {
    let mut lowered = share(5, 50, Some(80));
    lowered.ceiling = Bytes(20 * GIB);
    lowered.rungs.trim = true;
    let mut one = shares([lowered]);
    let decision = decide(&CARD, &one);
    let reclaim = &decision.reclaims[0];
    assert_eq!(
        (reclaim.rung, reclaim.down_to),
        (Rung::Trim, Bytes(20 * GIB))
    );
    settle(&CARD, &mut one);
    assert_eq!(limits(&one), [50]);
    one.values_mut().next().unwrap().used = Bytes(15 * GIB);
    settle(&CARD, &mut one);
    assert_eq!(limits(&one), [20]);
}

#[test]
fn a_share_that_took_more_than_its_limit_is_not_given_it_and_takes_it_from_nobodys_guarantee() {
    let mut thief = share(5, 100, Some(10));
    thief.ceiling = Bytes(10 * GIB);
    let mut two = shares([thief, share(30, 10, Some(130))]);
    settle(&CARD, &mut two);
    assert_eq!(limits(&two), [10, 40]);
}

#[test]
fn a_share_that_nothing_holds_counts_and_is_left_alone() {
    let mut free = share(20, 60, None);
    free.limit = Limit::Unenforced;
    let mut two = shares([free, share(20, 0, None)]);
    settle(&CARD, &mut two);
    assert_eq!(limits(&two), [0, 80]);
    assert_eq!(two.values().next().unwrap().limit, Limit::Unenforced);
}

#[test]
fn limits_that_somebody_else_has_set_are_put_right() {
    let mut two = shares([share(20, 0, Some(1)), share(20, 0, Some(300))]);
    settle(&CARD, &mut two);
    assert_eq!(limits(&two), [70, 70]);
}

fn states() -> impl Strategy<Value = ShareState> {
    let amounts = (
        0..40_u64,
        0..200_u64,
        0..3000_u64,
        prop::option::of(0..3000_u64),
    );
    let rungs = (any::<bool>(), any::<bool>(), any::<bool>());
    (amounts, rungs).prop_map(|((guarantee, ceiling, used, above), (trim, swap, evict))| {
        let guarantee = Bytes(guarantee * GIB / 4);
        let used = Bytes::from_mib(if above.is_some() { used } else { 0 });
        let limit = above.map_or(Limit::Unset, |above| {
            Limit::At(Bytes(guarantee.max(used).0 + (above << 20)))
        });
        ShareState {
            guarantee,
            ceiling: Bytes(ceiling * GIB / 4),
            used,
            limit,
            rungs: Rungs { trim, swap, evict },
            pressed: Pressed::Not,
        }
    })
}

/// Shares whose limits and guarantees the card can hold, as decisions of before have left them.
fn on_card() -> impl Strategy<Value = (Card, BTreeMap<Holder, ShareState>)> {
    let lending = prop::sample::select(vec![Lending::ToAll, Lending::ToReclaimable]);
    let states = prop::collection::vec(states(), 1..10);
    (lending, states, 0..40 * GIB).prop_map(|(lending, states, spare)| {
        let mib = 1 << 20;
        let held = states.iter().map(limit).sum::<u64>();
        let promised = states.iter().map(|state| state.guarantee.0).sum::<u64>();
        let card = Card {
            memory: Bytes((held.max(promised) + spare).next_multiple_of(mib) + GIB),
            reserve: Bytes(GIB),
            lending,
        };
        let named = states.into_iter().enumerate();
        (
            card,
            named
                .map(|(n, state)| (holder(&format!("share{n:02}")), state))
                .collect(),
        )
    })
}

proptest! {
    #[test]
    fn at_rest_limits_come_to_rest_without_turning_back((card, mut shares) in on_card()) {
        let mut directions = BTreeMap::new();
        for round in 0.. {
            prop_assert!(round <= ROUNDS);
            let before = shares.clone();
            let decision = decide(&card, &before);
            prop_assert_eq!(&decide(&card, &before), &decision);
            if decision.limits.is_empty() {
                break;
            }
            for change in &decision.limits {
                let state = &before[change.share];
                prop_assert!(change.to >= state.guarantee.max(state.used));
                let up = state.limit == Limit::Unset || change.to.0 > limit(state);
                prop_assert!(change.to.0 != limit(state) || state.limit == Limit::Unset);
                prop_assert_eq!(*directions.entry(change.share.clone()).or_insert(up), up);
            }
            apply(&decision, &mut shares);
        }
    }

    #[test]
    fn whichever_of_the_changes_are_made_the_card_is_not_given_away_twice(
        (card, shares) in on_card(),
        made in any::<u64>(),
    ) {
        let mut after = shares.clone();
        let mut decision = decide(&card, &shares);
        let mut number = 0;
        decision.limits.retain(|_| {
            number += 1;
            made >> (number % 64) & 1 == 1
        });
        apply(&decision, &mut after);
        let together: u64 = after.values().map(limit).sum();
        prop_assert!(together <= card.memory.0 - card.reserve.0);
    }

    #[test]
    fn a_use_that_varies_within_its_headroom_changes_no_limit(
        guarantees in prop::collection::vec(1..10_u64, 2..8),
        swings in prop::collection::vec(0..=100_u64, 8),
    ) {
        let named = guarantees.iter().enumerate();
        let mut shares: BTreeMap<_, _> = named
            .map(|(n, guarantee)| (holder(&format!("share{n:02}")), share(*guarantee, 10, Some(10))))
            .collect();
        settle(&CARD, &mut shares);
        let number = u64::try_from(shares.len()).unwrap();
        let headroom = shares.values().map(|share| limit(share) - share.used.0).min().unwrap();
        for (state, swing) in shares.values_mut().zip(&swings) {
            let most = headroom / (4 * number);
            state.used = Bytes(state.used.0 - most / 2 + most * swing / 100);
        }
        prop_assert_eq!(decide(&CARD, &shares).limits, []);
    }
}
