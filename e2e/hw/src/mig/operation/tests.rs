use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{mig::tables, profile::Profile as Machine};

/// A GPU that is cut as this table says, in MIG mode.
fn gpu(table: &str) -> Gpu {
    let node = Machine::load("h100").unwrap().instantiate("node-1");
    let mut gpu = node.gpus[0].clone();
    gpu.facts.mig_table = Some(table.to_owned());
    gpu.condition.mig.enabled = true;
    gpu.condition.mig.pending = true;
    gpu
}

fn create(profile: u32, start: u32, size: u32) -> Operation {
    Operation::CreateGpuInstance {
        profile,
        place: Some((start, size)),
    }
}

fn fill(gpu_instance: u32, profile: u32) -> Operation {
    Operation::CreateComputeInstance {
        gpu_instance,
        profile,
    }
}

fn empty(gpu_instance: u32, compute_instance: u32) -> Operation {
    Operation::DestroyComputeInstance {
        gpu_instance,
        compute_instance,
    }
}

fn destroy(gpu_instance: u32) -> Operation {
    Operation::DestroyGpuInstance { gpu_instance }
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Create { profile: usize, start: usize },
    Destroy(usize),
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        3 => (0..16_usize, 0..8_usize).prop_map(|(profile, start)| Wish::Create { profile, start }),
        1 => (0..8_usize).prop_map(Wish::Destroy),
    ]
}

/// The rows of a table by brute force: what there is, slice by slice and engine by engine.
#[derive(Default)]
struct Model {
    slices: BTreeMap<u32, u32>,
    there: BTreeMap<u32, Profile>,
}

impl Model {
    fn takes(&self, table: &Table, profile: &Profile, start: u32) -> bool {
        let wanted = start..start + profile.size;
        let is_free = |slice| !self.slices.contains_key(&slice) && slice < table.slices;
        let total = |engine: fn(&Profile) -> u32| {
            let taken: u32 = self.there.values().map(engine).sum();
            let most = table.profiles.iter().map(engine).max().unwrap_or(0);
            taken + engine(profile) <= most
        };
        let is_once =
            profile.name.contains("+me") && self.there.values().any(|other| other.id == profile.id);
        wanted.into_iter().all(is_free)
            && total(|p| p.copy_engines)
            && total(|p| p.decoders)
            && total(|p| p.encoders)
            && total(|p| p.jpeg)
            && total(|p| p.ofa)
            && !is_once
    }

    fn add(&mut self, number: u32, profile: &Profile, start: u32) {
        for slice in start..start + profile.size {
            self.slices.insert(slice, number);
        }
        self.there.insert(number, profile.clone());
    }

    fn remove(&mut self, number: u32) {
        self.slices.retain(|_, owner| *owner != number);
        self.there.remove(&number);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn exactly_what_a_brute_force_model_takes_is_made_and_no_two_instances_overlap(
        at in 0..7_usize,
        wishes in prop::collection::vec(wish(), 1..48),
    ) {
        let mut gpu = gpu(tables().nth(at).unwrap());
        let table = gpu.facts.mig_table().unwrap();
        let mut model = Model::default();
        for wish in wishes {
            match wish {
                Wish::Create { profile, start } => {
                    let profile = &table.profiles[profile % table.profiles.len()];
                    let start = profile.starts[start % profile.starts.len()];
                    let takes = model.takes(table, profile, start);
                    let remaining = table.remaining(&gpu.condition.mig.parts(), profile);
                    prop_assert!(!takes || remaining > 0);
                    match gpu.operate(create(profile.id, start, profile.size)) {
                        Ok(Done::Made(number)) => {
                            prop_assert!(takes, "{} at {start}", profile.name);
                            prop_assert!(!model.there.contains_key(&number));
                            model.add(number, profile, start);
                        }
                        Err(Refusal::InsufficientResources) => {
                            prop_assert!(!takes, "{} at {start}", profile.name);
                        }
                        other => panic!("{other:?}"),
                    }
                }
                Wish::Destroy(nth) => {
                    let parts = gpu.condition.mig.parts();
                    if let Some(part) = parts.get(nth) {
                        prop_assert_eq!(gpu.operate(destroy(part.number)), Ok(Done::Destroyed));
                        model.remove(part.number);
                    }
                }
            }
            let parts = gpu.condition.mig.parts();
            let there: BTreeSet<_> = parts.iter().map(|part| part.number).collect();
            prop_assert_eq!(&there, &model.there.keys().copied().collect::<BTreeSet<_>>());
            let mut taken = BTreeSet::new();
            for part in &parts {
                let size = table.profile(part.profile).unwrap().size;
                for slice in part.start..part.start + size {
                    prop_assert!(taken.insert(slice), "slice {slice} belongs to two");
                }
            }
        }
    }

    #[test]
    fn as_many_more_fit_as_the_driver_says(
        at in 0..7_usize,
        wishes in prop::collection::vec((0..16_usize, 0..8_usize), 0..6),
        asked in 0..16_usize,
    ) {
        let mut gpu = gpu(tables().nth(at).unwrap());
        let table = gpu.facts.mig_table().unwrap();
        for (profile, start) in wishes {
            let profile = &table.profiles[profile % table.profiles.len()];
            let start = profile.starts[start % profile.starts.len()];
            let _ = gpu.operate(create(profile.id, start, profile.size));
        }
        let asked = &table.profiles[asked % table.profiles.len()];
        let remaining = table.remaining(&gpu.condition.mig.parts(), asked);
        let anywhere = Operation::CreateGpuInstance { profile: asked.id, place: None };
        for _ in 0..remaining {
            prop_assert!(gpu.operate(anywhere).is_ok());
        }
        prop_assert_eq!(gpu.operate(anywhere), Err(Refusal::InsufficientResources));
    }
}

#[test]
fn every_place_of_every_profile_is_taken_and_no_other() {
    for name in tables() {
        let table = gpu(name).facts.mig_table().unwrap();
        for profile in &table.profiles {
            for start in 0..=table.slices {
                let outcome = gpu(name).operate(create(profile.id, start, profile.size));
                let is_place = profile.starts.contains(&start);
                let expected = is_place.then_some(()).ok_or(Refusal::InvalidArgument);
                assert_eq!(outcome.map(drop), expected, "{name} {}", profile.name);
            }
            let wrong = create(profile.id, profile.starts[0], profile.size + 1);
            assert_eq!(gpu(name).operate(wrong), Err(Refusal::InvalidArgument));
        }
        let unknown = create(1000, 0, 1);
        assert_eq!(gpu(name).operate(unknown), Err(Refusal::InvalidArgument));
    }
}

#[test]
fn a_mode_is_switched_at_once_or_with_a_reset_and_not_while_somebody_uses_the_gpu() {
    let set = |gpu: &mut Gpu, enabled| gpu.operate(Operation::SetMode { enabled });
    let now = Ok(Done::Mode(Activation::Now));
    let in_use = Ok(Done::Mode(Activation::InUse));
    for (table, activation) in [
        ("h100", Activation::Now),
        ("b200", Activation::Now),
        ("a100-40g", Activation::ResetRequired),
        ("a30", Activation::ResetRequired),
    ] {
        let mut gpu = gpu(table);
        assert_eq!(set(&mut gpu, true), now);
        assert_eq!(set(&mut gpu, false), Ok(Done::Mode(activation)), "{table}");
        let is_there = activation == Activation::Now;
        let mig = &gpu.condition.mig;
        assert_eq!((mig.enabled, mig.pending), (!is_there, false));
    }
    let mut gpu = gpu("h100");
    gpu.condition.held = true;
    assert_eq!(set(&mut gpu, false), in_use);
    assert!(gpu.condition.mig.enabled && !gpu.condition.mig.pending);
    // Whoever asks for the present mode takes the wish back.
    assert_eq!(set(&mut gpu, true), now);
    assert!(gpu.condition.mig.pending);
    gpu.condition.held = false;
    gpu.operate(create(19, 0, 1)).unwrap();
    assert_eq!(set(&mut gpu, false), in_use);
    gpu.operate(destroy(7)).unwrap();
    gpu.condition.memory_used_mib = 1;
    assert_eq!(set(&mut gpu, false), in_use);
    gpu.condition.memory_used_mib = 0;
    assert_eq!(set(&mut gpu, false), now);
    assert_eq!(gpu.operate(create(19, 0, 1)), Err(Refusal::NotSupported));
    assert_eq!(gpu.operate(destroy(7)), Err(Refusal::NotSupported));
}

#[test]
fn an_instance_is_destroyed_from_the_inside_out_and_not_while_it_is_held() {
    let mut gpu = gpu("h100");
    let Ok(Done::Made(number)) = gpu.operate(create(9, 4, 4)) else {
        panic!("{gpu:?}")
    };
    // The GPU instance of 3g.40gb takes 1c, 2c and 3c.
    assert_eq!(gpu.operate(fill(number, 3)), Err(Refusal::NotSupported));
    assert_eq!(gpu.operate(fill(number, 0)), Ok(Done::Made(0)));
    assert_eq!(
        gpu.operate(fill(number, 2)),
        Err(Refusal::InsufficientResources)
    );
    assert_eq!(gpu.operate(fill(number, 1)), Ok(Done::Made(1)));
    let instances = gpu.condition.mig.instances.iter();
    let starts: Vec<_> = instances.map(|instance| instance.compute_start).collect();
    assert_eq!(starts, [0, 1]);
    assert_eq!(gpu.operate(destroy(number)), Err(Refusal::InUse));
    assert_eq!(gpu.operate(empty(number, 0)), Ok(Done::Destroyed));
    assert_eq!(gpu.operate(destroy(number)), Err(Refusal::InUse));
    gpu.condition.mig.held.insert(number);
    assert_eq!(gpu.operate(empty(number, 1)), Err(Refusal::InUse));
    gpu.condition.mig.held.clear();
    assert_eq!(gpu.operate(empty(number, 1)), Ok(Done::Destroyed));
    assert_eq!(gpu.condition.mig.parts().len(), 1);
    gpu.condition.mig.held.insert(number);
    assert_eq!(gpu.operate(destroy(number)), Err(Refusal::InUse));
    gpu.condition.mig.held.clear();
    assert_eq!(gpu.operate(destroy(number)), Ok(Done::Destroyed));
    assert_eq!(gpu.operate(destroy(number)), Err(Refusal::InvalidArgument));
    assert!(gpu.condition.mig.parts().is_empty());
}

#[test]
fn a_mig_device_that_is_made_again_has_another_uuid() {
    let mut gpu = gpu("h100");
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        gpu.operate(create(19, 3, 1)).unwrap();
        gpu.operate(fill(10, 0)).unwrap();
        assert!(seen.insert(gpu.condition.mig.instances[0].uuid.clone()));
        gpu.operate(empty(10, 0)).unwrap();
        gpu.operate(destroy(10)).unwrap();
    }
}

#[test]
fn a_gpu_that_does_not_answer_or_has_no_mig_does_nothing() {
    let mut lost = gpu("h100");
    lost.condition.presence = Presence::Lost;
    assert_eq!(lost.operate(create(19, 0, 1)), Err(Refusal::GpuIsLost));
    let mut node = Machine::load("t4").unwrap().instantiate("node-1");
    let uuid = node.gpus[0].facts.uuid.clone();
    let set = Operation::SetMode { enabled: true };
    assert_eq!(node.operate(&uuid, set), Err(Refusal::NotSupported));
    assert_eq!(node.operate("GPU-0", set), Err(Refusal::InvalidArgument));
}
