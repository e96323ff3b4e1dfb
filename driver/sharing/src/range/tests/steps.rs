//! Many processes of many shares, in random steps, under an agent that is sometimes late and sometimes killed.

use fastrand::Rng;

use super::card::Simulated;
use super::*;

const STEPS: usize = 10_000;

/// Something that tenants do.
fn event(card: &mut Simulated, rng: &mut Rng) {
    if rng.u8(0..20) == 0 {
        card.arrive(rng);
    }
    let Some(holder) = card.any(rng) else {
        return;
    };
    match rng.u8(0..100) {
        0..12 => card.spawn(&holder),
        12..55 => {
            let most = *rng.choice(&[16_u64, 512, 8 << 10, 40 << 10]).unwrap();
            let bytes = rng.u64(1..=most << 20);
            card.allocate(&holder, rng, bytes);
        }
        55..75 => card.free(&holder, rng),
        75..85 => card.kill(&holder, rng),
        85..92 => card.fill_guarantee(&holder, rng),
        92..98 => card.finish(&holder, rng),
        _ => {
            card.tenants.remove(&holder);
        }
    }
    card.check();
}

/// One round of the agent, during which tenants go on. Killed, it has made some of the changes and forgets what
/// it had begun.
fn round(card: &mut Simulated, rng: &mut Rng, disturbed: bool) -> bool {
    let states = card.states();
    let decision = decide(&card.card, &states);
    assert_eq!(decide(&card.card, &states), decision);
    let mut changes = decision.limits.clone();
    rng.shuffle(&mut changes);
    for change in changes {
        if disturbed && rng.u8(0..10) == 0 {
            event(card, rng);
        }
        card.set(change.share, change.to);
        card.check();
        if disturbed && rng.u8(0..50) == 0 {
            card.forget();
            return true;
        }
    }
    for reclaim in &decision.reclaims {
        card.press(reclaim.share, reclaim.rung);
    }
    if decision.missing == Bytes(0) {
        card.forget();
    }
    !decision.limits.is_empty() || !decision.reclaims.is_empty()
}

/// Tenants are still, the agent works on until there is nothing left to do.
fn quiet(card: &mut Simulated, rng: &mut Rng) -> usize {
    for rounds in 0..200 {
        let busy = round(card, rng, false);
        let pressed: Vec<Holder> = card.tenants.keys().cloned().collect();
        let before = card.states();
        for holder in &pressed {
            card.finish(holder, rng);
            card.check();
        }
        if !busy && card.states() == before {
            return rounds;
        }
    }
    panic!("the agent does not come to rest: {card:?}");
}

fn run(lending: Lending, seed: u64) -> Simulated {
    let mut rng = Rng::with_seed(seed);
    let mut card = Simulated::new(Card {
        reserve: Bytes(2 * GIB),
        lending,
        ..CARD
    });
    let mut started = 0;
    for step in 0..STEPS {
        event(&mut card, &mut rng);
        for _ in 0..rng.u8(0..3) {
            round(&mut card, &mut rng, true);
        }
        if step % 250 == 249 {
            quiet(&mut card, &mut rng);
            let waiting: Vec<_> = card
                .tenants
                .values()
                .filter(|tenant| !tenant.runs())
                .collect();
            if lending == Lending::ToReclaimable {
                assert!(waiting.is_empty(), "seed {seed}: {card:?}");
            } else if !waiting.is_empty() {
                // Then somebody borrowed what it waits for, and nothing more can be done to them.
                let states = card.states();
                assert!(
                    decide(&card.card, &states).missing > Bytes(0),
                    "seed {seed}: {card:?}"
                );
            }
            started += card.tenants.values().filter(|tenant| tenant.runs()).count();
        }
    }
    assert!(started > STEPS / 250, "seed {seed}: hardly a share ran");
    card
}

#[test]
fn whatever_tenants_do_no_limit_is_exceeded_and_guarantees_are_always_there() {
    for seed in 0..4 {
        run(Lending::ToAll, seed);
    }
}

#[test]
fn where_only_the_reclaimable_borrow_every_share_starts() {
    for seed in 4..8 {
        run(Lending::ToReclaimable, seed);
    }
}

#[test]
fn the_same_seed_ends_in_the_same_limits() {
    let ends = [9, 9].map(|seed| run(Lending::ToAll, seed).states());
    assert_eq!(ends[0], ends[1]);
}
