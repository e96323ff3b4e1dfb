use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::AllocatedDeviceStatus;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::range::{Pressed, Rungs};

const GIB: u64 = 1 << 30;

fn place() -> SharePlace {
    SharePlace {
        driver: "gpu.nvidia.com".to_owned(),
        pool: "node0".to_owned(),
        device: "gpu-0".to_owned(),
        share: Some("s1".to_owned()),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn state(used: u64, limit: Limit) -> ShareState {
    ShareState {
        guarantee: Bytes(5 * GIB),
        ceiling: Bytes(140 * GIB),
        used: Bytes(used),
        limit,
        rungs: Rungs::default(),
        pressed: Pressed::Not,
    }
}

fn held(used: u64, limit: u64, past: Past) -> ShareStatus {
    let state = state(used, Limit::At(Bytes(limit)));
    ShareStatus::held(Tier::Native, Bytes(5 * GIB), Some(&state), past)
}

fn said(status: &ShareStatus) -> AllocatedDeviceStatus {
    entry(&place(), status, None, at(100))
}

/// The conditions of an entry as `type=status/reason`.
fn conditions(entry: &AllocatedDeviceStatus) -> Vec<String> {
    let conditions = entry.conditions.iter().flatten();
    conditions
        .map(|one| format!("{}={}/{}", one.type_, one.status, one.reason))
        .collect()
}

#[test]
fn a_share_says_what_holds_it_and_how_its_container_fares() {
    let none = Past::default();
    let free = ShareStatus::unheld(Bytes(5 * GIB));
    let waiting = ShareStatus::held(Tier::Native, Bytes(5 * GIB), None, none);
    for (status, expected) in [
        (
            free,
            [
                "Enforced=False/None",
                "NearLimit=Unknown/NotMeasured",
                "Violation=Unknown/NotMeasured",
            ],
        ),
        (
            waiting,
            [
                "Enforced=True/Native",
                "NearLimit=False/NoContainer",
                "Violation=False/NoContainer",
            ],
        ),
        (
            held(GIB, 5 * GIB, none),
            [
                "Enforced=True/Native",
                "NearLimit=False/BelowLimit",
                "Violation=False/WithinLimit",
            ],
        ),
        (
            held(5 * GIB, 5 * GIB, none),
            [
                "Enforced=True/Native",
                "NearLimit=True/NearLimit",
                "Violation=False/WithinLimit",
            ],
        ),
        (
            held(6 * GIB, 5 * GIB, none),
            [
                "Enforced=True/Native",
                "NearLimit=True/NearLimit",
                "Violation=True/AboveLimit",
            ],
        ),
        (
            held(6 * GIB, u64::MAX, none),
            [
                "Enforced=True/Native",
                "NearLimit=False/BelowLimit",
                "Violation=True/NoLimit",
            ],
        ),
    ] {
        assert_eq!(conditions(&said(&status)), expected, "{status:?}");
    }
}

#[test]
fn figures_are_in_bytes_and_what_nobody_measures_has_none() {
    let data = |status: &ShareStatus| said(status).data.map(|data| data.0);
    let past = Past {
        peak: Bytes(3 * GIB),
        near_limit: false,
    };
    assert_eq!(data(&ShareStatus::unheld(Bytes(5 * GIB))), None);
    assert_eq!(
        data(&held(GIB, 40 * GIB, past)),
        Some(json!({
            "softBytes": 5 * GIB, "hardBytes": 40 * GIB, "usedBytes": GIB, "peakBytes": 3 * GIB,
        }))
    );
    let ended = ShareStatus::held(Tier::Native, Bytes(5 * GIB), None, past);
    assert_eq!(
        data(&ended),
        Some(json!({"softBytes": 5 * GIB, "usedBytes": 0, "peakBytes": 3 * GIB}))
    );
    assert_eq!(
        data(&held(4 * GIB, u64::MAX, past)),
        Some(json!({"softBytes": 5 * GIB, "usedBytes": 4 * GIB, "peakBytes": 4 * GIB}))
    );
}

/// A process that begins goes on from what the claim says, so that it neither forgets a peak nor tells a new time.
#[test]
fn an_entry_tells_the_next_process_what_it_has_to_know() {
    let near = held(5 * GIB, 5 * GIB, Past::default());
    let told = said(&near);
    assert_eq!(Past::told(&told), near.past());
    // At 92 % it is still near, because it was.
    let now = held(GIB * 46 / 10, 5 * GIB, Past::told(&told));
    assert!(now.standing.near_limit);
    assert_eq!(now.peak, Bytes(5 * GIB));
    let later = entry(&place(), &now, Some(&told), at(200));
    assert_eq!(later.conditions, told.conditions);
    let low = held(GIB, 5 * GIB, Past::told(&told));
    let later = entry(&place(), &low, Some(&told), at(200));
    let times = later.conditions.iter().flatten();
    let times: Vec<_> = times
        .map(|one| one.last_transition_time.0.as_second())
        .collect();
    assert_eq!(times, [100, 200, 100]);
}

#[test]
fn an_entry_is_found_by_its_share_and_what_is_no_entry_of_ours_tells_nothing() {
    let of = |share: Option<&str>| SharePlace {
        share: share.map(ToOwned::to_owned),
        ..place()
    };
    let unheld = ShareStatus::unheld(Bytes(GIB));
    let entries =
        [Some("s1"), Some("s2"), None].map(|share| entry(&of(share), &unheld, None, at(1)));
    for share in [Some("s1"), Some("s2"), None] {
        let found = of(share).find(&entries).unwrap();
        assert_eq!(found.share_id.as_deref(), share);
    }
    assert_eq!(of(Some("s3")).find(&entries), None);
    let odd = AllocatedDeviceStatus {
        data: Some(RawExtension(json!({"peakBytes": "many"}))),
        ..AllocatedDeviceStatus::default()
    };
    assert_eq!(Past::told(&odd), Past::default());
}

#[test]
fn a_claim_is_behind_when_a_condition_is_another_or_a_figure_has_moved_by_a_step() {
    let none = Past::default();
    let limit = 40 * GIB;
    let told = said(&held(10 * GIB, limit, none));
    for (now, expected) in [
        (held(10 * GIB, limit, none), Behind::Not),
        // An eighth of the limit is a step.
        (held(10 * GIB + 4 * GIB, limit, none), Behind::Not),
        (held(10 * GIB + 5 * GIB, limit, none), Behind::Figures),
        (held(10 * GIB, limit + 3 * GIB, none), Behind::Not),
        (held(10 * GIB, 20 * GIB, none), Behind::Figures),
        (
            held(
                10 * GIB,
                limit,
                Past {
                    peak: Bytes(30 * GIB),
                    near_limit: false,
                },
            ),
            Behind::Figures,
        ),
        (held(limit, limit, none), Behind::Conditions),
        (
            ShareStatus::held(Tier::Native, Bytes(5 * GIB), None, none),
            Behind::Conditions,
        ),
        (ShareStatus::unheld(Bytes(5 * GIB)), Behind::Conditions),
    ] {
        assert_eq!(behind(Some(&told), &said(&now)), expected, "{now:?}");
    }
    assert_eq!(behind(None, &told), Behind::Conditions);
    let small = said(&held(100 << 20, 512 << 20, none));
    let more = said(&held(300 << 20, 512 << 20, none));
    assert_eq!(behind(Some(&small), &more), Behind::Not);
}

fn candidate(claim: u32, behind: Behind, since: Option<u64>) -> Candidate<u32> {
    Candidate {
        claim,
        behind,
        since: since.map(Duration::from_secs),
    }
}

#[test]
fn conditions_come_before_figures_and_each_claim_has_its_pause() {
    let candidates = [
        candidate(1, Behind::Not, None),
        candidate(2, Behind::Figures, Some(59)),
        candidate(3, Behind::Figures, Some(60)),
        candidate(4, Behind::Figures, Some(600)),
        candidate(5, Behind::Conditions, Some(9)),
        candidate(6, Behind::Conditions, Some(10)),
        candidate(7, Behind::Conditions, None),
    ];
    assert_eq!(chosen(candidates), [7, 6, 4, 3]);
}

fn any_behind() -> impl Strategy<Value = Behind> {
    prop::sample::select(vec![Behind::Not, Behind::Figures, Behind::Conditions])
}

proptest! {
    /// What was written is not behind, whatever was seen.
    #[test]
    fn a_share_that_stays_as_it_is_costs_no_write(
        used in 0..200 * GIB,
        limit in prop::option::of(0..200 * GIB),
        peak in 0..200 * GIB,
        near_limit: bool,
    ) {
        let limit = limit.map_or(Limit::At(Bytes(u64::MAX)), |limit| Limit::At(Bytes(limit)));
        let state = state(used, limit);
        let past = Past { peak: Bytes(peak), near_limit };
        let status = ShareStatus::held(Tier::Native, Bytes(GIB), Some(&state), past);
        let told = said(&status);
        let again = ShareStatus::held(Tier::Native, Bytes(GIB), Some(&state), status.past());
        let now = entry(&place(), &again, Some(&told), at(500));
        prop_assert_eq!(&now, &told);
        prop_assert_eq!(behind(Some(&told), &now), Behind::Not);
    }

    /// However shares fare, a node writes no faster than this, and nothing that is due is left for ever.
    #[test]
    fn a_node_writes_few_claims_at_once_and_each_of_them_in_its_turn(
        claims in prop::collection::vec((any_behind(), prop::option::of(0..200_u64)), 0..64)
    ) {
        const ROUND: u64 = 15;
        let mut candidates: Vec<_> = claims
            .iter()
            .enumerate()
            .map(|(n, (behind, since))| candidate(u32::try_from(n).unwrap(), *behind, *since))
            .collect();
        let behind = candidates.iter().filter(|one| one.behind != Behind::Not).count();
        let mut written = std::collections::BTreeSet::new();
        for _ in 0..64 / AT_ONCE + 4 {
            let now = chosen(candidates.iter().copied());
            prop_assert!(now.len() <= AT_ONCE);
            for claim in now {
                prop_assert!(written.insert(claim), "written twice without a reason");
                candidates[claim as usize].behind = Behind::Not;
            }
            for one in &mut candidates {
                one.since = one.since.map(|since| since + Duration::from_secs(ROUND));
            }
        }
        prop_assert_eq!(written.len(), behind);
    }
}
