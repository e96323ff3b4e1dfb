//! What this driver offers, held against slices that the reference driver published on real machines.
//!
//! Such slices are in `captured/`, each with its source: the reference driver itself is not run here. A simulated machine
//! is made to be the same as the one that published them (product, NVIDIA driver, addresses, identities, layout), and
//! what this driver would publish of it is found out on the product's own path, from the NVML library to the slice.
//!
//! All that differs stands in a list with its reason, and all that stands there does differ. The order of devices does
//! not count: that of the reference is by chance.
//!
//! Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use k8s_openapi::List;
use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use serde_json::Value;
use tempfile::TempDir;
use tessera_device::Inventory;
use tessera_hw::{Artifacts, InstallError, Node as Simulated, Replaced, install, upgrade};
use tessera_nvml::{KernelFiles, Nvml};
use tessera_offer::{HeldChannels, Node, Offer};
use tessera_sharing::ConsumableShares;

static ARTIFACTS: LazyLock<Artifacts> = LazyLock::new(|| Artifacts::build().unwrap());

/// The slices of one node as the reference driver published them.
struct Capture(Vec<ResourceSlice>);

impl Capture {
    fn read(text: &str) -> Self {
        let list: List<ResourceSlice> = serde_yaml_ng::from_str(text).unwrap();
        Self(list.items)
    }

    fn of(&self, driver: &str) -> &ResourceSlice {
        let mut slices = self.0.iter().filter(|slice| slice.spec.driver == driver);
        let slice = slices.next().unwrap();
        assert!(slices.next().is_none(), "{driver} has one slice");
        slice
    }

    fn node(&self) -> Node {
        let slice = &self.0[0];
        let owners = slice.metadata.owner_references.iter().flatten();
        Node {
            name: slice.spec.node_name.clone().unwrap(),
            uid: owners
                .map(|owner| owner.uid.clone())
                .next()
                .unwrap_or_default(),
        }
    }
}

/// A simulated machine.
struct Machine {
    _directory: TempDir,
    root: PathBuf,
}

impl Machine {
    fn new(profile: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("driver");
        install(&root, profile, "node-1", &ARTIFACTS)
            .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
        Self {
            _directory: directory,
            root,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Simulated)) {
        let changed = |node: &mut Simulated| {
            change(node);
            Ok::<_, InstallError>(())
        };
        tessera_hw::install::change(&self.root, changed).unwrap();
    }

    fn inventory(&self) -> Inventory {
        let library = fs::canonicalize(self.root.join("usr/lib64/libnvidia-ml.so.1")).unwrap();
        let kernel = KernelFiles {
            sysfs: self.root.join("sys"),
            proc: self.root.join("proc"),
        };
        let scan = Nvml::load(&library).unwrap().inventory(&kernel).unwrap();
        assert!(scan.problems.is_empty(), "{:?}", scan.problems);
        scan.inventory
    }
}

/// Where two descriptions of a machine differ, the same for every device that has it.
type Differences = BTreeSet<String>;

/// What the reference does not say and this driver does, and the other way round, and what they say otherwise: each with
/// the reason.
fn listed(differences: &[(&str, &str)]) -> Differences {
    differences
        .iter()
        .map(|(what, _)| (*what).to_owned())
        .collect()
}

/// All that a device says, by what it says it of.
fn told(device: &Device) -> BTreeMap<String, Value> {
    let attributes = device.attributes.iter().flatten().map(|(name, attribute)| {
        (
            format!("attribute {name}"),
            serde_json::to_value(attribute).unwrap(),
        )
    });
    let capacities = device.capacity.iter().flatten().map(|(name, capacity)| {
        (
            format!("capacity {name}"),
            serde_json::to_value(capacity).unwrap(),
        )
    });
    let mut rest = serde_json::to_value(device).unwrap();
    let rest = rest.as_object_mut().unwrap();
    for said in ["name", "attributes", "capacity"] {
        rest.remove(said);
    }
    let rest = std::mem::take(rest).into_iter();
    attributes
        .chain(capacities)
        .chain(rest.map(|(name, value)| (format!("field {name}"), value)))
        .collect()
}

/// Compares by key, and says of each key where it is missing or that the values differ.
fn compare<T: PartialEq>(theirs: &BTreeMap<String, T>, ours: &BTreeMap<String, T>) -> Differences {
    let keys: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    keys.into_iter()
        .filter_map(|key| match (theirs.get(key), ours.get(key)) {
            (Some(_), None) => Some(format!("{key}: only there")),
            (None, Some(_)) => Some(format!("{key}: only here")),
            (Some(one), Some(other)) => (one != other).then(|| format!("{key}: otherwise")),
            (None, None) => None,
        })
        .collect()
}

fn by_name<'d>(devices: impl IntoIterator<Item = &'d Device>) -> BTreeMap<String, &'d Device> {
    devices
        .into_iter()
        .map(|device| (device.name.clone(), device))
        .collect()
}

/// Where a slice and an offer of the same machine differ. Devices are the same that have one name.
fn differences(theirs: &ResourceSlice, offer: &Offer) -> Differences {
    let slices = offer.slices(theirs.spec.pool.generation);
    let [ours] = slices.as_slice() else {
        panic!("it is one slice")
    };
    let frame = |slice: &ResourceSlice| {
        let mut frame = slice.spec.clone();
        frame.devices = None;
        (frame, slice.metadata.owner_references.clone())
    };
    assert_eq!(frame(theirs), frame(ours));
    let theirs = by_name(theirs.spec.devices.iter().flatten());
    let ours = by_name(ours.spec.devices.iter().flatten());
    let names = |devices: &BTreeMap<String, &Device>| -> BTreeMap<String, bool> {
        devices
            .keys()
            .map(|name| (format!("device {name}"), true))
            .collect()
    };
    let mut found = compare(&names(&theirs), &names(&ours));
    for (name, device) in theirs {
        if let Some(ours) = ours.get(&name) {
            found.extend(compare(&told(device), &told(ours)));
        }
    }
    found
}

fn gpus(inventory: &Inventory, node: &Node) -> Offer {
    tessera_offer::plan(
        inventory,
        node,
        "gpu.nvidia.com",
        ConsumableShares::Disabled,
    )
}

/// What the reference publishes since a later release than that of the captures.
const NUMA: (&str, &str) = (
    "attribute resource.kubernetes.io/numaNode: only here",
    "the release that was captured does not publish it; later ones do, as an integer too",
);

#[test]
fn eight_h100_of_a_cloud_are_offered_as_the_reference_driver_published_them() {
    let capture = Capture::read(include_str!("captured/p5.yaml"));
    let theirs = capture.of("gpu.nvidia.com");
    let machine = Machine::new("p5");
    machine.change(|node| {
        for (gpu, device) in node
            .gpus
            .iter_mut()
            .zip(theirs.spec.devices.iter().flatten())
        {
            let uuid = device.attributes.as_ref().unwrap()["uuid"].string.as_ref();
            gpu.facts.uuid.clone_from(uuid.unwrap());
        }
    });
    let found = differences(theirs, &gpus(&machine.inventory(), &capture.node()));
    assert_eq!(found, listed(&[NUMA]));
}

#[test]
fn channels_are_offered_as_the_reference_driver_published_them_beside_a_device_of_our_own() {
    let capture = Capture::read(include_str!("captured/p5.yaml"));
    let inventory = Machine::new("p5").inventory();
    let held = HeldChannels::These(BTreeSet::new());
    let driver = "compute-domain.nvidia.com";
    let offer = tessera_offer::channels(&inventory, &held, &capture.node(), driver);
    let fabric = (
        "device fabric: only here",
        "it tells the controller the node's clique and channels, and no class selects it",
    );
    assert_eq!(differences(capture.of(driver), &offer), listed(&[fabric]));
}

#[test]
fn mig_devices_of_an_h100_have_the_names_and_sizes_that_the_reference_driver_published() {
    let capture = Capture::read(include_str!("captured/h100-mig.yaml"));
    let theirs = capture.of("gpu.nvidia.com");
    let machine = Machine::new("h100");
    machine.change(|node| {
        node.gpus.truncate(1);
        node.gpus[0].facts.uuid = "GPU-8ce1d817-8c25-50db-af0c-242b5437297f".to_owned();
        node.gpus[0].cut(&["4g.40gb", "3g.40gb"]).unwrap();
    });
    let offer = gpus(&machine.inventory(), &capture.node());
    let ours = by_name(offer.devices());
    let known = by_name(theirs.spec.devices.iter().flatten());
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
    let capture = Capture::read(include_str!("captured/a100-mig.yaml"));
    let theirs = &capture.of("gpu.nvidia.com").spec.devices.as_ref().unwrap()[0];
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
    let offer = gpus(&machine.inventory(), &capture.node());
    let ours = by_name(offer.devices());
    let found = compare(&told(theirs), &told(ours["gpu-0-mig-1g10gb-19-6"]));
    let gone = "later releases of the reference do not publish it";
    let new = "later releases of the reference publish it";
    let reasons = [
        ("attribute index: only there", gone),
        ("attribute parentIndex: only there", gone),
        ("attribute addressingMode: only here", new),
        ("attribute resource.kubernetes.io/pciBusID: only here", new),
        ("attribute resource.kubernetes.io/pcieRoot: only here", new),
        NUMA,
    ];
    assert_eq!(found, listed(&reasons));
}
