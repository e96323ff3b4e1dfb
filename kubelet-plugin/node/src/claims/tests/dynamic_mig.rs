//! Claims on GPUs that are cut for them.

mod deaths;
mod unaccounted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use serde_json::json;
use tessera_device::GpuUuid;
use tessera_device::mig::{MigInstance, MigMode, MigState, Placement, UnfinishedInstance};
use tessera_device::testing::gpu_uuid;
use tessera_offer::{MadeDevices, Node as OfferNode, partitions};
use tessera_prepare::step::MigDevice;
use tessera_sharing::ConsumableShares;

use super::*;
use crate::mig::{Mig, MigError, MigOperations};
use crate::testing::cutting::{Cutting, h100};
use crate::testing::machine::TestClaims;

const SMALL: &str = "gpu-0-mig-1g10gb-19-6";
const NEXT: &str = "gpu-0-mig-1g10gb-19-5";
const HALF: &str = "gpu-0-mig-3g40gb-9-0";
const OTHER: &str = "gpu-1-mig-2g20gb-14-4";
const WHOLE: &str = "gpu-0";

fn node() -> Machine {
    Machine::dynamic(vec![h100(0, MigMode::Off), h100(1, MigMode::Off)])
}

fn allocate(machine: &Machine, name: &str, devices: &[&str]) {
    let results: Vec<_> = devices
        .iter()
        .map(|device| {
            json!({"request": "mig", "driver": "gpu.nvidia.com", "pool": "node0", "device": device})
        })
        .collect();
    let object = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": "default", "name": name, "uid": format!("{name}-uid")},
        "spec": {},
        "status": {"allocation": {"devices": {"results": results}}},
    });
    machine
        .api
        .put(name, serde_json::from_value(object).unwrap());
}

fn modes(machine: &Machine) -> Vec<MigMode> {
    let gpus = machine.cutting.gpus();
    gpus.iter()
        .map(|gpu| gpu.mig.as_ref().unwrap().mode)
        .collect()
}

#[tokio::test]
async fn a_mig_device_is_made_for_its_claim_and_destroyed_after_it() {
    let machine = node();
    allocate(&machine, "a", &[HALF, OTHER]);
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(machine.cutting.instances(), [HALF, OTHER]);
    assert_eq!(modes(&machine), [MigMode::On, MigMode::On]);
    let spec = std::fs::read_to_string(machine.spec_of("a")).unwrap();
    for node in [
        "/dev/nvidia0",
        "nvidia-cap0",
        "nvidia-cap1",
        "/dev/nvidia1",
        "nvidia-cap1040",
    ] {
        assert!(spec.contains(&format!("{node}\"")), "{node}: {spec}");
    }
    machine.assert_specs_match_the_journal();
    let again = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(first, again);
    let count = crate::metrics::prepared::count(&claims.records).unwrap();
    assert_eq!((count["gpu"], count["mig"]), (0, 2));

    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert!(machine.cutting.instances().is_empty());
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}

#[tokio::test]
async fn claims_side_by_side_share_a_gpu_and_whoever_overlaps_is_refused() {
    let machine = node();
    for (name, device) in [
        ("a", SMALL),
        ("b", NEXT),
        ("c", HALF),
        ("d", WHOLE),
        ("e", HALF),
    ] {
        allocate(&machine, name, &[device]);
    }
    let claims = machine.start();
    let refs = ["a", "b", "c"].map(claim);
    let prepare = |n: usize| claims.prepare(&refs[n], soon());
    let (a, b, c) = tokio::join!(prepare(0), prepare(1), prepare(2));
    for outcome in [a, b, c] {
        outcome.unwrap();
    }
    assert_eq!(machine.cutting.instances(), [HALF, NEXT, SMALL]);
    for name in ["d", "e"] {
        let error = claims.prepare(&claim(name), soon()).await.unwrap_err();
        assert_eq!(error.label(), "GpuHeld", "{error}");
    }
    for name in ["a", "b", "c"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    // The mode is left as it is until somebody needs the other.
    assert_eq!(modes(&machine)[0], MigMode::On);
    claims.prepare(&claim("d"), soon()).await.unwrap();
    assert_eq!(modes(&machine)[0], MigMode::Off);
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn what_somebody_else_has_made_is_used_as_it_is_and_left() {
    let machine = node();
    for (name, device) in [
        ("a", HALF),
        ("b", SMALL),
        ("c", WHOLE),
        ("d", "gpu-0-mig-4g40gb-5-0"),
    ] {
        allocate(&machine, name, &[device]);
    }
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let foreign = machine.cutting.gpus()[0].mig.clone().unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    machine.cutting.change(&gpu_uuid(0), |mig| *mig = foreign);

    for name in ["c", "d"] {
        let error = claims.prepare(&claim(name), soon()).await.unwrap_err();
        assert_eq!(error.label(), "MigLayoutChanged", "{error}");
    }
    for name in ["a", "b"] {
        claims.prepare(&claim(name), soon()).await.unwrap();
    }
    for name in ["a", "b"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    assert_eq!(machine.cutting.instances(), [HALF]);
}

#[tokio::test]
async fn another_instance_under_a_recorded_number_is_not_destroyed() {
    let machine = node();
    allocate(&machine, "a", &[HALF]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.cutting.change(&gpu_uuid(0), |mig| {
        mig.instances[0].uuid = "MIG-11111111-2222-3333-4444-555555555555".parse().unwrap();
    });
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(machine.cutting.instances(), [HALF]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_somebody_holds_open_is_destroyed_once_it_is_let_go() {
    let machine = node();
    allocate(&machine, "a", &[HALF]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.cutting.busy.lock().unwrap().insert(gpu_uuid(0));
    let claims = Arc::new(claims);
    let own = OwnMigDevices::of(claims.clone());
    let mut changes = claims.offer_changes().subscribe();
    assert!(own.now().busy.is_empty());
    let error = claims.unprepare(&claim("a"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "MigDeviceBusy", "{error}");
    assert_eq!(machine.files("claims").len(), 1);
    // It is told to the scheduler meanwhile.
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let place = Placement { start: 0, size: 4 };
    assert_eq!(own.now().busy, BTreeSet::from([(gpu_uuid(0), place)]));

    let (busy, a) = (machine.cutting.busy.clone(), claim("a"));
    let release = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        busy.lock().unwrap().clear();
    };
    let unprepare = claims.unprepare(&a, Deadline::after(Duration::from_secs(10)));
    let (outcome, ()) = tokio::join!(unprepare, release);
    outcome.unwrap();
    assert!(machine.cutting.instances().is_empty());
    assert!(changes.has_changed().unwrap() && own.now().busy.is_empty());
}

#[tokio::test]
async fn what_is_held_open_is_told_while_the_kubelet_waits_for_its_end() {
    let machine = node();
    allocate(&machine, "a", &[HALF]);
    let claims = Arc::new(machine.start());
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.cutting.busy.lock().unwrap().insert(gpu_uuid(0));
    let own = OwnMigDevices::of(claims.clone());
    let mut changes = claims.offer_changes().subscribe();
    let (busy, a) = (machine.cutting.busy.clone(), claim("a"));
    let let_go_once_told = async {
        changes.changed().await.unwrap();
        let place = Placement { start: 0, size: 4 };
        assert_eq!(own.now().busy, BTreeSet::from([(gpu_uuid(0), place)]));
        busy.lock().unwrap().clear();
    };
    let unprepare = claims.unprepare(&a, Deadline::after(Duration::from_secs(30)));
    let (outcome, ()) = tokio::join!(unprepare, let_go_once_told);
    outcome.unwrap();
    assert!(machine.cutting.instances().is_empty() && own.now().busy.is_empty());
}

#[tokio::test]
async fn half_a_device_that_somebody_has_left_is_in_the_way_and_is_said() {
    let machine = node();
    allocate(&machine, "a", &[HALF]);
    machine.cutting.change(&gpu_uuid(0), |mig| {
        mig.mode = MigMode::On;
        mig.pending = MigMode::On;
        mig.unfinished.push(UnfinishedInstance {
            gpu_instance: 1,
            profile: "3g.40gb".parse().unwrap(),
            profile_id: 9,
            placement: Placement { start: 0, size: 4 },
        });
    });
    let error = machine
        .start()
        .prepare(&claim("a"), soon())
        .await
        .unwrap_err();
    assert_eq!(error.label(), "MigLayoutChanged", "{error}");
    assert!(error.to_string().contains("no compute instance"), "{error}");
}

#[tokio::test]
async fn the_offer_stays_the_same_while_claims_come_and_go() {
    let machine = node();
    allocate(&machine, "a", &[HALF, OTHER]);
    let claims = Arc::new(machine.start());
    let own = OwnMigDevices::of(claims.clone());
    let node = OfferNode {
        name: "node0".to_owned(),
        uid: "uid".to_owned(),
    };
    let offer = || {
        let gpus = machine.cutting.gpus();
        let inventory = tessera_device::Inventory::new(hardware().inventory.driver().clone(), gpus);
        let inventory = inventory.unwrap();
        let made: MadeDevices = own.now();
        (
            partitions(
                &inventory,
                &made,
                &node,
                "gpu.nvidia.com",
                ConsumableShares::Disabled,
            ),
            inventory,
        )
    };
    let (before, _) = offer();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let (during, stale) = offer();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    let made = own.now();
    let late = partitions(
        &stale,
        &made,
        &node,
        "gpu.nvidia.com",
        ConsumableShares::Disabled,
    );
    assert_eq!(before.slices(1), during.slices(1));
    assert_eq!(before.slices(1), late.slices(1));
    assert_eq!(before.slices(1), offer().0.slices(1));
}

#[tokio::test]
async fn a_look_at_half_a_device_that_is_being_destroyed_withdraws_nothing() {
    let machine = node();
    let node = OfferNode {
        name: "node0".to_owned(),
        uid: "uid".to_owned(),
    };
    let off = ConsumableShares::Disabled;
    allocate(&machine, "a", &[HALF]);
    let claims = Arc::new(machine.start());
    let own = OwnMigDevices::of(claims.clone());
    let offer = |inventory: &tessera_device::Inventory| {
        partitions(inventory, &own.now(), &node, "gpu.nvidia.com", off).slices(1)
    };
    let before = offer(&machine.looked_at_now().inventory);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    // Its compute instance has gone, and the look is told when its record has gone as well.
    let made = machine.cutting.gpus()[0].mig.clone().unwrap();
    machine.cutting.change(&gpu_uuid(0), |mig| {
        let instance = mig.instances.remove(0);
        mig.unfinished.push(UnfinishedInstance {
            gpu_instance: instance.gpu_instance,
            profile: instance.profile,
            profile_id: instance.profile_id,
            placement: instance.placement,
        });
    });
    let half = machine.looked_at_now().inventory;
    machine.cutting.change(&gpu_uuid(0), |mig| *mig = made);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert!(machine.cutting.instances().is_empty());
    assert_eq!(offer(&half), before);
    // The same of somebody else is in the way of what overlaps it.
    machine.cutting.own.lock().unwrap().places.clear();
    assert_ne!(offer(&half), before);
}

#[tokio::test]
async fn a_look_that_is_older_than_the_end_of_a_device_shows_nobody_elses() {
    let machine = node();
    let node = OfferNode {
        name: "node0".to_owned(),
        uid: "uid".to_owned(),
    };
    let off = ConsumableShares::Disabled;
    let offer = |own: &OwnMigDevices<_>, inventory: &tessera_device::Inventory| {
        let made = own.now();
        partitions(inventory, &made, &node, "gpu.nvidia.com", off).slices(1)
    };
    allocate(&machine, "a", &[HALF, OTHER]);
    let first = Arc::new(machine.start());
    let own = OwnMigDevices::of(first.clone());
    let before = offer(&own, &machine.looked_at_now().inventory);
    // Nothing is offered while the claim is there.
    first.prepare(&claim("a"), soon()).await.unwrap();
    let stale = machine.looked_at_now().inventory;
    first.unprepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(offer(&own, &stale), before);
    // The next process has a look before it lets the claim go, and offers after it.
    first.prepare(&claim("a"), soon()).await.unwrap();
    let second = Arc::new(machine.start());
    let own = OwnMigDevices::of(second.clone());
    let stale = machine.looked_at_now().inventory;
    second.unprepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(offer(&own, &stale), before);
}

/// Makes a device only when it is told to, as a driver does that is slow.
struct Late(Cutting, Mutex<Receiver<()>>);

impl MigOperations for Late {
    fn states(&self, gpus: &BTreeSet<GpuUuid>) -> Result<Vec<(GpuUuid, MigState)>, MigError> {
        self.0.states(gpus)
    }

    fn switch(&self, gpu: &GpuUuid, mode: MigMode) -> Result<(), MigError> {
        self.0.switch(gpu, mode)
    }

    fn create(&self, device: &MigDevice) -> Result<MigInstance, MigError> {
        self.1.lock().unwrap().recv().unwrap();
        self.0.create(device)
    }

    fn destroy(&self, device: &MigDevice) -> Result<(), MigError> {
        self.0.destroy(device)
    }
}

#[tokio::test]
async fn a_device_that_is_made_after_its_caller_gave_up_is_found_by_whoever_comes_next() {
    let machine = node();
    allocate(&machine, "a", &[HALF]);
    let (make, makes) = channel();
    let claims = machine.start_cutting(Mig::by(Late(machine.cutting.clone(), Mutex::new(makes))));
    let late = claims.prepare(&claim("a"), soon()).await.unwrap_err();
    assert!(late.to_string().contains("in time"), "{late}");
    // Nothing is there yet, and the journal says that something may be.
    assert_eq!(machine.cutting.instances(), [""; 0]);
    assert_eq!(machine.files("claims").len(), 1);

    // To unprepare it waits for what may still come. It comes while somebody waits.
    claims.unprepare(&claim("a"), soon()).await.unwrap_err();
    let (a, patient) = (claim("a"), || Deadline::after(Duration::from_secs(20)));
    let unprepare = claims.unprepare(&a, patient());
    let arrive = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        make.send(()).unwrap();
    };
    let (outcome, ()) = tokio::join!(unprepare, arrive);
    outcome.unwrap();
    assert_eq!(machine.cutting.instances(), [""; 0]);
    assert!(machine.files("claims").is_empty());

    // The next Prepare gets a device of its own in the place of a late one.
    claims.prepare(&claim("a"), soon()).await.unwrap_err();
    make.send(()).unwrap();
    make.send(()).unwrap();
    claims.prepare(&a, patient()).await.unwrap();
    assert_eq!(machine.cutting.instances(), [HALF]);
    machine.assert_specs_match_the_journal();
}
