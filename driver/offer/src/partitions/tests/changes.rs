//! What has to be written when something becomes of one GPU.

use proptest::prelude::*;
use tessera_device::follow::{Known, Look};
use tessera_device::mig::UnfinishedInstance;

use super::*;

/// What may have become of a GPU.
#[derive(Clone, Debug)]
enum State {
    /// Nothing has been made of it.
    Uncut(MigMode),
    /// It does not answer.
    Missing,
    /// It is cut, by the driver or by somebody else.
    Cut {
        into: &'static [&'static str],
        by: By,
    },
    /// Somebody else is about to make an instance of half of it.
    HalfMade,
    /// Somebody has asked for a mode that comes with a reset.
    Pending(MigMode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Driver,
    Other,
}

impl State {
    /// Whether the driver alone has done something with the GPU.
    fn is_own(&self) -> bool {
        matches!(
            self,
            Self::Uncut(_) | Self::Cut { by: By::Driver, .. } | Self::Cut { into: [], .. }
        )
    }

    fn gpu(&self, minor: u32) -> Gpu {
        match self {
            Self::Uncut(mode) => h100(minor, *mode),
            Self::Missing => h100(minor, MigMode::Off),
            Self::Cut { into, .. } => cut_into(minor, into),
            Self::HalfMade => {
                let mut gpu = h100(minor, MigMode::On);
                let half = UnfinishedInstance {
                    gpu_instance: 1,
                    profile: "3g.40gb".parse().unwrap(),
                    profile_id: 9,
                    placement: Placement { start: 0, size: 4 },
                };
                gpu.mig.as_mut().unwrap().unfinished.push(half);
                gpu
            }
            Self::Pending(pending) => {
                let mut gpu = h100(
                    minor,
                    match pending {
                        MigMode::Off => MigMode::On,
                        MigMode::On => MigMode::Off,
                    },
                );
                gpu.mig.as_mut().unwrap().pending = *pending;
                gpu
            }
        }
    }
}

/// The GPUs in these states.
fn node_of(states: &[State]) -> (Inventory, MadeDevices) {
    let numbered = || (0..).zip(states);
    let gpus: Vec<Gpu> = numbered().map(|(minor, state)| state.gpu(minor)).collect();
    let mut made = MadeDevices::default();
    for (gpu, state) in gpus.iter().zip(states) {
        if matches!(state, State::Cut { by: By::Driver, .. }) {
            let instances = gpu.mig.iter().flat_map(|mig| &mig.instances);
            made.devices.extend(instances.map(|made| made.uuid.clone()));
        }
    }
    let answers = gpus.iter().zip(states);
    let answers = answers.filter(|(_, state)| !matches!(state, State::Missing));
    let answers = answers.map(|(gpu, _)| gpu.clone()).collect();
    let inventory = |gpus| Inventory::new(driver("580.95.05"), gpus).unwrap();
    let (known, _) = Known::Present(inventory(gpus)).next(Look::Found {
        inventory: inventory(answers),
        silent: Vec::new(),
    });
    (known.last().unwrap().clone(), made)
}

fn offer_of(states: &[State]) -> (Inventory, Offer) {
    let (inventory, made) = node_of(states);
    let off = ConsumableShares::Disabled;
    let offer = partitions(&inventory, &made, &node(), DRIVER, off);
    (inventory, offer)
}

/// Which slices are replaced at the generation that they have, by the ends of their names, when this becomes of GPU `at` of
/// so many.
fn replaced_when(count: usize, at: usize, state: State) -> [Vec<String>; 2] {
    let mut states = vec![State::Uncut(MigMode::Off); count];
    let (_, before) = offer_of(&states);
    states[at] = state;
    let (_, after) = offer_of(&states);
    let names = |desired: &Offer, stored: &Offer| {
        let writes = reconcile(desired, &stored.slices(1));
        replaced(&writes).into_iter().map(str::to_owned).collect()
    };
    [names(&after, &before), names(&before, &after)]
}

#[test]
fn what_becomes_of_a_gpu_is_one_write_if_its_parts_stand_behind_the_whole_gpus_and_else_two() {
    let foreign = State::Cut {
        into: &["1g.10gb", "3g.40gb"],
        by: By::Other,
    };
    let all = State::Cut {
        into: &["7g.80gb"],
        by: By::Other,
    };
    for state in [State::Missing, foreign, all, State::HalfMade] {
        for (count, at, there) in [
            (1, 0, &["001"][..]),
            (2, 0, &["001"]),
            (2, 1, &["001"]),
            (8, 0, &["001"]),
            (8, 1, &["001"]),
            (8, 2, &["001", "002"]),
            (8, 7, &["001", "007"]),
            (10, 9, &["002", "010"]),
        ] {
            let [writes, mut back] = replaced_when(count, at, state.clone());
            assert_eq!(writes, there, "GPU {at} of {count}: {state:?}");
            back.sort_unstable();
            assert_eq!(back, there, "GPU {at} of {count}, no longer: {state:?}");
        }
    }
}

#[test]
fn a_whole_gpu_goes_before_its_parts_change_and_comes_back_after_them() {
    let foreign = State::Cut {
        into: &["1g.10gb", "3g.40gb"],
        by: By::Other,
    };
    let [there, back] = replaced_when(8, 3, foreign);
    assert_eq!(
        (there, back),
        (
            vec!["001".to_owned(), "003".to_owned()],
            vec!["003".to_owned(), "001".to_owned()]
        )
    );
}

#[test]
fn a_gpu_that_has_one_mode_until_it_is_reset_is_one_write_wherever_it_stands() {
    for mode in [MigMode::Off, MigMode::On] {
        let gpus = (0..8).map(|minor| Gpu {
            architecture: Architecture::Ampere,
            ..h100(minor, mode)
        });
        let all = Inventory::new(driver("580.95.05"), gpus.clone().collect()).unwrap();
        let left = gpus.filter(|gpu| gpu.minor != 5).collect();
        let (known, _) = Known::Present(all.clone()).next(Look::Found {
            inventory: Inventory::new(driver("580.95.05"), left).unwrap(),
            silent: Vec::new(),
        });
        let (none, off) = (MadeDevices::default(), ConsumableShares::Disabled);
        let offer = |inventory| partitions(inventory, &none, &node(), DRIVER, off);
        let (before, after) = (offer(&all), offer(known.last().unwrap()));
        for (desired, stored) in [(&after, &before), (&before, &after)] {
            let writes = reconcile(desired, &stored.slices(1));
            assert_eq!(replaced(&writes).len(), 1, "{mode:?}");
        }
    }
}

#[test]
fn from_nothing_there_is_a_write_for_each_slice_and_a_missing_gpu_changes_none_of_their_number() {
    for (count, writes) in [(1, 2), (2, 2), (3, 3), (8, 8), (10, 11)] {
        let mut states = vec![State::Uncut(MigMode::Off); count];
        assert_eq!(reconcile(&offer_of(&states).1, &[]).len(), writes);
        states[count / 2] = State::Missing;
        assert_eq!(reconcile(&offer_of(&states).1, &[]).len(), writes);
    }
}

#[test]
fn the_successor_of_a_missing_gpu_has_its_place() {
    let (inventory, _) = node_of(&[State::Uncut(MigMode::Off), State::Missing]);
    let mut gpus = inventory.gpus().to_vec();
    let mut other = h100(1, MigMode::Off);
    other.uuid = tessera_device::testing::gpu_uuid(7);
    gpus.push(other);
    let (known, _) = Known::Present(inventory.clone()).next(Look::Found {
        inventory: Inventory::new(driver("580.95.05"), gpus.clone()).unwrap(),
        silent: Vec::new(),
    });
    let known = known.last().unwrap();
    assert_eq!(known.missing().len(), 1);
    let made = MadeDevices::default();
    let off = ConsumableShares::Disabled;
    let beside = partitions(known, &made, &node(), DRIVER, off);
    assert_eq!(beside.slices(1), offer(gpus, &made).slices(1));
}

#[test]
fn a_server_without_counters_is_told_nothing_of_a_missing_gpu() {
    let states = [State::Uncut(MigMode::Off), State::Missing];
    let (_, offer) = offer_of(&states);
    let smaller = offer.without(&no_counters(&offer));
    assert_eq!(names(&smaller), ["gpu-0"]);
    assert_eq!(smaller.slices(1).len(), 1);
}

fn any_state() -> impl Strategy<Value = State> {
    let mode = || prop_oneof![Just(MigMode::Off), Just(MigMode::On)];
    let layouts: &[&[&str]] = &[
        &[],
        &["7g.80gb"],
        &["1g.10gb", "1g.10gb", "1g.10gb", "1g.10gb"],
        &["4g.40gb", "2g.20gb", "1g.10gb+me"],
    ];
    let by = prop_oneof![Just(By::Driver), Just(By::Other)];
    prop_oneof![
        2 => mode().prop_map(State::Uncut),
        2 => Just(State::Missing),
        3 => (prop::sample::select(layouts), by).prop_map(|(into, by)| State::Cut { into, by }),
        1 => Just(State::HalfMade),
        1 => mode().prop_map(State::Pending),
    ]
}

/// What the API server has after this write.
fn write(stored: &mut [ResourceSlice], write: Write) {
    let Write::Replace(slice) = write else {
        panic!("{write:?}")
    };
    let have = stored
        .iter_mut()
        .find(|have| have.metadata.name == slice.metadata.name);
    *have.unwrap() = *slice;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_becomes_of_one_gpu_the_pool_stays_whole_and_gives_away_nothing_that_is_not_there(
        (states, at) in prop::collection::vec(any_state(), 1..9)
            .prop_flat_map(|states| { let count = states.len(); (Just(states), 0..count) }),
        state in any_state(),
        order in prop::collection::vec(0..234_usize, 0..120),
    ) {
        let (_, before) = offer_of(&states);
        let mut then = states.clone();
        then[at] = state;
        let (inventory, after) = offer_of(&then);
        let mut stored = before.slices(1);
        let writes = reconcile(&after, &stored);
        let most = match (states[at].is_own() && then[at].is_own(), states.len() <= 2) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        };
        prop_assert!(writes.len() <= most, "{} writes", writes.len());
        let known: Vec<Cow<'_, Device>> = before.devices().chain(after.devices()).collect();
        for one in writes {
            write(&mut stored, one);
            // The generation is as it was, and so is the number of slices: no scheduler waits for the next write.
            let is_whole = |slice: &ResourceSlice| {
                let pool = &slice.spec.pool;
                (pool.generation, usize::try_from(pool.resource_slice_count))
                    == (1, Ok(stored.len()))
            };
            prop_assert!(stored.iter().all(is_whole));
            let mut seen = stored.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
            prop_assert!(seen.all(|device| known.iter().any(|known| **known == *device)));
        }
        prop_assert_eq!(&stored, &after.slices(1));
        let made = node_of(&then).1;
        let taken = allocate(&stored, &order);
        assert_apart(&inventory, &taken);
        for gpu in inventory.gpus() {
            let choices = Choices::of(gpu, |place, device| made.holds(&gpu.uuid, place, device));
            let choices = choices.unwrap();
            let slots = choices.slots.iter().map(|slot| slot.device_name(gpu.minor));
            let others = choices.others.iter().map(|other| other.device_name(gpu.minor));
            let whole = choices.whole.then(|| gpu.device_name());
            let can_be: BTreeSet<DeviceName> = slots.chain(others).chain(whole).collect();
            let mine = taken.iter().map(|name| name.parse::<DeviceName>().unwrap());
            let mut mine = mine.filter(|name| {
                *name == gpu.device_name() || name.mig_parent() == Some(gpu.minor)
            });
            prop_assert!(mine.all(|name| can_be.contains(&name)));
        }
    }
}
