//! A node whose GPUs do what NVIDIA's documents say, and on which claims are prepared as the plugin does it.
//!
//! What GPUs can be cut into is written here anew, from the MIG user guide, for what is possible must not be what the product
//! takes for possible.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaim};
use serde_json::json;
use tessera_claim::{ClaimRef, allocation};
use tessera_device::mig::{
    DeviceNumber, MigAccess, MigInstance, MigLayouts, MigMode, MigOption, MigState,
};
use tessera_device::testing::{driver, gpu, h100_profiles};
use tessera_device::{Architecture, Bytes, Gpu, GpuUuid, Inventory};
use tessera_prepare::cdi::{CdiKind, DriverInstall};
use tessera_prepare::ledger::{GpuGuard, Ledger};
use tessera_prepare::making::make;
use tessera_prepare::plan::plan;
use tessera_prepare::record::{BootId, Phase, Record, View};
use tessera_prepare::resolve::resolve;
use tessera_prepare::share::Share;
use tessera_prepare::step::{MigDevice, Step, undo_all};
use tessera_sharing::ConsumableShares;

use super::{DRIVER, POOL, Wish};

/// Which GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An H100, whose MIG mode changes at once.
    AtOnce,
    /// A GPU that is cut as an H100 is and whose MIG mode changes with a reset only. It is in this one.
    WithReset(MigMode),
    /// An H200: as an H100, with more memory.
    H200,
}

impl Kind {
    /// How much memory it has, in bytes (`nvidia-smi -q`: 81559 MiB and 143771 MiB).
    pub(crate) fn memory(self) -> u64 {
        let mib = match self {
            Self::AtOnce | Self::WithReset(_) => 81559,
            Self::H200 => 143_771,
        };
        mib << 20
    }

    fn gpu(self, minor: u32) -> Gpu {
        let (mode, architecture) = match self {
            Self::AtOnce | Self::H200 => (MigMode::Off, Architecture::Hopper),
            Self::WithReset(mode) => (mode, Architecture::Ampere),
        };
        let mut mig = MigState::empty(mode);
        mig.profiles = h100_profiles();
        Gpu {
            architecture,
            memory: Bytes(self.memory()),
            mig: Some(mig),
            ..gpu(minor)
        }
    }

    fn can_be(self, mode: MigMode) -> bool {
        match self {
            Self::AtOnce | Self::H200 => true,
            Self::WithReset(fixed) => fixed == mode,
        }
    }
}

/// A size of MIG devices.
pub(crate) struct Size {
    pub(crate) profile: &'static str,
    /// Memory slices, of eight.
    memory: u16,
    /// Slices of multiprocessors, of seven.
    compute: u16,
    /// First memory slices at which it can lie.
    starts: &'static [u16],
    /// Whether it has the engines that a GPU has once.
    has_extras: bool,
}

/// Those of an H100 with 80 GB: MIG user guide, "Supported MIG Profiles" and "H100 MIG Profiles".
pub(crate) const SIZES: [Size; 7] = [
    size("1g.10gb", 1, 1, &[0, 1, 2, 3, 4, 5, 6], false),
    size("1g.10gb+me", 1, 1, &[0, 1, 2, 3, 4, 5, 6], true),
    size("1g.20gb", 2, 1, &[0, 2, 4, 6], false),
    size("2g.20gb", 2, 2, &[0, 2, 4], false),
    size("3g.40gb", 4, 3, &[0, 4], false),
    size("4g.40gb", 4, 4, &[0], false),
    size("7g.80gb", 8, 7, &[0], true),
];

const fn size(
    profile: &'static str,
    memory: u16,
    compute: u16,
    starts: &'static [u16],
    has_extras: bool,
) -> Size {
    Size {
        profile,
        memory,
        compute,
        starts,
        has_extras,
    }
}

fn size_of(profile: &str) -> &'static Size {
    SIZES.iter().find(|size| size.profile == profile).unwrap()
}

/// What lies on a GPU.
#[derive(Clone, Copy)]
struct Lying {
    size: &'static Size,
    start: u16,
}

impl Lying {
    fn of(instance: &MigInstance) -> Self {
        Self {
            size: size_of(&instance.profile.to_string()),
            start: instance.placement.start.into(),
        }
    }

    fn overlaps(self, other: Self) -> bool {
        let end = |lying: Self| lying.start + lying.size.memory;
        self.start < end(other) && other.start < end(self)
    }

    /// Whether it can lie beside these.
    fn fits(self, others: &[Self]) -> bool {
        let all = || others.iter().chain([&self]);
        self.size.starts.contains(&self.start)
            && !others.iter().any(|other| self.overlaps(*other))
            && all().map(|lying| lying.size.compute).sum::<u16>() <= 7
            && all().filter(|lying| lying.size.has_extras).count() <= 1
    }
}

/// What claims have of one GPU.
#[derive(Default)]
struct Held {
    /// How many have all of it.
    whole: usize,
    /// In bytes.
    shares: Vec<u64>,
    /// First memory slice and number of slices, and which instance.
    parts: Vec<(u16, u16, String)>,
}

struct AllLocked;

impl GpuGuard for AllLocked {
    fn covers(&self, _: &GpuUuid) -> bool {
        true
    }
}

/// A node with its GPUs and the records of its claims.
#[derive(Debug)]
pub(crate) struct Machine {
    kinds: Vec<Kind>,
    gpus: Vec<Gpu>,
    records: BTreeMap<String, Record>,
    created: u64,
}

impl Machine {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self {
            kinds: kinds.to_vec(),
            gpus: kinds
                .iter()
                .zip(0..)
                .map(|(kind, minor)| kind.gpu(minor))
                .collect(),
            records: BTreeMap::new(),
            created: 0,
        }
    }

    pub(crate) fn inventory(&self) -> Inventory {
        Inventory::new(driver("580.95.05"), self.gpus.clone()).unwrap()
    }

    /// Prepares a claim. Nothing that the scheduler gives away may be refused.
    pub(crate) fn prepare(&mut self, name: &str, results: &[DeviceRequestAllocationResult]) {
        let (reference, claim) = claim(name, results);
        let allocation = allocation(&claim, &reference, DRIVER, &[]).unwrap();
        let (kind, boot) = (CdiKind::claim(), BootId("boot".to_owned()));
        let mut made = Vec::new();
        // Once to see what is to be made, and once to have it.
        for _ in 0..2 {
            let inventory = self.inventory();
            let devices = resolve(&allocation, POOL, &inventory, MigLayouts::Dynamic).unwrap();
            let ledger = Ledger::under(&AllLocked, self.records.values(), Vec::new());
            let ledger = ledger.sharing(ConsumableShares::Memory);
            let admitted = ledger.admit(&allocation.claim, devices).unwrap();
            let Some(making) = make(&admitted, &kind, &boot).unwrap() else {
                let plan = plan(&admitted, &kind, &DriverInstall::default(), &boot);
                let mut record = plan.after_making(made.iter()).record;
                record.phase = Phase::Prepared;
                self.records.insert(name.to_owned(), record);
                return;
            };
            for step in making.steps {
                made.extend(self.apply(&step));
            }
        }
        panic!("what was made for {name} is not there: {self:#?}");
    }

    pub(crate) fn unprepare(&mut self, name: &str) {
        let record = self.records.remove(name).unwrap();
        for step in undo_all(&record.effects) {
            self.apply(&step);
        }
    }

    /// Does what the step says, if a driver would.
    fn apply(&mut self, step: &Step) -> Option<MigDevice> {
        match step {
            Step::SwitchMigMode { gpu, mode } => {
                let at = self.at(gpu);
                assert!(self.kinds[at].can_be(*mode), "{gpu} needs a reset");
                let mig = self.mig(at);
                assert!(mig.instances.is_empty(), "something lies on {gpu}");
                mig.mode = *mode;
                mig.pending = *mode;
                None
            }
            Step::CreateMig(device) => Some(self.create(device)),
            Step::DestroyMig(device) => {
                let at = self.at(&device.gpu);
                let instances = &mut self.mig(at).instances;
                let before = instances.len();
                instances.retain(|instance| !device.is(instance));
                assert_eq!(
                    instances.len() + 1,
                    before,
                    "{device} is destroyed, and nothing else"
                );
                None
            }
            Step::WriteCdi { .. }
            | Step::RemoveCdi { .. }
            | Step::SetTimeSlice { .. }
            | Step::ResetTimeSlice { .. } => None,
        }
    }

    fn create(&mut self, device: &MigDevice) -> MigDevice {
        self.created += 1;
        let number = self.created;
        let at = self.at(&device.gpu);
        let mig = self.mig(at);
        assert_eq!(mig.mode, MigMode::On, "{device}");
        let others: Vec<Lying> = mig.instances.iter().map(Lying::of).collect();
        let lying = Lying {
            size: size_of(&device.profile.to_string()),
            start: device.placement.start.into(),
        };
        assert!(lying.fits(&others), "{device} has no room");
        let option = |option: &&MigOption| option.profile_id == device.profile_id;
        let option = mig.profiles.iter().find(option).unwrap();
        let is_free = |number: &u8| {
            mig.instances
                .iter()
                .all(|other| other.gpu_instance != *number)
        };
        let capability = |minor| DeviceNumber { major: 511, minor };
        let instance = MigInstance {
            gpu_instance: (0..15).find(is_free).unwrap(),
            compute_instance: 0,
            uuid: format!("MIG-00000000-0000-0000-0000-{number:012x}")
                .parse()
                .unwrap(),
            profile: device.profile,
            profile_id: device.profile_id,
            placement: device.placement,
            memory: option.memory,
            multiprocessors: option.multiprocessors,
            engines: option.engines,
            access: MigAccess {
                gpu_instance: capability(1),
                compute_instance: capability(2),
            },
        };
        mig.instances.push(instance.clone());
        mig.instances.sort_by_key(|instance| instance.placement);
        MigDevice::found(&device.gpu, &instance)
    }

    fn at(&self, uuid: &GpuUuid) -> usize {
        self.gpus.iter().position(|gpu| gpu.uuid == *uuid).unwrap()
    }

    fn mig(&mut self, at: usize) -> &mut MigState {
        self.gpus[at].mig.as_mut().unwrap()
    }

    fn held(&self, at: usize) -> Held {
        let devices = self.records.values().flat_map(|record| &record.devices);
        let mut held = Held::default();
        for device in devices.filter(|device| device.gpu == self.gpus[at].uuid) {
            match device.view {
                View::Whole => held.whole += 1,
                View::Part(part) => {
                    let place = part.placement;
                    let instance = device.instance.as_ref().unwrap().to_string();
                    held.parts
                        .push((place.start.into(), place.size.into(), instance));
                }
                View::Share(Share { of: None, amounts }) => held.shares.push(amounts.memory.0),
                View::Share(Share { of: Some(_), .. }) => panic!("MIG devices are not shared here"),
                View::Admin => {}
            }
        }
        held
    }

    /// Fails if two claims have the same of a GPU, or if GPUs are not as claims have them.
    pub(crate) fn assert_nothing_overlaps(&self) {
        for at in 0..self.gpus.len() {
            let held = self.held(at);
            let Held {
                whole,
                shares,
                parts,
            } = &held;
            let kinds = usize::from(*whole > 0) + usize::from(!shares.is_empty());
            let kinds = kinds + usize::from(!parts.is_empty());
            assert!(
                kinds <= 1 && *whole <= 1,
                "GPU {at} is had in several ways: {self:#?}"
            );
            assert!(
                shares.iter().sum::<u64>() <= self.kinds[at].memory(),
                "{self:#?}"
            );
            let mut slices: Vec<u16> = parts
                .iter()
                .flat_map(|(start, size, _)| *start..*start + *size)
                .collect();
            slices.sort_unstable();
            assert!(
                slices.windows(2).all(|pair| pair[0] != pair[1]),
                "{self:#?}"
            );

            let mig = self.gpus[at].mig.as_ref().unwrap();
            let mut there: Vec<_> = mig
                .instances
                .iter()
                .map(|one| one.uuid.to_string())
                .collect();
            let mut had: Vec<_> = parts
                .iter()
                .map(|(_, _, instance)| instance.clone())
                .collect();
            there.sort();
            had.sort();
            assert_eq!(there, had, "{self:#?}");
            let wanted = match held {
                Held { whole: 1.., .. } => Some(MigMode::Off),
                Held { shares, .. } if !shares.is_empty() => Some(MigMode::Off),
                Held { parts, .. } if !parts.is_empty() => Some(MigMode::On),
                Held { .. } => None,
            };
            assert!(wanted.is_none_or(|mode| mode == mig.mode), "{self:#?}");
        }
    }

    /// Fails if anything is left of claims.
    pub(crate) fn assert_empty(&self) {
        assert!(self.records.is_empty(), "{self:#?}");
        let mut migs = self.gpus.iter().flat_map(|gpu| &gpu.mig);
        assert!(migs.all(|mig| mig.instances.is_empty()), "{self:#?}");
    }

    /// How many GPUs somebody has something of.
    pub(crate) fn gpus_in_use(&self) -> usize {
        let is_in_use = |at: &usize| {
            let Held {
                whole,
                shares,
                parts,
            } = self.held(*at);
            whole > 0 || !shares.is_empty() || !parts.is_empty()
        };
        (0..self.gpus.len()).filter(is_in_use).count()
    }

    /// Whether the GPUs have room for what is wished, whatever is offered.
    pub(crate) fn has_room(&self, wish: &Wish) -> bool {
        match wish {
            Wish::Whole(count) => {
                let free = (0..self.gpus.len())
                    .filter(|at| self.has_memory(*at, self.kinds[*at].memory()));
                free.count() >= *count
            }
            Wish::Part(profile) => {
                (0..self.gpus.len()).any(|at| self.has_place(at, size_of(profile)))
            }
            Wish::Share(gib) => (0..self.gpus.len()).any(|at| self.has_memory(at, gib << 30)),
            // The scheduler of 1.36 compares what it asks for with what is free, and does not count it (Kubernetes #140729).
            Wish::Admin => (0..self.gpus.len()).any(|at| self.has_memory(at, 1 << 20)),
            Wish::Either(all) => all.iter().any(|wish| self.has_room(wish)),
        }
    }

    fn has_memory(&self, at: usize, bytes: u64) -> bool {
        let held = self.held(at);
        self.kinds[at].can_be(MigMode::Off)
            && held.whole == 0
            && held.parts.is_empty()
            && held.shares.iter().sum::<u64>() + bytes <= self.kinds[at].memory()
    }

    fn has_place(&self, at: usize, size: &'static Size) -> bool {
        let held = self.held(at);
        let mig = self.gpus[at].mig.as_ref().unwrap();
        let others: Vec<Lying> = mig.instances.iter().map(Lying::of).collect();
        let mut starts = size.starts.iter();
        self.kinds[at].can_be(MigMode::On)
            && held.whole == 0
            && held.shares.is_empty()
            && starts.any(|start| {
                Lying {
                    size,
                    start: *start,
                }
                .fits(&others)
            })
    }
}

/// A claim of this name with this allocation.
fn claim(name: &str, results: &[DeviceRequestAllocationResult]) -> (ClaimRef, ResourceClaim) {
    let (namespace, uid) = ("default", format!("{name}-uid"));
    let claim = json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": { "namespace": namespace, "name": name, "uid": uid },
        "spec": {},
        "status": { "allocation": { "devices": { "results": results } } },
    });
    let reference = ClaimRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.parse().unwrap(),
    };
    (reference, serde_json::from_value(claim).unwrap())
}
