//! A node's files and an API server, on which one plugin process runs after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use k8s_openapi::api::resource::v1::ResourceClaim;
use prometheus_client::registry::Registry;
use rustix::io::Errno;
use serde_json::json;
use tempfile::TempDir;
use tessera_api::{Interval, available};
use tessera_claim::{ClaimRef, ClaimUid};
use tessera_device::mig::{MigLayouts, MigState};
use tessera_device::testing::{driver, inventory, inventory_that_lost};
use tessera_device::{Gpu, GpuUuid, Inventory, MigUuid};
use tessera_prepare::cdi::{self, CdiKind, DriverInstall};
use tessera_prepare::ledger::UnreadableOf;
use tessera_prepare::record::{BootId, Phase, PreparedDevice, RecordOf, RecordedDevice};
use tessera_prepare::step::{Done, Effect, Step};
use tessera_sharing::ConsumableShares;
use tokio_util::sync::CancellationToken;

use super::claim;
use super::cutting::Cutting;
use crate::cdi_dir::CdiDir;
use crate::claim_reader::{ClaimReader, ReadError, SearchError};
use crate::claims::{Claims, Identity, UnownedMig};
use crate::deadline::Deadline;
use crate::events::{Inbox, Notices};
use crate::executor::{LocalNode, Node, StepError};
use crate::file_error::FileError;
use crate::hardware::{Hardware, HardwareWatch};
use crate::journal::{ContentsOf, EntryOf, Journal, JournalError, JournalOf, Records};
use crate::locks::GpuLocks;
use crate::mig::{Mig, MigOperations};
use crate::wait::Waits;

/// An API server that holds claims, and can be away.
#[derive(Default)]
pub(crate) struct Api {
    pub(crate) claims: Mutex<BTreeMap<String, ResourceClaim>>,
    pub(crate) away: AtomicBool,
    /// Takes every call and answers none, so each lasts until its deadline.
    pub(crate) silent: AtomicBool,
    /// How often a claim was read.
    pub(crate) reads: AtomicUsize,
    /// Reading this claim is a defect of the plugin.
    pub(crate) panics_at: Mutex<Option<String>>,
}

impl Api {
    pub(crate) fn allocate(&self, name: &str, minors: &[u32]) {
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
        self.put(name, object);
    }

    /// Allocates shares of a GPU, each by its id and its memory in GiB.
    pub(crate) fn allocate_shares(&self, name: &str, minor: u32, shares: &[(&str, u64)]) {
        self.allocate(name, &[minor]);
        let mut claims = self.claims.lock().unwrap();
        let mut object = serde_json::to_value(&claims[name]).unwrap();
        let results = &mut object["status"]["allocation"]["devices"]["results"];
        let of = results[0].clone();
        let share = |(id, gib): &(&str, u64)| {
            let mut share = of.clone();
            share["shareID"] = json!(id);
            share["consumedCapacity"] = json!({"memory": format!("{gib}Gi"), "computeShare": "0"});
            share
        };
        *results = shares.iter().map(share).collect();
        let object = serde_json::from_value(object).unwrap();
        claims.insert(name.to_owned(), object);
    }

    /// Lets the claim of this name ask for a time slice of its GPUs.
    pub(crate) fn ask_for_slices(&self, name: &str, interval: Interval) {
        let mut claims = self.claims.lock().unwrap();
        let mut object = serde_json::to_value(&claims[name]).unwrap();
        object["status"]["allocation"]["devices"]["config"] = json!([{
            "source": "FromClaim", "requests": [], "opaque": {
                "driver": "gpu.nvidia.com",
                "parameters": {
                    "apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig",
                    "sharing": {
                        "strategy": "TimeSlicing",
                        "timeSlicingConfig": {"interval": interval.as_str()},
                    },
                },
            },
        }]);
        let object = serde_json::from_value(object).unwrap();
        claims.insert(name.to_owned(), object);
    }

    /// Stores a claim under this name, whatever it says.
    pub(crate) fn put(&self, name: &str, object: ResourceClaim) {
        self.claims.lock().unwrap().insert(name.to_owned(), object);
    }

    /// The claim is deleted.
    pub(crate) fn forget(&self, name: &str) {
        self.claims.lock().unwrap().remove(name);
    }
}

impl ClaimReader for Arc<Api> {
    async fn read(&self, claim: &ClaimRef, limit: Deadline) -> Result<ResourceClaim, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let defect = self.panics_at.lock().unwrap().as_deref() == Some(claim.name.as_str());
        assert!(!defect, "injected");
        if self.silent.load(Ordering::Relaxed) {
            tokio::time::sleep(limit.remaining()).await;
        }
        if self.away.load(Ordering::Relaxed) || self.silent.load(Ordering::Relaxed) {
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

    async fn search<T: Send>(
        &self,
        look: impl FnMut(&ResourceClaim) -> Option<T> + Send,
        _: Deadline,
    ) -> Result<Option<T>, SearchError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(SearchError::Unavailable);
        }
        Ok(self.claims.lock().unwrap().values().find_map(look))
    }
}

/// Counts calls to the ports and lets one of them fail.
#[derive(Default)]
pub(crate) struct Fuse {
    pub(crate) calls: AtomicUsize,
    /// The call that fails.
    pub(crate) burns_at: Option<usize>,
    /// Whether that call still has its effect.
    pub(crate) effect_first: bool,
    pub(crate) fault: Fault,
}

/// What fails, and for how long.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The process: every later call fails too. Only calls that change something count.
    #[default]
    Death,
    /// The call alone, with this error. Calls that only look count too.
    Error(Errno),
}

/// Whether a call changes anything.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Looks,
    Changes,
}

impl Fuse {
    fn guard<T, E: From<FileError>>(
        &self,
        kind: Call,
        act: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        // What is done at once is done when it is first polled.
        let done = self.guarding(kind, async || act()).now_or_never();
        done.expect("nothing is waited for")
    }

    async fn guarding<T, E: From<FileError>>(
        &self,
        kind: Call,
        act: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let reason = match (self.fault, kind) {
            (Fault::Death, Call::Looks) => return act().await,
            (Fault::Death, Call::Changes) => io::Error::other("the process is dead"),
            (Fault::Error(errno), _) => errno.into(),
        };
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let Some(fatal) = self.burns_at.filter(|fatal| call >= *fatal) else {
            return act().await;
        };
        let failed = || Err(FileError::of("do", Path::new("a call"))(reason).into());
        match self.fault {
            _ if call == fatal && self.effect_first => act().await.and_then(|_| failed()),
            Fault::Error(_) if call > fatal => act().await,
            _ => failed(),
        }
    }
}

pub(crate) struct FusedRecords<D = PreparedDevice>(pub(crate) JournalOf<D>, pub(crate) Arc<Fuse>);

impl<D: RecordedDevice> Records<D> for FusedRecords<D> {
    fn read(&self, claim: &ClaimUid) -> Result<Option<EntryOf<D>>, JournalError> {
        self.1.guard(Call::Looks, || self.0.read(claim))
    }
    fn read_all(&self) -> Result<ContentsOf<D>, JournalError> {
        self.1.guard(Call::Looks, || self.0.read_all())
    }
    fn write(&self, record: &RecordOf<D>) -> Result<(), JournalError> {
        self.1.guard(Call::Changes, || self.0.write(record))
    }
    fn remove(&self, claim: &ClaimUid) -> Result<(), JournalError> {
        self.1.guard(Call::Changes, || self.0.remove(claim))
    }
    fn mark(&self, claim: &ClaimUid, why: &str) -> Result<(), JournalError> {
        self.1.guard(Call::Changes, || self.0.mark(claim, why))
    }
    fn set_aside(
        &self,
        unreadable: &UnreadableOf<D>,
        replacement: Option<&RecordOf<D>>,
    ) -> Result<(), JournalError> {
        self.1
            .guard(Call::Changes, || self.0.set_aside(unreadable, replacement))
    }
}

pub(crate) struct FusedNode(
    pub(crate) LocalNode,
    pub(crate) Arc<Fuse>,
    pub(crate) Cutting,
    pub(crate) Slices,
);

/// The time slices of the GPUs that are set to another than their own.
pub(crate) type Slices = Arc<Mutex<BTreeMap<GpuUuid, Interval>>>;

impl FusedNode {
    /// GPUs are cut without a thread: a test's clock does not wait for one.
    async fn apply_unguarded(&self, step: &Step, limit: Deadline) -> Result<Done, StepError> {
        let Self(files, _, cutting, slices) = self;
        match step {
            Step::SwitchMigMode { gpu, mode } => cutting.switch(gpu, *mode)?,
            Step::CreateMig(device) => return Ok(Done::Created(cutting.create(device)?)),
            Step::DestroyMig(device) => cutting.destroy(device)?,
            Step::SetTimeSlice { gpu, interval } => {
                slices.lock().unwrap().insert(gpu.clone(), *interval);
            }
            Step::ResetTimeSlice { gpu, .. } => {
                slices.lock().unwrap().remove(gpu);
            }
            Step::WriteCdi { .. } | Step::RemoveCdi { .. } => {
                return files.apply(step, limit).await;
            }
        }
        Ok(Done::AsPlanned)
    }
}

impl Node for FusedNode {
    async fn apply(&self, step: &Step, limit: Deadline) -> Result<Done, StepError> {
        let apply = async || self.apply_unguarded(step, limit).await;
        self.1.guarding(Call::Changes, apply).await
    }
    async fn mig_states(
        &self,
        gpus: BTreeSet<GpuUuid>,
        _: Deadline,
    ) -> Result<Vec<(GpuUuid, MigState)>, StepError> {
        let look = || self.2.states(&gpus).map_err(StepError::from);
        self.1.guard(Call::Looks, look)
    }
    fn own_mig(&self, recorded: BTreeSet<MigUuid>) -> BTreeSet<MigUuid> {
        let mut own = self.2.own.lock().unwrap();
        own.extend(recorded);
        own.clone()
    }
    fn has(&self, effect: &Effect) -> Result<bool, StepError> {
        self.1.guard(Call::Looks, || self.0.has(effect))
    }
    fn spec(&self, file: &str) -> Result<Option<Vec<u8>>, StepError> {
        self.1.guard(Call::Looks, || self.0.spec(file))
    }
    fn spec_files(&self) -> Result<Vec<String>, StepError> {
        self.1.guard(Call::Looks, || self.0.spec_files())
    }
}

pub(crate) type TestClaims = Claims<Arc<Api>, FusedRecords, FusedNode>;

/// A node's files, on which one plugin process runs after the other.
pub(crate) struct Machine {
    root: TempDir,
    pub(crate) api: Arc<Api>,
    pub(crate) notices: Notices,
    inbox: Mutex<Inbox>,
    /// Ends all waits.
    pub(crate) hurry: CancellationToken,
    layouts: MigLayouts,
    /// The GPUs, where they are cut.
    pub(crate) cutting: Cutting,
    pub(crate) slices: Slices,
    hardware: Hardware,
}

impl Machine {
    /// A node whose GPUs are cut when claims need it. What processes know of the GPUs is how they were at
    /// first.
    pub(crate) fn dynamic(gpus: Vec<Gpu>) -> Self {
        Self {
            layouts: MigLayouts::Dynamic,
            cutting: Cutting::of(gpus.clone()),
            hardware: Hardware {
                inventory: Inventory::new(driver("580.95.05"), gpus).unwrap(),
                ..hardware()
            },
            ..Self::new()
        }
    }

    /// A node whose GPUs are as they are, whoever cut them.
    pub(crate) fn having(gpus: Vec<Gpu>) -> Self {
        Self {
            layouts: MigLayouts::Static,
            cutting: Cutting::default(),
            ..Self::dynamic(gpus)
        }
    }

    pub(crate) fn new() -> Self {
        let (notices, inbox) = Notices::open();
        Self {
            root: tempfile::tempdir().unwrap(),
            api: Arc::default(),
            notices,
            inbox: Mutex::new(inbox),
            hurry: CancellationToken::new(),
            layouts: MigLayouts::Static,
            cutting: Cutting::default(),
            slices: Slices::default(),
            hardware: hardware(),
        }
    }

    /// The hardware as a look sees it now.
    pub(crate) fn looked_at_now(&self) -> Hardware {
        Hardware {
            inventory: Inventory::new(driver("580.95.05"), self.cutting.gpus()).unwrap(),
            ..hardware()
        }
    }

    /// The hardware as the first look saw it.
    pub(crate) fn hardware(&self) -> Hardware {
        self.hardware.clone()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn start(&self) -> TestClaims {
        self.start_with(Fuse::default(), "boot")
    }

    pub(crate) fn start_with(&self, fuse: Fuse, boot: &str) -> TestClaims {
        self.start_on(HardwareWatch::fixed(self.hardware.clone()), fuse, boot)
    }

    /// On hardware that a test changes.
    pub(crate) fn start_on(&self, hardware: HardwareWatch, fuse: Fuse, boot: &str) -> TestClaims {
        let fuse = Arc::new(fuse);
        let records = FusedRecords(self.journal(), fuse.clone());
        let node = FusedNode(
            self.local(None),
            fuse,
            self.cutting.clone(),
            self.slices.clone(),
        );
        self.claims(records, node, hardware, boot)
    }

    /// With calls on threads of their own, as the real node makes them.
    pub(crate) fn start_cutting(&self, mig: Mig) -> Claims<Arc<Api>, Journal, LocalNode> {
        let hardware = HardwareWatch::fixed(self.hardware.clone());
        self.claims(self.journal(), self.local(Some(mig)), hardware, "boot")
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.path("claims"), CdiKind::claim()).unwrap()
    }

    fn local(&self, mig: Option<Mig>) -> LocalNode {
        LocalNode {
            cdi: CdiDir::open(&self.path("cdi")).unwrap(),
            mig,
            time_slices: None,
        }
    }

    fn claims<R: Records, N: Node>(
        &self,
        records: R,
        node: N,
        hardware: HardwareWatch,
        boot: &str,
    ) -> Claims<Arc<Api>, R, N> {
        Claims::new(
            Identity {
                driver: "gpu.nvidia.com".to_owned(),
                pool: "node0".to_owned(),
                cdi_kind: CdiKind::claim(),
                mig_layouts: self.layouts,
                unowned_mig: UnownedMig::Destroy,
                boot: BootId(boot.to_owned()),
                sharing: ConsumableShares::Memory,
                features: available(true),
            },
            self.api.clone(),
            records,
            node,
            GpuLocks::open(&self.path("locks")).unwrap(),
            hardware,
            self.waits(),
        )
    }

    fn waits(&self) -> Waits {
        let registry = &mut Registry::default();
        Waits::new(
            registry,
            "gpu.nvidia.com",
            self.notices.clone(),
            self.hurry.clone(),
        )
    }

    /// The reasons of what has been told so far.
    pub(crate) fn told(&self) -> Vec<&'static str> {
        let mut inbox = self.inbox.lock().unwrap();
        std::iter::from_fn(|| inbox.waiting())
            .map(|notice| notice.reason)
            .collect()
    }

    /// Where the record of the claim of this name lies.
    pub(crate) fn record_of(&self, name: &str) -> PathBuf {
        self.path("claims").join(format!("{name}-uid.record"))
    }

    /// Where the CDI spec of the claim of this name lies.
    pub(crate) fn spec_of(&self, name: &str) -> PathBuf {
        let file = cdi::file_name(&CdiKind::claim(), &claim(name).uid);
        self.path("cdi").join(file)
    }

    /// All files of the node with their bytes, but for locks and what is kept of damaged records.
    pub(crate) fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let directories = ["claims", "claims/copies", "cdi"];
        let files = directories.iter().flat_map(|directory| {
            let names = self.files(directory).into_iter();
            names.map(move |name| format!("{directory}/{name}"))
        });
        files
            .map(|file| {
                let bytes = std::fs::read(self.path(&file)).unwrap();
                (file, bytes)
            })
            .collect()
    }

    /// The files of a directory, without its directories.
    pub(crate) fn files(&self, directory: &str) -> Vec<String> {
        list(&self.path(directory))
    }

    /// Invariant I4: a spec exists exactly when the journal says that its claim is prepared. And each
    /// record has its copy.
    #[track_caller]
    pub(crate) fn assert_specs_match_the_journal(&self) {
        let journal = Journal::open(&self.path("claims"), CdiKind::claim()).unwrap();
        let prepared: Vec<String> = journal
            .read_all()
            .unwrap()
            .records
            .iter()
            .filter(|record| record.phase == Phase::Prepared)
            .map(|record| cdi::file_name(&CdiKind::claim(), &record.claim.uid))
            .collect();
        assert_eq!(self.files("cdi"), prepared);
        assert_eq!(self.files("claims"), self.files("claims/copies"));
    }
}

fn list(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap())
        .filter(|file| file.file_type().unwrap().is_file())
        .map(|file| file.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A node with eight GPUs.
pub(crate) fn hardware() -> Hardware {
    Hardware {
        inventory: inventory(0..8),
        install: DriverInstall::default(),
    }
}

/// The same, with this GPU lost.
pub(crate) fn hardware_without(minor: u32) -> Hardware {
    Hardware {
        inventory: inventory_that_lost(minor, 0..8),
        ..hardware()
    }
}
