//! Claims of MIG devices, on a GPU whose layout changes.

use serde_json::{Value, json};
use tessera_device::mig::MigInstance;
use tessera_device::testing::{cut, driver, gpu};
use tessera_device::{Gpu, Inventory};

use super::*;
use crate::hardware::HardwareWatch;

/// A node of two GPUs, the second cut into these instances.
fn node_cut_into(profiles: &[&str]) -> Hardware {
    of_gpus(vec![gpu(0), cut(gpu(1), profiles)])
}

fn of_gpus(gpus: Vec<Gpu>) -> Hardware {
    Hardware {
        inventory: Inventory::new(driver("580"), gpus).unwrap(),
        ..hardware()
    }
}

const HALVES: [&str; 2] = ["gpu-1-mig-3g40gb-9-0", "gpu-1-mig-3g40gb-9-4"];

/// Allocates devices to a claim, with this configuration of the claim, if any.
fn allocate(machine: &Machine, name: &str, devices: &[&str], parameters: Option<Value>) {
    let results: Vec<_> = devices
        .iter()
        .map(|device| {
            json!({"request": "mig", "driver": "gpu.nvidia.com", "pool": "node0", "device": device})
        })
        .collect();
    let config: Vec<_> = parameters
        .into_iter()
        .map(|parameters| {
            json!({"source": "FromClaim", "opaque": {
                "driver": "gpu.nvidia.com", "parameters": parameters,
            }})
        })
        .collect();
    let object = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": "default", "name": name, "uid": format!("{name}-uid")},
        "spec": {},
        "status": {"allocation": {"devices": {"results": results, "config": config}}},
    });
    machine
        .api
        .put(name, serde_json::from_value(object).unwrap());
}

/// The device nodes in the one spec that there is.
fn nodes(machine: &Machine) -> Vec<String> {
    let [file] = &machine.files("cdi")[..] else {
        panic!("{:?}", machine.files("cdi"))
    };
    let spec = std::fs::read(machine.path("cdi").join(file)).unwrap();
    let spec: Value = serde_json::from_slice(&spec).unwrap();
    let nodes = spec["devices"][0]["containerEdits"]["deviceNodes"].as_array();
    let path = |node: &Value| node["path"].as_str().unwrap().to_owned();
    nodes.unwrap().iter().map(path).collect()
}

#[tokio::test]
async fn two_claims_have_a_part_each_of_one_gpu_and_neither_its_other_part_nor_all_of_it() {
    let machine = Machine::new();
    let (hand, watch) = HardwareWatch::test();
    hand.set(Some(node_cut_into(&["3g.40gb", "3g.40gb"])));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    for (name, device) in [("a", HALVES[0]), ("b", HALVES[1]), ("c", HALVES[1])] {
        allocate(&machine, name, &[device], None);
    }
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(
        nodes(&machine),
        [
            "/dev/nvidia1",
            "/dev/nvidia-caps/nvidia-cap1000",
            "/dev/nvidia-caps/nvidia-cap1001"
        ]
    );
    claims.prepare(&claim("b"), soon()).await.unwrap();
    let error = claims.prepare(&claim("c"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");
    machine.assert_specs_match_the_journal();
    let count = crate::metrics::prepared::count(&claims.records).unwrap();
    assert_eq!((count["gpu"], count["mig"]), (0, 2));

    claims.unprepare(&claim("b"), soon()).await.unwrap();
    claims.prepare(&claim("c"), soon()).await.unwrap();
    for name in ["a", "c"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}

#[tokio::test]
async fn a_mig_device_with_a_configuration_that_asks_for_nothing_is_prepared() {
    let machine = Machine::new();
    let watch = HardwareWatch::fixed(node_cut_into(&["3g.40gb", "3g.40gb"]));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    let kind = |kind: &str| json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind});
    allocate(&machine, "a", &[HALVES[0]], Some(kind("MigDeviceConfig")));
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let mut shared = kind("MigDeviceConfig");
    shared["sharing"] = json!({"strategy": "MPS"});
    allocate(&machine, "b", &[HALVES[1]], Some(shared));
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "UnsupportedConfiguration", "{error}");
}

#[tokio::test]
async fn a_claim_of_a_layout_that_is_gone_is_refused_and_one_that_is_prepared_keeps_its_device() {
    let machine = Machine::new();
    let (hand, watch) = HardwareWatch::test();
    hand.set(Some(node_cut_into(&["3g.40gb", "3g.40gb"])));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    allocate(&machine, "a", &[HALVES[0]], None);
    allocate(&machine, "b", &[HALVES[1]], None);
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();

    hand.set(Some(node_cut_into(&["4g.40gb", "2g.20gb"])));
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "MigLayoutChanged", "{error}");
    let again = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(again, first);
    // What lies where the older claim holds its part is not given away, what is beside it is.
    allocate(&machine, "over", &["gpu-1-mig-4g40gb-5-0"], None);
    allocate(&machine, "beside", &["gpu-1-mig-2g20gb-14-4"], None);
    let error = claims.prepare(&claim("over"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");
    claims.prepare(&claim("beside"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("over"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_device_that_was_made_anew_under_its_name_is_prepared_anew() {
    let machine = Machine::new();
    let (hand, watch) = HardwareWatch::test();
    let halves = cut(gpu(1), &["3g.40gb", "3g.40gb"]);
    hand.set(Some(of_gpus(vec![halves.clone()])));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    allocate(&machine, "a", &[HALVES[0]], None);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let before = nodes(&machine);

    let mut anew = halves;
    let instance: &mut MigInstance = &mut anew.mig.as_mut().unwrap().instances[0];
    instance.uuid = "MIG-11111111-2222-3333-4444-555555555555".parse().unwrap();
    instance.access.gpu_instance.minor = 77;
    hand.set(Some(of_gpus(vec![anew])));
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(before[1], "/dev/nvidia-caps/nvidia-cap1000");
    assert_eq!(nodes(&machine)[1], "/dev/nvidia-caps/nvidia-cap77");
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_lost_record_of_a_part_is_rebuilt_as_that_part() {
    let machine = Machine::new();
    let watch = HardwareWatch::fixed(node_cut_into(&["3g.40gb", "3g.40gb"]));
    let claims = machine.start_on(watch, Fuse::default(), "boot");
    for (name, device) in [("a", HALVES[0]), ("b", HALVES[1]), ("c", HALVES[0])] {
        allocate(&machine, name, &[device], None);
    }
    claims.prepare(&claim("a"), soon()).await.unwrap();
    for folder in ["claims", "claims/copies"] {
        for file in machine.files(folder) {
            std::fs::remove_file(machine.path(folder).join(file)).unwrap();
        }
    }
    claims.prepare(&claim("b"), soon()).await.unwrap();
    let error = claims.prepare(&claim("c"), soon()).await.unwrap_err();
    // A spec does not say of which namespace its claim is, so it is not known whether it ends.
    assert_eq!(error.label(), "GpuBeingReleased", "{error}");
}
