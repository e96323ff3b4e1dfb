use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use tessera_device::testing::{cut, gpu, h100_profiles};
use tessera_prepare::cdi::{self, CdiKind};
use tessera_prepare::record::Record;
use tessera_prepare::testing::checkpoint as made;

use super::*;
use crate::claims::{Grace, LetGo};
use crate::hardware::HardwareWatch;
use crate::testing::claim;
use crate::testing::fuse::Fuse;
use crate::testing::machine::{Machine, TestClaims, hardware};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

/// A node that the reference driver has left with these claims.
fn left_with(claims: &Value) -> Machine {
    left_on(Machine::new(), claims)
}

/// The same of a node whose GPU 0 is cut, and GPU 2 too.
fn cut_and_left_with(claims: &Value) -> Machine {
    let one = |minor| match minor {
        0 | 2 => cut(gpu(minor), &["3g.40gb", "1g.10gb"]),
        _ => gpu(minor),
    };
    left_on(Machine::having((0..8).map(one).collect()), claims)
}

fn left_on(machine: Machine, claims: &Value) -> Machine {
    machine.start();
    fs::create_dir_all(plugin(&machine)).unwrap();
    for name in LOCKS {
        fs::write(plugin(&machine).join(name), "").unwrap();
    }
    for (uid, claim) in claims.as_object().unwrap() {
        let name = uid.strip_suffix("-uid").unwrap();
        let devices = claim["status"]["allocation"]["devices"]["results"].as_array();
        write_spec(&machine, name, devices.map_or(&[], Vec::as_slice));
    }
    let checkpoint = made::v2("boot", claims).to_string();
    fs::write(plugin(&machine).join(CHECKPOINT), checkpoint).unwrap();
    machine
}

fn plugin(machine: &Machine) -> PathBuf {
    machine.path("plugin")
}

fn spec_path(machine: &Machine, name: &str) -> PathBuf {
    let file = cdi::reference_file_name(&CdiKind::claim(), &claim(name).uid);
    machine.path("cdi").join(file)
}

/// A spec as the reference driver writes it.
fn write_spec(machine: &Machine, name: &str, results: &[Value]) {
    let mut spec = "cdiVersion: 0.5.0\ncontainerEdits:\n  env:\n  - NVIDIA_VISIBLE_DEVICES=void\n\
                    devices:\n"
        .to_owned();
    for result in results {
        let device = result["device"].as_str().unwrap();
        spec += "- containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n";
        spec.extend(["  name: ", name, "-uid-", device, "\n"]);
    }
    spec += "kind: k8s.gpu.nvidia.com/claim\n";
    fs::write(spec_path(machine, name), spec).unwrap();
}

async fn start(machine: &Machine) -> (TestClaims, Report) {
    let claims = machine.start();
    let report = run(machine, &claims).await.unwrap();
    (claims, report.unwrap())
}

async fn run(machine: &Machine, claims: &TestClaims) -> Result<Option<Report>, TakeoverError> {
    take_over(&plugin(machine), claims, &TakeoverMetrics::default()).await
}

async fn refusal(claims: &TestClaims, name: &str) -> &'static str {
    let refused = claims.prepare(&claim(name), soon()).await;
    refused.unwrap_err().label()
}

fn one_gpu() -> Value {
    json!({"a-uid": made::completed("a", &[made::gpu("a", 0)])})
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_in_use_goes_on_and_ends_as_one_of_ours_does() {
    let machine = left_with(&one_gpu());
    let spec = fs::read(spec_path(&machine, "a")).unwrap();
    let (claims, report) = start(&machine).await;
    assert!(!report.is_warning(), "{report}");
    assert!(!plugin(&machine).join(CHECKPOINT).exists() && Path::new(&report.kept).exists());
    assert!(
        run(&machine, &claims).await.unwrap().is_none(),
        "it is taken over once"
    );

    // Another pod that uses the claim gets what the first one has.
    machine.api.allocate("a", &[0]);
    let devices = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(devices[0].cdi_id, "k8s.gpu.nvidia.com/claim=a-uid-gpu-0");
    claims
        .look_after(
            &mut LetGo::default(),
            Grace(Duration::ZERO),
            Some(&hardware()),
        )
        .await;
    assert_eq!(
        fs::read(spec_path(&machine, "a")).unwrap(),
        spec,
        "nothing was touched"
    );
    let record = Record::decode(&fs::read(machine.record_of("a")).unwrap()).unwrap();
    assert_eq!(record.claim, claim("a"), "the Prepare told its name");

    machine.api.allocate("next", &[0]);
    assert_eq!(refusal(&claims, "next").await, "GpuHeld");
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert!(
        machine.everything().is_empty(),
        "{:?}",
        machine.everything().keys()
    );
    claims.prepare(&claim("next"), soon()).await.unwrap();
}

/// The kubelet calls as soon as it is served, and the driver is looked for meanwhile.
#[tokio::test(start_paused = true)]
async fn a_claim_has_its_name_from_the_first_call_even_if_the_driver_is_not_known_yet() {
    let machine = left_with(&one_gpu());
    let (_hand, unknown) = HardwareWatch::test();
    let claims = machine.start_on(unknown, Fuse::default(), "boot");
    run(&machine, &claims).await.unwrap();
    machine.api.allocate("a", &[0]);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let record = Record::decode(&fs::read(machine.record_of("a")).unwrap()).unwrap();
    assert_eq!(record.claim, claim("a"));
}

#[tokio::test(start_paused = true)]
async fn a_spec_that_is_missing_or_altered_is_made_anew_in_its_place() {
    for alter in [fs::remove_file as fn(PathBuf) -> io::Result<()>, |path| {
        fs::write(path, "")
    }] {
        let machine = left_with(&one_gpu());
        let (claims, _) = start(&machine).await;
        alter(spec_path(&machine, "a")).unwrap();
        claims
            .look_after(
                &mut LetGo::default(),
                Grace(Duration::ZERO),
                Some(&hardware()),
            )
            .await;
        let spec = fs::read_to_string(spec_path(&machine, "a")).unwrap();
        assert!(spec.contains("a-uid-gpu-0"), "{spec}");
        assert_eq!(
            machine.files("cdi").len(),
            1,
            "two specs of one device would be a conflict"
        );
        claims.unprepare(&claim("a"), soon()).await.unwrap();
        assert!(machine.everything().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_lost_after_the_takeover_is_known_by_the_spec() {
    let machine = left_with(&one_gpu());
    let (claims, _) = start(&machine).await;
    fs::remove_dir_all(machine.path("claims")).unwrap();
    let claims = [claims, machine.start()].into_iter().next_back().unwrap();
    machine.api.allocate("next", &[0]);
    machine.api.allocate("other", &[1]);
    assert_eq!(refusal(&claims, "next").await, "GpuBeingReleased");
    claims.prepare(&claim("other"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("next"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_back_is_answered_for_while_it_is_in_use_and_refused_afterwards() {
    let mut device = made::mig("a", 0, "3g.40gb");
    device["mig"]["concrete"]["migUUID"] =
        json!("MIG-GPU-00000000-0000-0000-0000-000000000000/1/0");
    let machine = left_with(&json!({"a-uid": made::completed("a", &[device])}));
    let (claims, report) = start(&machine).await;
    assert!(report.is_warning());
    allocate(&machine, "a", "gpu-0-mig-3g40gb-9-0");
    let devices = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(
        devices[0].cdi_id,
        "k8s.gpu.nvidia.com/claim=a-uid-gpu-0-mig-3g40gb-9-0"
    );

    machine.api.allocate("next", &[0]);
    assert_eq!(refusal(&claims, "next").await, "GpuHeld");
    for _ in 0..2 {
        claims.unprepare(&claim("a"), soon()).await.unwrap();
        assert!(machine.files("cdi").is_empty());
        assert_eq!(refusal(&claims, "next").await, "GpuUnclean");
    }
}

fn allocate(machine: &Machine, name: &str, device: &str) {
    let object = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"namespace": "default", "name": name, "uid": format!("{name}-uid")}, "spec": {},
        "status": {"allocation": {"devices": {"results": [{"request": "gpu",
            "driver": "gpu.nvidia.com", "pool": "node0", "device": device}]}}},
    });
    let object = serde_json::from_value(object).unwrap();
    machine.api.put(name, object);
}

#[tokio::test(start_paused = true)]
async fn a_mig_device_that_is_in_use_goes_on_and_ends_and_the_rest_of_its_gpu_is_given_away() {
    let machine = cut_and_left_with(&json!({
        "a-uid": made::completed("a", &[made::mig("a", 0, "3g.40gb")]),
    }));
    let spec = fs::read(spec_path(&machine, "a")).unwrap();
    let (claims, report) = start(&machine).await;
    assert!(!report.is_warning(), "{report}");

    // Another pod that uses the claim gets what the first one has, and others what is left.
    let (first, second) = ("gpu-0-mig-3g40gb-9-0", "gpu-0-mig-1g10gb-19-4");
    allocate(&machine, "a", first);
    let devices = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert!(devices[0].cdi_id.ends_with(first), "{devices:?}");
    let hardware = machine.hardware();
    let mut let_go = LetGo::default();
    claims
        .look_after(&mut let_go, Grace(Duration::ZERO), Some(&hardware))
        .await;
    assert_eq!(
        fs::read(spec_path(&machine, "a")).unwrap(),
        spec,
        "nothing was touched"
    );
    allocate(&machine, "beside", second);
    claims.prepare(&claim("beside"), soon()).await.unwrap();
    allocate(&machine, "next", first);
    assert_eq!(refusal(&claims, "next").await, "GpuHeld");

    // A spec that is lost is made anew for the device, not for its GPU.
    fs::remove_file(spec_path(&machine, "a")).unwrap();
    claims
        .look_after(&mut let_go, Grace(Duration::ZERO), Some(&hardware))
        .await;
    let spec = fs::read_to_string(spec_path(&machine, "a")).unwrap();
    assert!(spec.contains("nvidia-cap"), "{spec}");

    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("next"), soon()).await.unwrap();
    for name in ["beside", "next"] {
        claims.unprepare(&claim(name), soon()).await.unwrap();
    }
    assert!(machine.everything().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mig_device_of_which_the_driver_does_not_tell_in_time_has_its_whole_gpu_until_it_ends() {
    let machine = cut_and_left_with(&json!({
        "a-uid": made::completed("a", &[made::mig("a", 0, "3g.40gb")]),
    }));
    let (hand, unknown) = HardwareWatch::test();
    let claims = machine.start_on(unknown, Fuse::default(), "boot");
    run(&machine, &claims).await.unwrap();
    hand.set(Some(machine.hardware()));
    allocate(&machine, "a", "gpu-0-mig-3g40gb-9-0");
    claims.prepare(&claim("a"), soon()).await.unwrap();
    allocate(&machine, "beside", "gpu-0-mig-1g10gb-19-4");
    assert_eq!(refusal(&claims, "beside").await, "GpuHeld");
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("beside"), soon()).await.unwrap();
}

/// The checkpoint does not say whether the device was made for the claim.
#[tokio::test(start_paused = true)]
async fn where_this_driver_cuts_the_gpus_a_device_that_was_taken_over_goes_some_time_after_its_claim()
 {
    let device = "gpu-0-mig-3g40gb-9-0";
    let mut cut = cut(gpu(0), &["3g.40gb"]);
    cut.mig.as_mut().unwrap().profiles = h100_profiles();
    let machine = left_on(
        Machine::dynamic(vec![cut]),
        &json!({"a-uid": made::completed("a", &[made::mig("a", 0, "3g.40gb")])}),
    );
    let (claims, report) = start(&machine).await;
    assert!(!report.is_warning(), "{report}");
    let grace = Grace(Duration::from_mins(1));
    let mut let_go = LetGo::default();
    let mut look_after = async || {
        let hardware = machine.looked_at_now();
        claims.look_after(&mut let_go, grace, Some(&hardware)).await;
        tokio::time::sleep(grace.0).await;
        machine.cutting.instances()
    };
    allocate(&machine, "a", device);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(look_after().await, [device], "it is in use");
    }
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(look_after().await, [device], "the claim is allocated it");
    }
    machine.api.forget("a");
    assert!(look_after().await.is_empty());
    machine.api.allocate("whole", &[0]);
    claims.prepare(&claim("whole"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_preparation_of_a_mig_device_that_had_begun_begins_anew() {
    let device = "gpu-0-mig-3g40gb-9-0";
    let machine = cut_and_left_with(&json!({"a-uid": made::begun("a", &[device])}));
    let (claims, report) = start(&machine).await;
    assert!(!report.is_warning(), "{report}");
    allocate(&machine, "a", device);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

/// A claim of which the checkpoint says what nobody here understands.
fn unaccountable() -> Value {
    let mut claim = made::completed("a", &[made::gpu("a", 0)]);
    claim["checkpointState"] = json!("PreparePostponed");
    json!({"a-uid": claim})
}

#[tokio::test(start_paused = true)]
async fn of_a_claim_that_the_checkpoint_does_not_account_for_the_spec_tells_its_gpu() {
    let machine = left_with(&unaccountable());
    let (claims, report) = start(&machine).await;
    assert!(report.is_warning());
    machine.api.allocate("next", &[0]);
    machine.api.allocate("other", &[5]);
    assert_eq!(refusal(&claims, "next").await, "GpuBeingReleased");
    claims.prepare(&claim("other"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("next"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_accounted_for_keeps_every_gpu_from_new_claims_until_it_ends() {
    let machine = left_with(&unaccountable());
    fs::remove_file(spec_path(&machine, "a")).unwrap();
    let (claims, report) = start(&machine).await;
    assert!(report.is_warning());
    machine.api.allocate("next", &[5]);
    assert_eq!(refusal(&claims, "next").await, "GpuUnaccounted");
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert!(machine.files("cdi").is_empty());
    claims.prepare(&claim("next"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_cannot_be_read_is_put_away_and_the_specs_tell_what_is_held() {
    let machine = left_with(&one_gpu());
    let torn = "{\"checksum\": 1, \"v2\": {";
    fs::write(plugin(&machine).join(CHECKPOINT), torn).unwrap();
    let (claims, report) = start(&machine).await;
    assert!(report.outcome.is_err());
    assert_eq!(fs::read_to_string(&report.kept).unwrap(), torn);
    machine.api.allocate("next", &[0]);
    machine.api.allocate("other", &[1]);
    assert_eq!(refusal(&claims, "next").await, "GpuBeingReleased");
    claims.prepare(&claim("other"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("next"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_preparation_that_had_begun_begins_anew() {
    let machine = left_with(&json!({"a-uid": made::begun("a", &["gpu-0"])}));
    let (claims, report) = start(&machine).await;
    assert!(!report.is_warning(), "{report}");
    machine.api.allocate("a", &[0]);
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test(start_paused = true)]
async fn while_the_reference_driver_is_at_work_nothing_is_taken_over() {
    let machine = left_with(&one_gpu());
    let claims = machine.start();
    let socket = plugin(&machine).join("dra.sock");
    let lock = plugin(&machine).join(LOCKS[0]);
    let at_work = async |expected: &Path| {
        let error = run(&machine, &claims).await.unwrap_err();
        assert!(
            matches!(&error, TakeoverError::AtWork { path } if path == expected),
            "{error}"
        );
        assert!(machine.files("claims").is_empty());
    };
    let listening = UnixListener::bind(&socket).unwrap();
    at_work(&socket).await;
    // A socket that nobody listens on any more was left by a killed process.
    drop(listening);
    let locked = File::open(&lock).unwrap();
    locked.try_lock().unwrap();
    at_work(&lock).await;
    drop(locked);
    assert!(run(&machine, &claims).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn wherever_a_takeover_is_interrupted_the_next_start_ends_where_an_unharmed_one_does() {
    let left = || {
        let machine = cut_and_left_with(&json!({
            "a-uid": made::completed("a", &[made::gpu("a", 0), made::gpu("a", 1)]),
            "b-uid": made::completed("b", &[made::vfio("b", gpu(3).uuid.as_str())]),
            "c-uid": made::begun("c", &["gpu-3"]),
            "d-uid": made::begun("d", &["gpu-vfio-4"]),
            "e-uid": made::completed("e", &[made::mig("e", 2, "3g.40gb")]),
        }));
        write_spec(&machine, "stale", &[]);
        machine
    };
    let unharmed = left();
    start(&unharmed).await;
    let expected = unharmed.everything();
    let mut points = 0;
    for effect_first in [false, true] {
        for burns_at in 0.. {
            let machine = left();
            let fuse = Fuse {
                burns_at: Some(burns_at),
                effect_first,
                ..Fuse::default()
            };
            let doomed = machine.start_with(fuse, "boot");
            if run(&machine, &doomed).await.is_ok() {
                break;
            }
            points += 1;
            assert!(plugin(&machine).join(CHECKPOINT).exists());
            let (claims, _) = start(&machine).await;
            assert_eq!(
                machine.everything(),
                expected,
                "at {burns_at}, effect: {effect_first}"
            );
            for name in ["a", "b", "c", "d", "e"] {
                claims.unprepare(&claim(name), soon()).await.unwrap();
            }
            assert!(machine.files("cdi").is_empty());
            assert_eq!(
                machine.files("claims"),
                ["b-uid.record"],
                "what cannot be taken back"
            );
        }
    }
    // Five records and a stale spec, each with and without its effect.
    assert_eq!(points, 12);
}
