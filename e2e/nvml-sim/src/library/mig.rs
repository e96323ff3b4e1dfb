//! GPU instances, compute instances and MIG devices: which of them this process sees, and their handles.

use std::ptr;

use nvml_wrapper_sys::bindings::{nvmlComputeInstance_t, nvmlDevice_t, nvmlGpuInstance_t};
use tessera_hw::{
    Facts, Gpu, Policy,
    kernel::{self, Answer, AskError, Request},
    memory::NewLimits,
    mig::{
        COMPUTE_INSTANCES, Done, GPU_INSTANCES, GpuInstance, Instance, Operation, Profile, Refusal,
        capability,
    },
};

use super::{Device, MAX_GPUS, Session, with_session};
use crate::{fault::Fault, root};

/// As for GPUs, for every GPU instance, every compute instance and every MIG device that a GPU can have.
const MAX_PARTS: usize = GPU_INSTANCES as usize;
static PARTS: [u8; MAX_GPUS * MAX_PARTS] = [0; MAX_GPUS * MAX_PARTS];
const MAX_MIG: usize = MAX_PARTS * COMPUTE_INSTANCES as usize;
static MIG_DEVICES: [u8; MAX_GPUS * MAX_MIG] = [0; MAX_GPUS * MAX_MIG];
static COMPUTE: [u8; MAX_GPUS * MAX_MIG] = [0; MAX_GPUS * MAX_MIG];

/// One GPU instance that this process sees.
pub(crate) struct Part<'a> {
    pub(crate) handle: nvmlGpuInstance_t,
    pub(crate) instance: GpuInstance,
    pub(crate) profile: &'a Profile,
}

/// One MIG device that this process sees.
pub(crate) struct MigDevice<'a> {
    pub(crate) handle: nvmlDevice_t,
    /// That of its compute instance.
    pub(crate) compute: nvmlComputeInstance_t,
    /// That of its GPU instance.
    pub(crate) part: nvmlGpuInstance_t,
    pub(crate) instance: &'a Instance,
    pub(crate) profile: &'a Profile,
}

/// Runs `body` on the GPU and the GPU instance behind a handle.
pub(crate) fn with_part<T>(
    handle: nvmlGpuInstance_t,
    body: impl FnOnce(&Session, Device<'_>, Part<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_session(|session| {
        let mut parts = session.devices().flat_map(|parent| {
            let parts = session.parts(&parent).into_iter();
            parts.map(move |part| (parent, part))
        });
        let (parent, part) = parts
            .find(|(_, part)| part.handle == handle)
            .ok_or(Fault::InvalidArgument)?;
        body(session, parent.present()?, part)
    })
}

/// Runs `body` on the GPU and the MIG device behind the handle of a compute instance.
pub(crate) fn with_compute<T>(
    handle: nvmlComputeInstance_t,
    body: impl FnOnce(Device<'_>, MigDevice<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_session(|session| {
        let (parent, mig) = session
            .all_mig_devices()
            .find(|(_, mig)| mig.compute == handle)
            .ok_or(Fault::InvalidArgument)?;
        body(parent.present()?, mig)
    })
}

/// Lets the driver do something to the GPU with this UUID. Holds no lock meanwhile.
pub(crate) fn operate(gpu: String, operation: Operation) -> Result<Done, Fault> {
    match ask(&Request::Operate { gpu, operation })? {
        Answer::Done(done) => Ok(done),
        Answer::Refused(refusal) => Err(refused(refusal)),
        Answer::Set | Answer::Due(_) | Answer::Failed(_) => Err(Fault::Unknown),
    }
}

/// Lets the driver set something of the GPU with this UUID. Holds no lock meanwhile.
pub(crate) fn set_policy(gpu: String, policy: Policy) -> Result<(), Fault> {
    match ask(&Request::Set { gpu, policy })? {
        Answer::Set => Ok(()),
        Answer::Refused(refusal) => Err(refused(refusal)),
        Answer::Done(_) | Answer::Due(_) | Answer::Failed(_) => Err(Fault::Unknown),
    }
}

/// Lets the driver limit the memory of a cgroup on the GPU with this UUID. Holds no lock meanwhile.
pub(crate) fn set_memory_limits(gpu: String, limits: NewLimits) -> Result<(), Fault> {
    match ask(&Request::Limit { gpu, limits })? {
        Answer::Set => Ok(()),
        Answer::Refused(refusal) => Err(refused(refusal)),
        Answer::Done(_) | Answer::Due(_) | Answer::Failed(_) => Err(Fault::Unknown),
    }
}

fn ask(request: &Request) -> Result<Answer, Fault> {
    // The capability `mig/config` is root's alone (MIG user guide), and `nvml.h` asks for root where a
    // GPU is set.
    if !rustix::process::geteuid().is_root() {
        return Err(Fault::NoPermission);
    }
    let root = with_session(|session| Ok(session.root.clone()))?;
    kernel::perform(&root, request).map_err(|error| match error {
        // A container that was given a GPU may not change it.
        AskError::Nobody { .. } => Fault::NoPermission,
        _ => Fault::Unknown,
    })
}

fn refused(refusal: Refusal) -> Fault {
    match refusal {
        Refusal::NotSupported => Fault::NotSupported,
        Refusal::InvalidArgument => Fault::InvalidArgument,
        Refusal::NoPermission => Fault::NoPermission,
        Refusal::InsufficientResources => Fault::InsufficientResources,
        Refusal::InUse => Fault::InUse,
        Refusal::GpuIsLost => Fault::GpuIsLost,
    }
}

impl Session {
    /// Whether the capability of a GPU instance, or of a compute instance in it, has its node here.
    fn may_use(&self, facts: &Facts, part: u32, compute: Option<u32>) -> bool {
        let minor = capability(facts.minor, part, compute);
        root::has_device(&self.root, &format!("nvidia-caps/nvidia-cap{minor}"))
    }

    /// The GPU instances of a GPU that this process may use, in the order of their places.
    pub(crate) fn parts<'a>(&'a self, parent: &Device<'a>) -> Vec<Part<'a>> {
        let Gpu {
            facts, condition, ..
        } = parent.gpu;
        let Some(table) = facts.mig_table().filter(|_| condition.mig.enabled) else {
            return Vec::new();
        };
        let parts = condition.mig.parts().into_iter();
        let mine = parts.filter(|part| self.may_use(facts, part.number, None));
        mine.filter_map(|part| {
            Some(Part {
                handle: part_handle(parent, part.number)?,
                instance: part,
                profile: table.profile(part.profile)?,
            })
        })
        .collect()
    }

    /// The MIG devices of a GPU that this process may use, in the order of their indices: those whose
    /// capabilities have their nodes here.
    pub(crate) fn mig_devices<'a>(&'a self, parent: &Device<'a>) -> Vec<MigDevice<'a>> {
        let Gpu {
            facts, condition, ..
        } = parent.gpu;
        let Some(table) = facts.mig_table().filter(|_| condition.mig.enabled) else {
            return Vec::new();
        };
        let mine = condition.mig.instances.iter().filter(|instance| {
            let (gi, ci) = (instance.gpu_instance, instance.compute_instance);
            self.may_use(facts, gi, None) && self.may_use(facts, gi, Some(ci))
        });
        mine.filter_map(|instance| {
            let (gi, ci) = (instance.gpu_instance, instance.compute_instance);
            let at = compute_at(parent, gi, ci);
            Some(MigDevice {
                handle: ptr::from_ref(MIG_DEVICES.get(at)?).cast_mut().cast(),
                compute: compute_handle(parent, gi, ci)?,
                part: part_handle(parent, gi)?,
                instance,
                profile: table.profile(instance.profile)?,
            })
        })
        .collect()
    }

    /// All MIG devices that this process may use, each with its GPU.
    pub(crate) fn all_mig_devices(&self) -> impl Iterator<Item = (Device<'_>, MigDevice<'_>)> {
        self.devices().flat_map(move |parent| {
            let devices = self.mig_devices(&parent).into_iter();
            devices.map(move |mig| (parent, mig))
        })
    }
}

/// The handle of the GPU instance with this number.
pub(crate) fn part_handle(parent: &Device<'_>, number: u32) -> Option<nvmlGpuInstance_t> {
    let at = parent.at * MAX_PARTS + number as usize;
    Some(ptr::from_ref(PARTS.get(at)?).cast_mut().cast())
}

/// The handle of the compute instance with this number in that GPU instance.
pub(crate) fn compute_handle(
    parent: &Device<'_>,
    part: u32,
    number: u32,
) -> Option<nvmlComputeInstance_t> {
    let at = compute_at(parent, part, number);
    Some(ptr::from_ref(COMPUTE.get(at)?).cast_mut().cast())
}

fn compute_at(parent: &Device<'_>, part: u32, number: u32) -> usize {
    let part = parent.at * MAX_PARTS + part as usize;
    part * COMPUTE_INSTANCES as usize + number as usize
}
