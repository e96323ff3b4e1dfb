use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::json;
use tempfile::TempDir;
use tessera_claim::ClaimUid;
use tessera_device::{
    Architecture, Bytes, CudaVersion, DeviceName, DriverFacts, DriverVersion, Gpu, Inventory,
};
use tessera_prepare::cdi::DriverInstall;
use tessera_prepare::step::Effect;

use super::*;
use crate::cdi_dir::CdiDir;
use crate::executor::LocalNode;
use crate::journal::{Contents, Journal};
use crate::testing::{claim, gpu_uuid};

/// An API server that holds claims, and can be away.
#[derive(Default)]
struct Api {
    claims: Mutex<BTreeMap<String, ResourceClaim>>,
    away: AtomicBool,
}

impl Api {
    fn allocate(&self, name: &str, minors: &[u32]) {
        let results: Vec<_> = minors
            .iter()
            .map(|minor| {
                json!({"request": "gpu", "driver": "gpu.nvidia.com", "pool": "node0",
                       "device": format!("gpu-{minor}")})
            })
            .collect();
        let object = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "default", "name": name, "uid": format!("{name}-uid")},
            "spec": {},
            "status": {"allocation": {"devices": {"results": results}}},
        });
        let object = serde_json::from_value(object).unwrap();
        self.claims.lock().unwrap().insert(name.to_owned(), object);
    }
}

impl ClaimReader for Arc<Api> {
    async fn read(&self, claim: &ClaimRef, _: Deadline) -> Result<ResourceClaim, ReadError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(ReadError::Unavailable {
                claim: claim.clone(),
                source: None,
            });
        }
        let found = self.claims.lock().unwrap().get(&claim.name).cloned();
        found.ok_or_else(|| ReadError::NotFound {
            claim: claim.clone(),
        })
    }
}

/// Counts calls to the ports that change something and makes one of them the last.
#[derive(Default)]
struct Fuse {
    calls: AtomicUsize,
    /// The call that fails, with every later one: the process is dead from there on.
    burns_at: Option<usize>,
    /// Whether the fatal call still has its effect.
    effect_first: bool,
}

impl Fuse {
    fn guard<T, E>(
        &self,
        act: impl FnOnce() -> Result<T, E>,
        dead: impl Fn() -> E,
    ) -> Result<T, E> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.burns_at {
            Some(fatal) if call == fatal && self.effect_first => act().and_then(|_| Err(dead())),
            Some(fatal) if call >= fatal => Err(dead()),
            _ => act(),
        }
    }
}

struct FusedRecords(Journal, Arc<Fuse>);

impl Records for FusedRecords {
    fn read(&self, claim: &ClaimUid) -> Result<Option<Entry>, JournalError> {
        self.0.read(claim)
    }
    fn read_all(&self) -> Result<Contents, JournalError> {
        self.0.read_all()
    }
    fn write(&self, record: &Record) -> Result<(), JournalError> {
        self.1
            .guard(|| self.0.write(record), JournalError::injected)
    }
    fn remove(&self, claim: &ClaimUid) -> Result<(), JournalError> {
        self.1
            .guard(|| self.0.remove(claim), JournalError::injected)
    }
}

struct FusedNode(LocalNode, Arc<Fuse>);

impl Node for FusedNode {
    fn apply(&self, step: &Step) -> Result<(), StepError> {
        self.1.guard(|| self.0.apply(step), StepError::injected)
    }
    fn has(&self, effect: &Effect) -> Result<bool, StepError> {
        self.0.has(effect)
    }
}

type TestClaims = Claims<Arc<Api>, FusedRecords, FusedNode>;

/// A node's files, on which one plugin process runs after the other.
struct Machine {
    root: TempDir,
    api: Arc<Api>,
}

impl Machine {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            api: Arc::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn start(&self) -> TestClaims {
        self.start_with(Fuse::default(), "boot")
    }

    fn start_with(&self, fuse: Fuse, boot: &str) -> TestClaims {
        let fuse = Arc::new(fuse);
        let journal = Journal::open(&self.path("claims")).unwrap();
        let cdi = CdiDir::open(&self.path("cdi")).unwrap();
        Claims::new(
            Identity {
                driver: "gpu.nvidia.com".to_owned(),
                pool: "node0".to_owned(),
                cdi_kind: CdiKind::claim(),
                boot: BootId(boot.to_owned()),
            },
            self.api.clone(),
            FusedRecords(journal, fuse.clone()),
            FusedNode(LocalNode { cdi }, fuse),
            GpuLocks::open(&self.path("locks")).unwrap(),
            HardwareWatch::fixed(hardware()),
        )
    }

    fn files(&self, directory: &str) -> Vec<String> {
        list(&self.path(directory))
    }

    /// Invariant I4: a spec exists exactly when the journal says that its claim is prepared.
    #[track_caller]
    fn assert_specs_match_the_journal(&self) {
        let journal = Journal::open(&self.path("claims")).unwrap();
        let prepared: Vec<String> = journal
            .read_all()
            .unwrap()
            .records
            .iter()
            .filter(|record| record.phase == Phase::Prepared)
            .map(|record| cdi::file_name(&CdiKind::claim(), &record.claim.uid))
            .collect();
        assert_eq!(self.files("cdi"), prepared);
    }
}

fn list(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn hardware() -> Hardware {
    let gpu = |minor: u32| Gpu {
        uuid: gpu_uuid(minor),
        minor,
        pci: format!("0000:{:02x}:00.0", 0x1b + minor).parse().unwrap(),
        product_name: "NVIDIA H100 80GB HBM3".to_owned(),
        brand: "Nvidia".to_owned(),
        architecture: Architecture::Hopper,
        compute_capability: CudaVersion { major: 9, minor: 0 },
        memory: Bytes::from_mib(81559),
        addressing_mode: None,
        pcie_root: None,
        numa_node: None,
    };
    let driver = DriverFacts {
        version: DriverVersion::new("580.95.05"),
        cuda: CudaVersion {
            major: 13,
            minor: 0,
        },
    };
    Hardware {
        inventory: Inventory::new(driver, (0..8).map(gpu).collect()).unwrap(),
        install: DriverInstall::default(),
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(200))
}

fn names(devices: &[PreparedDevice]) -> Vec<&DeviceName> {
    devices.iter().map(|device| &device.device).collect()
}

#[tokio::test]
async fn a_prepared_claim_gets_the_same_answer_again_and_leaves_nothing_when_unprepared() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0, 3]);
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(
        names(&first),
        [&DeviceName::whole_gpu(0), &DeviceName::whole_gpu(3)]
    );
    machine.assert_specs_match_the_journal();
    let again = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(first, again);
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
}

#[tokio::test]
async fn a_gpu_is_given_to_one_claim_at_a_time_and_the_refused_one_leaves_no_trace() {
    let machine = Machine::new();
    machine.api.allocate("a", &[3]);
    machine.api.allocate("b", &[2, 3]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuHeld", "{error}");
    assert_eq!(machine.files("claims").len(), 1);
    machine.assert_specs_match_the_journal();
    claims.unprepare(&claim("a"), soon()).await.unwrap();
    claims.prepare(&claim("b"), soon()).await.unwrap();
}

#[tokio::test]
async fn a_claim_whose_predecessor_is_gone_from_the_api_waits_for_its_unprepare() {
    let machine = Machine::new();
    machine.api.allocate("former", &[3]);
    machine.api.allocate("next", &[3]);
    let claims = Arc::new(machine.start());
    claims.prepare(&claim("former"), soon()).await.unwrap();
    machine.api.claims.lock().unwrap().remove("former");

    let waiting = claims.clone();
    let next = tokio::spawn(async move {
        waiting
            .prepare(&claim("next"), Deadline::after(Duration::from_secs(10)))
            .await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!next.is_finished());
    claims.unprepare(&claim("former"), soon()).await.unwrap();
    assert_eq!(
        names(&next.await.unwrap().unwrap()),
        [&DeviceName::whole_gpu(3)]
    );
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_release_by_another_process_is_noticed_too() {
    let machine = Machine::new();
    machine.api.allocate("former", &[3]);
    machine.api.allocate("next", &[3]);
    let ours = Arc::new(machine.start());
    let theirs = machine.start();
    theirs.prepare(&claim("former"), soon()).await.unwrap();
    machine.api.claims.lock().unwrap().remove("former");
    let waiting = ours.clone();
    let next = tokio::spawn(async move {
        waiting
            .prepare(&claim("next"), Deadline::after(Duration::from_secs(10)))
            .await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    theirs.unprepare(&claim("former"), soon()).await.unwrap();
    next.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_predecessor_that_does_not_let_go_in_time_is_named() {
    let machine = Machine::new();
    machine.api.allocate("former", &[3]);
    machine.api.allocate("next", &[3]);
    let claims = machine.start();
    claims.prepare(&claim("former"), soon()).await.unwrap();
    machine.api.claims.lock().unwrap().remove("former");
    let error = claims.prepare(&claim("next"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuBeingReleased");
    assert!(error.to_string().contains("default/former"), "{error}");
}

#[tokio::test]
async fn a_removed_or_altered_spec_of_a_prepared_claim_is_made_anew() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    let spec = machine.path("cdi").join(&machine.files("cdi")[0]);
    let good = std::fs::read(&spec).unwrap();
    std::fs::write(&spec, "{}").unwrap();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(std::fs::read(&spec).unwrap(), good);
    std::fs::remove_file(&spec).unwrap();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(std::fs::read(&spec).unwrap(), good);
}

#[tokio::test]
async fn while_the_api_server_is_away_only_what_is_prepared_already_is_answered() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    machine.api.allocate("b", &[1]);
    let claims = machine.start();
    let first = claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.api.away.store(true, Ordering::Relaxed);
    assert_eq!(claims.prepare(&claim("a"), soon()).await.unwrap(), first);
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "ApiUnavailable");
}

#[tokio::test]
async fn what_another_boot_left_is_prepared_afresh() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    machine.start().prepare(&claim("a"), soon()).await.unwrap();
    std::fs::remove_dir_all(machine.path("cdi")).unwrap();
    let claims = machine.start_with(Fuse::default(), "next boot");
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_claim_that_was_allocated_again_elsewhere_moves_with_its_allocation() {
    let machine = Machine::new();
    machine.api.allocate("a", &[0]);
    let claims = machine.start();
    claims.prepare(&claim("a"), soon()).await.unwrap();
    machine.api.allocate("a", &[5]);
    let moved = claims.prepare(&claim("a"), soon()).await.unwrap();
    assert_eq!(names(&moved), [&DeviceName::whole_gpu(5)]);
    machine.api.allocate("b", &[0]);
    claims.prepare(&claim("b"), soon()).await.unwrap();
    machine.assert_specs_match_the_journal();
}

#[tokio::test]
async fn a_damaged_record_blocks_other_claims_until_its_own_is_unprepared() {
    let machine = Machine::new();
    machine.api.allocate("b", &[1]);
    let claims = machine.start();
    std::fs::write(machine.path("claims").join("lost-uid.record"), b"damage").unwrap();
    let error = claims.prepare(&claim("b"), soon()).await.unwrap_err();
    assert_eq!(error.label(), "GpuUnaccounted", "{error}");
    claims.unprepare(&claim("lost"), soon()).await.unwrap();
    claims.prepare(&claim("b"), soon()).await.unwrap();
}

/// Kills the process at every call to a port in turn, before or after the call's effect, starts it
/// again, and compares the end with that of a life without a crash.
#[tokio::test]
async fn wherever_the_process_dies_the_next_one_ends_up_where_an_unharmed_one_does() {
    let mut deaths = 0;
    for effect_first in [false, true] {
        for burns_at in 0.. {
            let machine = Machine::new();
            machine.api.allocate("a", &[0, 3]);
            let fuse = Fuse {
                burns_at: Some(burns_at),
                effect_first,
                ..Fuse::default()
            };
            let doomed = machine.start_with(fuse, "boot");
            let prepared = doomed.prepare(&claim("a"), soon()).await;
            let unprepared = doomed.unprepare(&claim("a"), soon()).await;
            if prepared.is_ok() && unprepared.is_ok() {
                break;
            }
            deaths += 1;
            drop(doomed);

            let next = machine.start();
            let devices = next.prepare(&claim("a"), soon()).await.unwrap();
            assert_eq!(
                names(&devices),
                [&DeviceName::whole_gpu(0), &DeviceName::whole_gpu(3)]
            );
            machine.assert_specs_match_the_journal();
            next.unprepare(&claim("a"), soon()).await.unwrap();
            assert!(machine.files("cdi").is_empty(), "killed at call {burns_at}");
            assert!(
                machine.files("claims").is_empty(),
                "killed at call {burns_at}"
            );
        }
    }
    assert!(
        deaths >= 10,
        "the calls to the ports were not all reached: {deaths}"
    );
}

#[tokio::test]
async fn wherever_the_process_dies_an_unprepare_alone_cleans_up() {
    for effect_first in [false, true] {
        for burns_at in 0.. {
            let machine = Machine::new();
            machine.api.allocate("a", &[0]);
            let fuse = Fuse {
                burns_at: Some(burns_at),
                effect_first,
                ..Fuse::default()
            };
            let doomed = machine.start_with(fuse, "boot");
            if doomed.prepare(&claim("a"), soon()).await.is_ok() {
                break;
            }
            drop(doomed);
            machine
                .start()
                .unprepare(&claim("a"), soon())
                .await
                .unwrap();
            assert!(machine.files("cdi").is_empty() && machine.files("claims").is_empty());
        }
    }
}

#[tokio::test]
async fn claims_on_different_gpus_are_prepared_side_by_side() {
    let machine = Machine::new();
    let claims = Arc::new(machine.start());
    let mut tasks = tokio::task::JoinSet::new();
    for minor in 0..8 {
        let name = format!("claim{minor}");
        machine.api.allocate(&name, &[minor]);
        let claims = claims.clone();
        tasks.spawn(async move { claims.prepare(&claim(&name), soon()).await.map(|_| ()) });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(claims.prepared_devices().unwrap(), 8);
    machine.assert_specs_match_the_journal();
}
