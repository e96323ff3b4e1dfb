//! What a decision about the shares of one card costs.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panic, and divan makes functions of its own"
)]

use std::collections::BTreeMap;

use divan::{Bencher, black_box};
use tessera_claim::ClaimRef;
use tessera_device::Bytes;
use tessera_sharing::{Card, Holder, Lending, Limit, Pressed, Rungs, ShareState, decide};

const CARD: Card = Card {
    memory: Bytes::from_mib(143_771),
    reserve: Bytes::from_mib(1024),
    lending: Lending::ToAll,
};
const GUARANTEE: u64 = 1024;

fn main() {
    divan::main();
}

/// Shares of 1 GiB that may grow to the whole card, each with its own use and the limit that `limit` makes of it.
fn shares(number: u64, limit: impl Fn(u64, u64) -> Limit) -> BTreeMap<Holder, ShareState> {
    let share = |n: u64| {
        let uid = format!("0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c{n:03}");
        let holder = Holder {
            claim: ClaimRef {
                namespace: "default".to_owned(),
                name: format!("claim-{n}"),
                uid: uid.parse().unwrap(),
            },
            share: Some(uid),
        };
        let used = n * 37 % (2 * GUARANTEE);
        let state = ShareState {
            guarantee: Bytes::from_mib(GUARANTEE),
            ceiling: CARD.memory,
            used: Bytes::from_mib(used),
            limit: limit(n, used),
            rungs: Rungs {
                evict: true,
                ..Rungs::default()
            },
            pressed: Pressed::Not,
        };
        (holder, state)
    };
    (0..number).map(share).collect()
}

/// Nothing is to be done: what an agent decides nearly always.
#[divan::bench(args = [8, 64])]
fn at_rest(bencher: Bencher<'_, '_>, number: u64) {
    let mut shares = shares(number, |_, used| {
        Limit::At(Bytes::from_mib(used.max(GUARANTEE)))
    });
    loop {
        let before = shares.clone();
        let decision = decide(&CARD, &before);
        if decision.limits.is_empty() {
            break;
        }
        for change in decision.limits {
            shares.get_mut(change.share).unwrap().limit = Limit::At(change.to);
        }
    }
    bencher.bench(|| decide(black_box(&CARD), black_box(&shares)));
}

/// At least half of the limits change.
#[divan::bench(args = [8, 64])]
fn many_move(bencher: Bencher<'_, '_>, number: u64) {
    let shares = shares(number, |n, used| match n % 2 {
        0 => Limit::At(Bytes::from_mib(used.max(GUARANTEE))),
        _ => Limit::At(Bytes::from_mib(used.max(GUARANTEE) + 143_000 / number)),
    });
    let half = usize::try_from(number / 2).unwrap();
    assert!(decide(&CARD, &shares).limits.len() >= half);
    bencher.bench(|| decide(black_box(&CARD), black_box(&shares)));
}

/// A guarantee is missing, and borrowers must give back.
#[divan::bench(args = [8, 64])]
fn reclaim(bencher: Bencher<'_, '_>, number: u64) {
    let mut shares = shares(number, |_, used| {
        Limit::At(Bytes::from_mib(used.max(GUARANTEE)))
    });
    let greedy = shares.values_mut().next().unwrap();
    greedy.used = Bytes::from_mib(140_000);
    greedy.limit = Limit::At(greedy.used);
    assert!(!decide(&CARD, &shares).reclaims.is_empty());
    bencher.bench(|| decide(black_box(&CARD), black_box(&shares)));
}
