//! Slices that the reference driver published on real machines, as far as such are public. Each stands in `published/`
//! with its source.

use std::borrow::Cow;
use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::Device;
use tessera_hw::{Replaced, upgrade};
use tessera_offer::{HeldChannels, Offer};
use tessera_sharing::ConsumableShares;

use crate::differences::{by_name, compare, differences, listed, told};
use crate::machine::{Capture, Machine, gpus};

fn as_found(machine: &Machine, capture: &Capture) -> Offer {
    gpus(
        &machine.inventory(),
        &capture.node(),
        ConsumableShares::Disabled,
    )
}

/// What the reference publishes since a later release than that of the captures.
const NUMA: (&str, &str) = (
    "each gpu: attribute resource.kubernetes.io/numaNode: only here",
    "the release that was captured does not publish it; later ones do, as an integer too",
);

#[test]
fn eight_h100_of_a_cloud_are_offered_as_the_reference_driver_published_them() {
    let capture = Capture::read(include_str!("published/p5.yaml"));
    let theirs = capture.of("gpu.nvidia.com");
    let machine = Machine::new("p5");
    machine.change(|node| {
        let captured = theirs[0].spec.devices.iter().flatten();
        for (gpu, device) in node.gpus.iter_mut().zip(captured) {
            let uuid = device.attributes.as_ref().unwrap()["uuid"].string.as_ref();
            gpu.facts.uuid.clone_from(uuid.unwrap());
        }
    });
    let found = differences(&theirs, &as_found(&machine, &capture));
    assert_eq!(found, listed(&[NUMA]));
}

#[test]
fn channels_are_offered_as_the_reference_driver_published_them_beside_a_device_of_our_own() {
    let capture = Capture::read(include_str!("published/p5.yaml"));
    let inventory = Machine::new("p5").inventory();
    let held = HeldChannels::These(BTreeSet::new());
    let driver = "compute-domain.nvidia.com";
    let offer = tessera_offer::channels(&inventory, &held, &capture.node(), driver);
    let fabric = (
        "device fabric: only here",
        "it tells the controller the node's clique and channels, and no class selects it",
    );
    assert_eq!(differences(&capture.of(driver), &offer), listed(&[fabric]));
}

#[test]
fn mig_devices_of_an_h100_have_the_names_and_sizes_that_the_reference_driver_published() {
    let capture = Capture::read(include_str!("published/h100-mig.yaml"));
    let theirs = capture.of("gpu.nvidia.com");
    let machine = Machine::new("h100");
    machine.change(|node| {
        node.gpus.truncate(1);
        node.gpus[0].facts.uuid = "GPU-8ce1d817-8c25-50db-af0c-242b5437297f".to_owned();
        node.gpus[0].cut(&["4g.40gb", "3g.40gb"]).unwrap();
    });
    let offer = as_found(&machine, &capture);
    let devices: Vec<Device> = offer.devices().map(Cow::into_owned).collect();
    let ours = by_name(&devices);
    let known = by_name(theirs[0].spec.devices.iter().flatten());
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        known.keys().collect::<Vec<_>>()
    );
    for (name, device) in known {
        let ours = told(ours[&name]);
        for (what, value) in told(device) {
            assert_eq!(ours.get(&what), Some(&value), "{what} of {name}");
        }
    }
}

#[test]
fn a_mig_device_of_an_a100_has_the_capacities_that_the_reference_driver_published() {
    let capture = Capture::read(include_str!("published/a100-mig.yaml"));
    let theirs = capture.of("gpu.nvidia.com");
    let theirs = &theirs[0].spec.devices.as_ref().unwrap()[0];
    let machine = Machine::new("a100-40g");
    upgrade(&machine.root, "560.35.03", Replaced::Everything).unwrap();
    machine.change(|node| {
        node.driver.cuda = "12.6".parse().unwrap();
        node.gpus.truncate(1);
        let gpu = &mut node.gpus[0];
        gpu.facts.uuid = "GPU-08ca734a-eacd-b37e-189a-ba50997e441d".to_owned();
        gpu.facts.name = "NVIDIA A100 80GB PCIe".to_owned();
        gpu.facts.mig_table = Some("a100-80g".to_owned());
        gpu.facts.memory_total_mib = 81920;
        gpu.cut(&["1g.10gb"; 7]).unwrap();
        gpu.condition.mig.instances[6].uuid = "MIG-a280f2d0-03b7-5a7c-adea-94cb1d0726ba".to_owned();
    });
    let offer = as_found(&machine, &capture);
    let devices: Vec<Device> = offer.devices().map(Cow::into_owned).collect();
    let ours = by_name(&devices);
    let found = compare(&told(theirs), &told(ours["gpu-0-mig-1g10gb-19-6"]));
    let gone = "later releases of the reference do not publish it";
    let new = "later releases of the reference publish it";
    let reasons = [
        ("attribute index: only there", gone),
        ("attribute parentIndex: only there", gone),
        ("attribute addressingMode: only here", new),
        ("attribute resource.kubernetes.io/pciBusID: only here", new),
        ("attribute resource.kubernetes.io/pcieRoot: only here", new),
        ("attribute resource.kubernetes.io/numaNode: only here", new),
    ];
    assert_eq!(found, listed(&reasons));
}
