//! A node's files and an API server, on which one plugin process runs after the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tessera_api::available;
use tessera_device::mig::MigLayouts;
use tessera_device::testing::{driver, inventory, inventory_that_lost};
use tessera_device::{Gpu, Inventory};
use tessera_prepare::cdi::{self, CdiKind, DriverInstall};
use tessera_prepare::record::{BootId, Phase};
use tessera_sharing::ConsumableShares;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::claim;
use super::cutting::Cutting;
use super::fuse::{Fuse, FusedNode, FusedRecords, Slices};
use crate::cdi_dir::CdiDir;
use crate::claims::{Claims, Identity, UnownedMig};
use crate::events::{Inbox, Notices};
use crate::executor::{LocalNode, Node};
use crate::hardware::{Hardware, HardwareWatch};
use crate::journal::{Journal, Records};
use crate::locks::GpuLocks;
use crate::mig::Mig;
use crate::wait::Waits;

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
