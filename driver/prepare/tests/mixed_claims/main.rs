//! Claims of every kind come and go on nodes of every kind, from what is offered to what is made of GPUs.
//!
//! What is offered, what an allocation becomes, what the ledger admits and which steps are planned is the product's. The
//! scheduler is a model of Kubernetes' ([`scheduler`]), and the hardware one of NVIDIA's ([`machine`]); each stands on its own
//! sources.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panic, and an integration test is no test to clippy"
)]

mod machine;
mod scheduler;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceSlice};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tessera_device::mig::MigMode;
use tessera_offer::{MadeDevices, Node, partitions};
use tessera_sharing::ConsumableShares;

use machine::{Kind, Machine, SIZES};
use scheduler::Scheduler;

const DRIVER: &str = "gpu.nvidia.com";
const POOL: &str = "node-a";

/// What one claim asks for.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// So many GPUs, each alone.
    Whole(usize),
    /// A MIG device of this profile.
    Part(&'static str),
    /// So many GiB of a GPU.
    Share(u64),
    /// A look at a GPU, whoever has it.
    Admin,
    /// The first of these that can be had.
    Either(Vec<Wish>),
}

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Come(Wish),
    /// One of those that are there, by its number among them.
    Go(usize),
}

/// A node with its slices. They are those of the empty node: that they stay the same is shown where they are made.
struct Fleet {
    kinds: &'static [Kind],
    slices: Vec<ResourceSlice>,
}

impl Fleet {
    fn of(kinds: &'static [Kind]) -> Self {
        let node = Node {
            name: POOL.to_owned(),
            uid: "0c5cbc2e-1d0f-4a46-9b1c-3b1f0f5f7d11".to_owned(),
        };
        let shares = ConsumableShares::Memory;
        let inventory = Machine::new(kinds).inventory();
        let offer = partitions(&inventory, &MadeDevices::default(), &node, DRIVER, shares);
        Self {
            kinds,
            slices: offer.slices(1),
        }
    }
}

/// Hopper changes its mode at once, Ampere with a reset only.
static FLEETS: LazyLock<Vec<Fleet>> = LazyLock::new(|| {
    let (hopper, off, on) = (
        Kind::AtOnce,
        Kind::WithReset(MigMode::Off),
        Kind::WithReset(MigMode::On),
    );
    let kinds: [Vec<Kind>; 5] = [
        vec![hopper],
        vec![hopper; 3],
        vec![on],
        vec![off, hopper],
        vec![on, hopper, off],
    ];
    kinds
        .into_iter()
        .map(|kinds| Fleet::of(kinds.leak()))
        .collect()
});

fn simple_wish() -> impl Strategy<Value = Wish> {
    let profiles: Vec<&str> = SIZES.iter().map(|size| size.profile).collect();
    prop_oneof![
        2 => (1..=3_usize).prop_map(Wish::Whole),
        4 => select(profiles).prop_map(Wish::Part),
        3 => select(vec![1, 10, 20, 40, 79]).prop_map(Wish::Share),
        1 => Just(Wish::Admin),
    ]
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        8 => simple_wish(),
        2 => vec(simple_wish(), 2..4).prop_map(Wish::Either),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => wish().prop_map(Event::Come),
        2 => any::<usize>().prop_map(Event::Go),
    ]
}

/// The claims that have come and not gone, each with what it waits for or what it has.
#[derive(Default)]
struct Claims {
    waiting: BTreeMap<String, Wish>,
    prepared: BTreeMap<String, Vec<DeviceRequestAllocationResult>>,
}

impl Claims {
    fn name(&self, number: usize) -> Option<String> {
        let all: Vec<_> = self.waiting.keys().chain(self.prepared.keys()).collect();
        all.get(number.checked_rem(all.len())?)
            .map(|name| (*name).clone())
    }

    fn end(&mut self, name: &str, scheduler: &mut Scheduler<'_>, machine: &mut Machine) {
        if self.waiting.remove(name).is_none() && self.prepared.remove(name).is_some() {
            machine.unprepare(name);
            scheduler.release(name);
        }
    }

    /// Gives everybody who waits what is free, in the order of their names.
    fn serve(&mut self, scheduler: &mut Scheduler<'_>, machine: &mut Machine) {
        for (name, wish) in self.waiting.clone() {
            match scheduler.allocate(&name, &wish) {
                Some(results) => {
                    machine.prepare(&name, &results);
                    self.waiting.remove(&name);
                    self.prepared.insert(name, results);
                }
                None => assert!(
                    !machine.has_room(&wish),
                    "{name} waits for {wish:?}, for which there is room: {machine:#?}"
                ),
            }
            machine.assert_nothing_overlaps();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_claims_ever_overlap_and_none_waits_for_what_is_free(
        fleet in 0..5_usize,
        events in vec(event(), 1..24),
    ) {
        let fleet = &FLEETS[fleet];
        let mut scheduler = Scheduler::of(&fleet.slices);
        let mut machine = Machine::new(fleet.kinds);
        let mut claims = Claims::default();
        for (number, event) in events.into_iter().enumerate() {
            match event {
                Event::Come(wish) => {
                    claims.waiting.insert(format!("claim-{number}"), wish);
                }
                Event::Go(number) => {
                    if let Some(name) = claims.name(number) {
                        claims.end(&name, &mut scheduler, &mut machine);
                    }
                }
            }
            claims.serve(&mut scheduler, &mut machine);
        }
        let left: Vec<_> = claims.waiting.keys().chain(claims.prepared.keys()).cloned().collect();
        for name in left {
            claims.end(&name, &mut scheduler, &mut machine);
        }
        machine.assert_empty();
    }
}

/// Brute force: every share on every card, for the fewest cards.
fn fewest_cards(card: u64, shares: &[u64]) -> usize {
    fn place(card: u64, shares: &[u64], free: &mut Vec<u64>, best: &mut usize) {
        let Some((share, rest)) = shares.split_first() else {
            *best = free.len().min(*best);
            return;
        };
        if free.len() >= *best {
            return;
        }
        for at in 0..free.len() {
            if free[at] >= *share && !free[..at].contains(&free[at]) {
                free[at] -= share;
                place(card, rest, free, best);
                free[at] += share;
            }
        }
        free.push(card - share);
        place(card, rest, free, best);
        free.pop();
    }
    let mut best = shares.len() + 1;
    place(card, shares, &mut Vec::new(), &mut best);
    best
}

#[test]
fn twenty_shares_of_twenty_gib_are_packed_on_as_few_h200s_as_brute_force_needs() {
    let mut machine = Machine::new(&[Kind::H200; 8]);
    let inventory = machine.inventory();
    let node = Node {
        name: POOL.to_owned(),
        uid: "uid".to_owned(),
    };
    let shares = ConsumableShares::Memory;
    let offer = partitions(&inventory, &MadeDevices::default(), &node, DRIVER, shares);
    let slices = offer.slices(1);
    let mut scheduler = Scheduler::of(&slices);
    for number in 0..20 {
        let name = format!("share-{number}");
        let results = scheduler.allocate(&name, &Wish::Share(20)).unwrap();
        machine.prepare(&name, &results);
    }
    let gib = 1 << 30;
    let best = fewest_cards(Kind::H200.memory(), &[20 * gib; 20]);
    assert_eq!(machine.gpus_in_use(), best);
    // Nobody has all of a GPU of which somebody has a share, and everybody has it after that.
    assert!(
        scheduler
            .allocate("whole", &Wish::Whole(8 - best + 1))
            .is_none()
    );
    for number in 0..20 {
        let name = format!("share-{number}");
        machine.unprepare(&name);
        scheduler.release(&name);
    }
    let results = scheduler.allocate("whole", &Wish::Whole(8)).unwrap();
    machine.prepare("whole", &results);
    machine.assert_nothing_overlaps();
}

#[test]
fn fifty_six_small_parts_are_made_at_once_then_eight_whole_gpus_and_no_instance_is_left() {
    let mut machine = Machine::new(&[Kind::AtOnce; 8]);
    let inventory = machine.inventory();
    let node = Node {
        name: POOL.to_owned(),
        uid: "uid".to_owned(),
    };
    let shares = ConsumableShares::Disabled;
    let offer = partitions(&inventory, &MadeDevices::default(), &node, DRIVER, shares);
    let slices = offer.slices(1);
    let mut scheduler = Scheduler::of(&slices);
    for (count, wish) in [(56, Wish::Part("1g.10gb")), (8, Wish::Whole(1))] {
        let names: Vec<_> = (0..count).map(|number| format!("claim-{number}")).collect();
        for name in &names {
            let results = scheduler.allocate(name, &wish).unwrap();
            machine.prepare(name, &results);
        }
        assert_eq!(scheduler.allocate("late", &wish), None);
        machine.assert_nothing_overlaps();
        for name in &names {
            machine.unprepare(name);
            scheduler.release(name);
        }
        machine.assert_empty();
    }
}
