//! The properties under faults, and at every write.

use super::*;
use crate::layout::Layout;

/// How many events a run has; `cargo xtask test --long` asks for more.
fn events() -> u64 {
    let asked = std::env::var("TESSERA_SIMULATED_EVENTS").ok();
    asked.map_or(100_000, |asked| asked.parse().unwrap())
}

fn setting(seed: u64, events: u64) -> Setting {
    Setting {
        layout: Layout {
            nodes: 72,
            clique: 9,
        },
        seed,
        events,
        domains: u32::MAX,
        gap: 8_000,
        runs: 60_000,
        faults: Faults::ALL,
    }
}

#[test]
fn s1_s2_s3_s4_l1_l2_l3_hold_under_faults() {
    let mut all = Report::default();
    for seed in 1..=4 {
        let report = run(setting(seed, events() / 4), None)
            .unwrap_or_else(|violation| panic!("{violation}"));
        println!(
            "seed {seed}: {} events, {} domains",
            report.events, report.arrived
        );
        all.events += report.events;
        all.conflicts += report.conflicts;
        all.leaders_lost += report.leaders_lost;
        all.nodes_lost += report.nodes_lost;
        all.replanned += report.replanned;
        all.unbound += report.unbound;
    }
    assert!(all.events >= events());
    // A run in which nothing went wrong shows nothing.
    let seen = [
        all.conflicts,
        all.leaders_lost,
        all.nodes_lost,
        all.replanned,
        all.unbound,
    ];
    assert!(seen.iter().all(|count| *count > 10), "{all:?}");
}

#[test]
fn a_run_is_repeated_by_its_seed() {
    let once = run(setting(9, 5_000), None);
    assert_eq!(once, run(setting(9, 5_000), None));
    assert_ne!(once, run(setting(10, 5_000), None));
}

#[test]
fn s6_a_leader_that_dies_at_any_write_leaves_what_one_that_lives_leaves() {
    let calm = Setting {
        layout: Layout {
            nodes: 18,
            clique: 9,
        },
        events: u64::MAX,
        domains: 8,
        gap: 1_000,
        runs: 10_000,
        faults: Faults::NONE,
        ..setting(3, 0)
    };
    let alive = run(calm, None).unwrap();
    assert!(alive.writes > 20, "{alive:?}");
    let mut points = 0;
    for write in 0.. {
        for done in [false, true] {
            let report = run(calm, Some(CrashAt { write, done }))
                .unwrap_or_else(|violation| panic!("at write {write} ({done}): {violation}"));
            if report.leaders_lost == 0 {
                assert!(points >= alive.writes, "every write was a point");
                return;
            }
            assert_eq!(report.ran, alive.ran, "at write {write} ({done})");
            points += 1;
        }
    }
}
