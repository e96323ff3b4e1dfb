//! Slices that code of the reference driver makes of simulated machines. Which code, and how it was run, stands in
//! `simulated/README.md`.

use tessera_hw::Node as Simulated;
use tessera_offer::MadeDevices;
use tessera_sharing::ConsumableShares;

use crate::differences::{Differences, differences, listed, order};
use crate::machine::{Capture, Machine, gpus};

const DRIVER: &str = "gpu.nvidia.com";

/// Where the capture and what is offered of the machine as it is found differ.
fn found(capture: &str, machine: &Machine, shares: ConsumableShares) -> Differences {
    let capture = Capture::read(capture);
    let offer = gpus(&machine.inventory(), &capture.node(), shares);
    differences(&capture.of(DRIVER), &offer)
}

#[test]
fn whole_gpus_of_every_generation_are_offered_as_the_reference_drivers_code_does() {
    for (profile, capture) in [
        ("t4", include_str!("simulated/t4.yaml")),
        ("a100-40g", include_str!("simulated/a100-40g.yaml")),
        ("h100", include_str!("simulated/h100.yaml")),
        ("h200", include_str!("simulated/h200.yaml")),
        ("gb200", include_str!("simulated/gb200.yaml")),
    ] {
        let found = found(capture, &Machine::new(profile), ConsumableShares::Disabled);
        assert_eq!(found, listed(&[]), "{profile}");
    }
}

/// Three H100, of which two are cut.
fn cut() -> Machine {
    let machine = Machine::new("h100");
    machine.change(|node| {
        node.gpus.truncate(3);
        node.gpus[0]
            .cut(&["3g.40gb", "1g.20gb", "1g.10gb+me"])
            .unwrap();
        node.gpus[1]
            .cut(&["4g.40gb", "2g.20gb", "1g.10gb"])
            .unwrap();
    });
    machine
}

#[test]
fn gpus_that_are_cut_are_offered_as_the_reference_drivers_code_does() {
    let capture = include_str!("simulated/h100-mig.yaml");
    let found = found(capture, &cut(), ConsumableShares::Disabled);
    assert_eq!(found, listed(&[]));
}

/// What this driver says of a device that can be shared, and the reference does not.
const SHARED: [(&str, &str); 20] = [
    (
        "each gpu: attribute tessera-dra.github.io/dynamicMemory: only here",
        TIER,
    ),
    (
        "each gpu: attribute tessera-dra.github.io/memoryEnforcement: only here",
        TIER,
    ),
    ("each gpu: capacity computeShare: only here", COMPUTE),
    (
        "each gpu: policy of capacity computeShare: only here",
        COMPUTE,
    ),
    (
        "each mig: attribute tessera-dra.github.io/memoryEnforcement: only here",
        TIER,
    ),
    ("each mig: capacity computeShare: only here", COMPUTE),
    (
        "each mig: policy of capacity computeShare: only here",
        COMPUTE,
    ),
    (
        "each mig: policy of capacity copyEngines: only here",
        NOT_USED_UP,
    ),
    (
        "each mig: policy of capacity decoders: only here",
        NOT_USED_UP,
    ),
    (
        "each mig: policy of capacity encoders: only here",
        NOT_USED_UP,
    ),
    (
        "each mig: policy of capacity jpegEngines: only here",
        NOT_USED_UP,
    ),
    (
        "each mig: policy of capacity multiprocessors: only here",
        NOT_USED_UP,
    ),
    (
        "each mig: policy of capacity ofaEngines: only here",
        NOT_USED_UP,
    ),
    (
        "a mig: policy of capacity memorySlice0: only here",
        NOT_USED_UP,
    ),
    (
        "a mig: policy of capacity memorySlice1: only here",
        NOT_USED_UP,
    ),
    (
        "a mig: policy of capacity memorySlice2: only here",
        NOT_USED_UP,
    ),
    (
        "a mig: policy of capacity memorySlice3: only here",
        NOT_USED_UP,
    ),
    (
        "a mig: policy of capacity memorySlice4: only here",
        NOT_USED_UP,
    ),
    (
        "a mig: policy of capacity memorySlice5: only here",
        NOT_USED_UP,
    ),
    (
        "a mig: policy of capacity memorySlice6: only here",
        NOT_USED_UP,
    ),
];
const TIER: &str = "tells what holds a share to its memory";
const COMPUTE: &str = "lets a claim ask for a part of the multiprocessors";
const NOT_USED_UP: &str =
    "a capacity without a policy is used up by the first share: nobody could share the device";

#[test]
fn gpus_that_are_shared_are_offered_as_the_reference_drivers_code_does_and_say_more() {
    for (shares, capture) in [
        (
            "memory",
            include_str!("simulated/h100-shares-by-memory.yaml"),
        ),
        ("4", include_str!("simulated/h100-shares-of-four.yaml")),
        (
            "unlimited",
            include_str!("simulated/h100-shares-unlimited.yaml"),
        ),
    ] {
        let found = found(capture, &cut(), shares.parse().unwrap());
        assert_eq!(found, listed(&SHARED), "{shares}");
    }
}

/// Where the capture and what is offered with dynamic MIG differ, the order of devices included.
fn found_partitioned(capture: &str, machine: &Machine) -> Differences {
    let capture = Capture::read(capture);
    let (inventory, made) = (machine.inventory(), MadeDevices::default());
    let shares = ConsumableShares::Disabled;
    let offer = tessera_offer::partitions(&inventory, &made, &capture.node(), DRIVER, shares);
    let theirs = capture.of(DRIVER);
    let mut found = differences(&theirs, &offer);
    if order(&theirs) != order(&offer.slices(1)) {
        found.insert("order of devices: otherwise".to_owned());
    }
    found
}

const ORDER: (&str, &str) = (
    "order of devices: otherwise",
    "whole GPUs are first here, then the small devices of each GPU, each profile's from the end, so that the \
     scheduler keeps GPUs whole for as long as it can; there, those of a GPU are sorted by name",
);
const MEMORY: (&str, &str) = (
    "each gpu: capacity memory: otherwise",
    "it stays what NVML says of the whole GPU; there, it is that of the largest MIG device as long as the GPU can be cut",
);

fn first(profile: &str, count: usize, change: impl FnOnce(&mut Simulated)) -> Machine {
    let machine = Machine::new(profile);
    machine.change(|node| {
        node.gpus.truncate(count);
        change(node);
    });
    machine
}

#[test]
fn what_could_be_made_of_a_gpu_is_offered_as_the_reference_drivers_code_does() {
    for (profile, capture) in [
        ("h100", include_str!("simulated/h100-dynamic.yaml")),
        ("gb200", include_str!("simulated/gb200-dynamic.yaml")),
    ] {
        let found = found_partitioned(capture, &first(profile, 1, |_| ()));
        assert_eq!(found, listed(&[ORDER, MEMORY]), "{profile}");
    }
}

#[test]
fn an_a100_is_offered_in_the_mode_that_it_is_in_as_the_reference_drivers_code_does() {
    let machine = first("a100-40g", 2, |node| node.gpus[0].cut(&[]).unwrap());
    let capture = include_str!("simulated/a100-40g-dynamic.yaml");
    let found = found_partitioned(capture, &machine);
    assert_eq!(found, listed(&[ORDER]));
}
