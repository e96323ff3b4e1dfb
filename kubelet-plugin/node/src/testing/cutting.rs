//! GPUs that are cut and put together again, as one process after the other finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tessera_device::mig::{
    Choices, DeviceNumber, MigAccess, MigInstance, MigMode, MigState, UnfinishedInstance,
};
use tessera_device::testing::{gpu, h100_profiles};
use tessera_device::{Gpu, GpuUuid};
use tessera_prepare::step::MigDevice;

use crate::mig::{MigError, MigOperations, OwnMig};

/// An H100 in this mode that tells its profiles.
pub(crate) fn h100(minor: u32, mode: MigMode) -> Gpu {
    let mut mig = MigState::empty(mode);
    mig.profiles = h100_profiles();
    Gpu {
        mig: Some(mig),
        ..gpu(minor)
    }
}

/// The GPUs. An instance has a UUID that says where it is, so that two lives can be compared.
#[derive(Clone, Default)]
pub(crate) struct Cutting {
    gpus: Arc<Mutex<BTreeMap<GpuUuid, Gpu>>>,
    /// GPUs of which somebody holds every instance open.
    pub(crate) busy: Arc<Mutex<BTreeSet<GpuUuid>>>,
    /// What was recorded or destroyed, by whichever process.
    pub(crate) own: Arc<Mutex<OwnMig>>,
}

impl Cutting {
    pub(crate) fn of(gpus: impl IntoIterator<Item = Gpu>) -> Self {
        let gpus = gpus.into_iter().map(|gpu| (gpu.uuid.clone(), gpu));
        Self {
            gpus: Arc::new(Mutex::new(gpus.collect())),
            busy: Arc::default(),
            own: Arc::default(),
        }
    }

    /// The GPUs as they are now, in order of their UUIDs.
    pub(crate) fn gpus(&self) -> Vec<Gpu> {
        self.gpus.lock().unwrap().values().cloned().collect()
    }

    /// Names of all instances that there are, half made ones included.
    pub(crate) fn instances(&self) -> Vec<String> {
        let mut names = Vec::new();
        for gpu in self.gpus() {
            let Some(mig) = &gpu.mig else { continue };
            let whole = mig.instances.iter();
            names.extend(whole.map(|instance| instance.device_name(gpu.minor).to_string()));
            let bare = mig.unfinished.iter();
            names.extend(bare.map(|bare| format!("{}-bare-{}", gpu.minor, bare.placement)));
        }
        names
    }

    /// Somebody else changes a GPU.
    pub(crate) fn change<T>(&self, gpu: &GpuUuid, change: impl FnOnce(&mut MigState) -> T) -> T {
        let mut gpus = self.gpus.lock().unwrap();
        change(gpus.get_mut(gpu).unwrap().mig.as_mut().unwrap())
    }

    fn refuse_busy(&self, gpu: &GpuUuid) -> Result<(), MigError> {
        if self.busy.lock().unwrap().contains(gpu) {
            return Err(MigError::Refused(tessera_nvml::MigError {
                gpu: gpu.clone(),
                call: "nvmlGpuInstanceDestroy",
                reason: tessera_nvml::MigErrorReason::InUse,
                fault: None,
            }));
        }
        Ok(())
    }
}

/// The instance that is made there.
pub(crate) fn instance_of(gpu: &Gpu, device: &MigDevice) -> MigInstance {
    let choices = Choices::of(gpu, |_, _| true).unwrap();
    let slots = choices.slots.iter();
    let slot = slots
        .filter(|slot| slot.option.profile_id == device.profile_id)
        .find(|slot| slot.placement == device.placement)
        .unwrap();
    let start = device.placement.start;
    let (place, profile) = (u32::from(start), u32::from(device.profile_id));
    let capability = |offset| DeviceNumber {
        major: 511,
        minor: 1000 * gpu.minor + 10 * place + offset,
    };
    MigInstance {
        gpu_instance: start,
        compute_instance: 0,
        uuid: format!("MIG-{:08x}-0000-0000-{profile:04x}-{place:012x}", gpu.minor)
            .parse()
            .unwrap(),
        profile: device.profile,
        profile_id: device.profile_id,
        placement: device.placement,
        memory: slot.option.memory,
        multiprocessors: slot.option.multiprocessors,
        engines: slot.option.engines,
        access: MigAccess {
            gpu_instance: capability(0),
            compute_instance: capability(1),
        },
    }
}

impl MigOperations for Cutting {
    fn states(&self, gpus: &BTreeSet<GpuUuid>) -> Result<Vec<(GpuUuid, MigState)>, MigError> {
        let all = self.gpus().into_iter();
        let wanted = all.filter(|gpu| gpus.contains(&gpu.uuid));
        Ok(wanted
            .filter_map(|gpu| Some((gpu.uuid, gpu.mig?)))
            .collect())
    }

    fn switch(&self, gpu: &GpuUuid, mode: MigMode) -> Result<(), MigError> {
        self.refuse_busy(gpu)?;
        self.change(gpu, |mig| {
            let empty = mig.instances.is_empty() && mig.unfinished.is_empty();
            assert!(empty, "the mode is switched under an instance");
            mig.mode = mode;
            mig.pending = mode;
        });
        Ok(())
    }

    fn create(&self, device: &MigDevice) -> Result<MigInstance, MigError> {
        let gpus = self.gpus();
        let gpu = gpus.iter().find(|gpu| gpu.uuid == device.gpu).unwrap();
        let made = instance_of(gpu, device);
        self.change(&device.gpu, |mig| {
            assert_eq!(mig.mode, MigMode::On, "an instance is made in no MIG mode");
            let mut others = mig.instances.iter();
            assert!(
                others.all(|other| !other.placement.overlaps(device.placement)),
                "{device} is made where another lies: {mig}"
            );
            mig.instances.push(made.clone());
            mig.instances.sort_by_key(|instance| instance.placement);
        });
        Ok(made)
    }

    fn destroy(&self, device: &MigDevice) -> Result<(), MigError> {
        self.refuse_busy(&device.gpu)?;
        self.own.lock().unwrap().add(device);
        self.change(&device.gpu, |mig| {
            mig.instances.retain(|instance| !device.is(instance));
            let is_rest = |bare: &UnfinishedInstance| bare.placement == device.placement;
            mig.unfinished.retain(|bare| !is_rest(bare));
        });
        Ok(())
    }
}
