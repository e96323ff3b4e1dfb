use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::Architecture;
use crate::mig::{MODELS, MigState, Model};
use crate::testing::{cut, gpu, h100_profiles};

/// An H100 in this mode that tells its profiles.
fn h100(mode: MigMode) -> Gpu {
    let mut mig = MigState::empty(mode);
    mig.profiles = h100_profiles();
    Gpu {
        mig: Some(mig),
        ..gpu(0)
    }
}

fn cut_into(profiles: &[&str]) -> Gpu {
    let mut gpu = cut(gpu(0), profiles);
    gpu.mig.as_mut().unwrap().profiles = h100_profiles();
    gpu
}

fn ours(_: Placement, _: Option<&MigUuid>) -> bool {
    true
}

fn nobodys(_: Placement, _: Option<&MigUuid>) -> bool {
    false
}

#[test]
fn a_gpu_whose_mode_changes_at_once_can_be_everything_in_either_mode() {
    for mode in [MigMode::Off, MigMode::On] {
        let gpu = h100(mode);
        let choices = Choices::of(&gpu, nobodys).unwrap();
        assert!(choices.whole);
        assert_eq!(choices.bound, None);
        assert_eq!(choices.slots.len(), 7 + 7 + 4 + 3 + 2 + 1 + 1);
    }
}

#[test]
fn a_gpu_that_has_to_be_reset_can_be_what_its_mode_makes_it_and_says_why() {
    let ampere = |mode| Gpu {
        architecture: Architecture::Ampere,
        ..h100(mode)
    };
    let pending = |mode, pending| {
        let mut gpu = h100(mode);
        gpu.mig.as_mut().unwrap().pending = pending;
        gpu
    };
    let (off, on) = (MigMode::Off, MigMode::On);
    for (gpu, mode, why) in [
        (ampere(off), off, "needs a reset"),
        (ampere(on), on, "needs a reset"),
        (pending(off, on), off, "pending"),
        (pending(on, off), on, "pending"),
    ] {
        let choices = Choices::of(&gpu, nobodys).unwrap();
        assert_eq!(choices.whole, mode == off);
        assert_eq!(choices.slots.is_empty(), mode == off);
        let bound = choices.bound.unwrap().to_string();
        assert!(
            bound.contains(why) && bound.contains(&format!("is {mode}")),
            "{bound}"
        );
    }
}

#[test]
fn what_the_driver_has_made_hinders_nothing_and_what_somebody_else_has_made_what_it_overlaps() {
    let gpu = cut_into(&["3g.40gb", "1g.10gb"]);
    let own = Choices::of(&gpu, ours).unwrap();
    assert!(own.whole && own.others.is_empty());
    assert_eq!(own.slots.len(), 25);

    let foreign = Choices::of(&gpu, nobodys).unwrap();
    assert!(!foreign.whole);
    assert_eq!(foreign.others.len(), 2);
    let names: Vec<_> = foreign
        .slots
        .iter()
        .map(|slot| slot.device_name(0).as_str().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "gpu-0-mig-1g10gb-19-6",
            "gpu-0-mig-1g10gb-19-5",
            "gpu-0-mig-1g10gb-me-20-6",
            "gpu-0-mig-1g10gb-me-20-5",
            "gpu-0-mig-1g20gb-15-6",
        ]
    );
    let half = Choices::of(&gpu, |placement, _| placement.start == 0).unwrap();
    assert_eq!(half.others.len(), 1);
    assert!(half.slots.len() > foreign.slots.len());
}

#[test]
fn what_a_gpu_can_ever_be_does_not_depend_on_what_is_in_its_way() {
    let all = 7 + 7 + 4 + 3 + 2 + 1 + 1;
    let ampere = |mode| Gpu {
        architecture: Architecture::Ampere,
        ..h100(mode)
    };
    let mut pending = h100(MigMode::Off);
    pending.mig.as_mut().unwrap().pending = MigMode::On;
    for (gpu, whole, places) in [
        (h100(MigMode::Off), true, all),
        (cut_into(&["7g.80gb"]), true, all),
        (cut_into(&["3g.40gb", "1g.10gb"]), true, all),
        (pending, true, all),
        (ampere(MigMode::Off), true, 0),
        (ampere(MigMode::On), false, all),
    ] {
        let choices = Choices::of(&gpu, nobodys).unwrap();
        let ever = (choices.is_ever_whole(), choices.places());
        assert_eq!(ever, (whole, places), "{gpu:?}");
    }
}

#[test]
fn a_gpu_without_mig_or_without_profiles_is_not_divided() {
    let mut plain = gpu(0);
    assert_eq!(Choices::of(&plain, ours), None);
    plain.mig = None;
    assert_eq!(Choices::of(&plain, ours), None);
}

/// What lies on a GPU, one slot beside the other.
type Packed<'g> = Vec<Slot<'g>>;

/// Whether the slot fits beside what lies there: in its memory slices, and with what the GPU has of
/// multiprocessors and of the engines that it has once.
fn fits(model: &Model, packed: &[Slot<'_>], slot: Slot<'_>) -> bool {
    let all = || packed.iter().chain(std::iter::once(&slot));
    let most = |of: fn(&MigOption) -> u64| {
        let rows = model.rows.iter().map(MigOption::from);
        rows.map(|option| of(&option)).max().unwrap()
    };
    let has_room = |of: fn(&MigOption) -> u64| all().map(|s| of(s.option)).sum::<u64>() <= most(of);
    packed
        .iter()
        .all(|other| !other.placement.overlaps(slot.placement))
        && has_room(|option| option.multiprocessors.into())
        && has_room(|option| option.engines.copy.into())
        && has_room(|option| option.engines.ofa.into())
        && has_room(|option| option.engines.jpeg.into())
        && has_room(|option| option.engines.decoders.into())
        && has_room(|option| option.memory.0)
}

/// What the scheduler does: of the devices that satisfy a request the first that fits.
fn first_fit<'g>(model: &Model, slots: &[Slot<'g>], packed: &mut Packed<'g>, size: u16) -> bool {
    let mut of_size = slots.iter().filter(|slot| slot.option.profile_id == size);
    let found = of_size.find(|slot| fits(model, packed, **slot));
    packed.extend(found);
    found.is_some()
}

/// All multisets of sizes that fit on the GPU in some way.
fn packable(model: &Model, slots: &[Slot<'_>]) -> BTreeSet<BTreeMap<u16, usize>> {
    fn extend<'g>(
        model: &Model,
        slots: &[Slot<'g>],
        packed: &mut Packed<'g>,
        found: &mut BTreeSet<BTreeMap<u16, usize>>,
    ) {
        let mut sizes = BTreeMap::new();
        for slot in packed.iter() {
            *sizes.entry(slot.option.profile_id).or_default() += 1;
        }
        found.insert(sizes);
        for (at, slot) in slots.iter().enumerate() {
            if fits(model, packed, *slot) {
                packed.push(*slot);
                extend(model, &slots[at + 1..], packed, found);
                packed.pop();
            }
        }
    }
    let mut found = BTreeSet::new();
    extend(model, slots, &mut Vec::new(), &mut found);
    found
}

/// The models whose instances lie in different ways: those of the A100 and from the H200 on lie as those
/// of the H100.
fn models() -> impl Iterator<Item = (&'static Model, Gpu)> {
    let differ = |model: &&Model| ["A30", "H100 80GB"].contains(&model.name);
    MODELS.iter().filter(differ).map(|model| {
        let mut gpu = h100(MigMode::On);
        gpu.mig.as_mut().unwrap().profiles = model.rows.iter().map(MigOption::from).collect();
        (model, gpu)
    })
}

#[test]
fn whatever_fits_on_a_gpu_at_all_is_packed_by_the_first_fit_if_the_large_ones_come_first() {
    for (model, gpu) in models() {
        let slots = Choices::of(&gpu, ours).unwrap().slots;
        let sets = packable(model, &slots);
        assert!(sets.len() > 10, "{}", model.name);
        for sizes in sets {
            let mut wanted: Vec<u16> = sizes
                .iter()
                .flat_map(|(size, count)| std::iter::repeat_n(*size, *count))
                .collect();
            let rank = |size: &u16| {
                slots
                    .iter()
                    .rposition(|slot| slot.option.profile_id == *size)
            };
            wanted.sort_by_key(|size| std::cmp::Reverse(rank(size)));
            let mut packed = Vec::new();
            for size in &wanted {
                let done = first_fit(model, &slots, &mut packed, *size);
                assert!(done, "{}: {wanted:?} after {packed:?}", model.name);
            }
        }
    }
}

#[test]
fn no_other_order_of_the_smallest_instances_leaves_more_room_for_large_ones() {
    for (model, gpu) in models() {
        let slots = Choices::of(&gpu, ours).unwrap().slots;
        let smallest: Vec<Slot<'_>> = slots
            .iter()
            .filter(|slot| slot.option.profile_id == slots[0].option.profile_id)
            .copied()
            .collect();
        // How many slices the largest instance has that fits, after each small one.
        let room = |order: &[Slot<'_>]| -> u32 {
            let left = |count: usize| {
                let open = slots
                    .iter()
                    .filter(|slot| fits(model, &order[..count], **slot));
                open.map(|slot| u32::from(slot.option.profile.slices)).max()
            };
            (1..=order.len()).filter_map(left).sum()
        };
        let ours = room(&smallest);
        let mut order = smallest.clone();
        let best = permutations(&mut order, smallest.len(), &mut |order| room(order));
        assert_eq!(ours, best, "{}", model.name);
    }
}

/// The greatest score of all orders (Heap's algorithm).
fn permutations<T, S: Ord>(items: &mut [T], count: usize, score: &mut impl FnMut(&[T]) -> S) -> S {
    if count <= 1 {
        return score(items);
    }
    let mut best = permutations(items, count - 1, score);
    for at in 0..count - 1 {
        items.swap(if count.is_multiple_of(2) { at } else { 0 }, count - 1);
        best = best.max(permutations(items, count - 1, score));
    }
    best
}
