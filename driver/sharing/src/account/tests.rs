use proptest::prelude::*;

use super::*;
use crate::testing::holder;

const CAPACITY: Capacity = Capacity {
    memory: Bytes::from_mib(80 << 10),
    compute_share: 100,
    shares: 4,
};

fn part(gib: u64, compute_share: u64) -> Hold {
    Hold::Part(Part {
        memory: Bytes::from_mib(gib << 10),
        compute_share,
        shares: 1,
    })
}

#[test]
fn who_has_a_device_for_itself_and_who_has_a_part_of_it_exclude_each_other() {
    for (first, second) in [
        (Hold::Exclusive, Hold::Exclusive),
        (Hold::Exclusive, part(0, 0)),
        (part(0, 0), Hold::Exclusive),
    ] {
        let mut account = Account::new(CAPACITY);
        account.admit(holder("a"), first).unwrap();
        let refusal = account.admit(holder("b"), second).unwrap_err();
        let text = refusal.to_string();
        assert!(text.starts_with("claim default/b"), "{text}");
        assert!(text.contains("claim default/a"), "{text}");
        account.release(&holder("a"));
        account.admit(holder("b"), second).unwrap();
    }
}

#[test]
fn a_refusal_says_what_is_wanted_what_is_left_and_who_has_the_rest() {
    let mut account = Account::new(CAPACITY);
    account.admit(holder("a"), part(50, 25)).unwrap();
    account.admit(holder("b"), part(20, 0)).unwrap();
    let refusal = account.admit(holder("c"), part(11, 0)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "claim default/c (UID c-uid) wants 11Gi of the device's memory, but 10Gi of 80Gi are left beside \
         claim default/a (UID a-uid); claim default/b (UID b-uid); it can be had once enough of them is \
         released"
    );
    let refusal = account.admit(holder("c"), part(1, 76)).unwrap_err();
    assert!(
        refusal
            .to_string()
            .contains("76 of the device's computeShare, but 75 of 100")
    );
    for name in ["c", "d"] {
        account.admit(holder(name), part(1, 0)).unwrap();
    }
    let refusal = account
        .admit(holder("e"), part(1, 0))
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("1 of the device's shares, but 0 of 4"),
        "{refusal}"
    );
    assert!(refusal.contains("and 1 more"), "{refusal}");
}

#[test]
fn whoever_holds_already_is_not_in_their_own_way() {
    let mut account = Account::new(CAPACITY);
    for hold in [part(80, 100), part(80, 100), Hold::Exclusive, part(1, 1)] {
        account.admit(holder("a"), hold).unwrap();
    }
    assert_eq!(account.free().memory, Bytes::from_mib(79 << 10));
    assert_eq!(account.holds().count(), 1);
}

#[test]
fn a_share_has_what_was_counted_for_it_and_all_memory_if_none_was() {
    let of = |consumed: &[(&'static str, &'static str)]| {
        let consumed = Consumed::of(consumed.iter().copied(), "gpu.nvidia.com").unwrap();
        Hold::Part(Part::of(&consumed, &CAPACITY))
    };
    let some = of(&[("memory", "20Gi"), ("computeShare", "25"), ("shares", "1")]);
    assert_eq!(some, part(20, 25));
    let of_reference = of(&[("memory", "20Gi")]);
    let expected = Part {
        memory: Bytes::from_mib(20 << 10),
        ..Part::default()
    };
    assert_eq!(of_reference, Hold::Part(expected));
    let expected = Part {
        memory: CAPACITY.memory,
        ..Part::default()
    };
    assert_eq!(of(&[]), Hold::Part(expected));
}

#[test]
fn a_device_of_which_too_much_is_given_away_already_has_nothing_left() {
    let holds = ["a", "b"].map(|name| (holder(name), part(50, 60)));
    let mut account = Account::held(CAPACITY, holds);
    let free = account.free();
    assert_eq!((free.memory, free.compute_share), (Bytes(0), 0));
    account.admit(holder("c"), part(1, 0)).unwrap_err();
    account.release(&holder("a"));
    account.admit(holder("c"), part(1, 0)).unwrap();
}

fn holds() -> impl Strategy<Value = Hold> {
    let parts = (0..50_u64, 0..60_u64).prop_map(|(gib, compute_share)| part(gib, compute_share));
    prop_oneof![1 => Just(Hold::Exclusive), 6 => parts]
}

proptest! {
    #[test]
    fn what_is_given_away_never_exceeds_the_device_and_what_fits_is_given(
        steps in prop::collection::vec((0..6_u8, prop::option::of(holds())), 0..40)
    ) {
        let mut account = Account::new(CAPACITY);
        for (name, wanted) in steps {
            let who = holder(&name.to_string());
            let Some(hold) = wanted else {
                account.release(&who);
                continue;
            };
            let others: Vec<Hold> =
                account.holds().filter(|(other, _)| **other != who).map(|(_, hold)| hold).collect();
            let expected = match hold {
                Hold::Exclusive => others.is_empty(),
                Hold::Part(part) => {
                    let parts: Option<Vec<Part>> = others.iter().map(|other| match other {
                        Hold::Exclusive => None,
                        Hold::Part(part) => Some(*part),
                    }).collect();
                    parts.is_some_and(|parts| {
                        let all = || parts.iter().chain([&part]);
                        all().map(|part| part.memory.0).sum::<u64>() <= CAPACITY.memory.0
                            && all().map(|part| part.compute_share).sum::<u64>() <= CAPACITY.compute_share
                            && all().map(|part| part.shares).sum::<u64>() <= CAPACITY.shares
                    })
                }
            };
            prop_assert_eq!(account.admit(who, hold).is_ok(), expected);
        }
    }
}
