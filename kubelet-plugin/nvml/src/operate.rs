//! Changes a GPU's MIG side: its mode, and its instances.
//!
//! One operation at a time for each GPU is the caller's business, and so is the permission: NVML takes
//! these calls from root alone. What an operation has begun and cannot end it takes back; where that
//! fails too, what is left is seen by the next look ([`MigState::unfinished`]).
//!
//! [`MigState::unfinished`]: tessera_device::mig::MigState::unfinished

mod error;

use std::rc::Rc;

use nvml_wrapper::Device;
use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED as RESET_REQUIRED,
    nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
};
use tessera_device::mig::{MigInstance, MigMode, MigProfile, MigState, Placement};
use tessera_device::{Bytes, GpuUuid, MigUuid};

pub use self::error::{MigError, MigErrorReason};
use crate::error::{Fault, QueryError};
use crate::facts::asking;
use crate::mig::{self, Parent};
use crate::raw::{self, Compute, Part};
use crate::{KernelFiles, Nvml};

/// What became of a switch of the MIG mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigSwitch {
    /// The GPU is in the mode.
    Done,
    /// It will be after its next reset.
    AfterReset,
}

/// What became of something that was to be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// It is gone.
    Now,
    /// It was not there. Something else may be under its number, which was left alone.
    Absent,
    /// It was not there. Under the number of its GPU instance is one at this place that has no compute
    /// instance, and was left alone: what is left of it, if it was made there
    /// ([`Nvml::destroy_gpu_instance`]).
    Bare(Placement),
}

impl Nvml {
    /// The MIG side of one GPU, or nothing if it has none.
    pub fn mig_state(
        &self,
        gpu: &GpuUuid,
        kernel: &KernelFiles,
    ) -> Result<Option<MigState>, MigError> {
        let gpu = Target::find(&self.library, gpu)?;
        let parent = gpu.parent(kernel)?;
        let profiles = || Rc::new(parent.profiles());
        mig::state(&parent, profiles).map_err(|error| gpu.failed(error))
    }

    /// Switches the MIG mode (`nvmlDeviceSetMigMode`). A GPU that is in the mode stays as it is.
    ///
    /// Where the GPU is in use, the driver takes the wish and lets it wait for a reset; it is taken back
    /// then, so that no mode comes at a time that nobody chose.
    pub fn set_mig_mode(&self, gpu: &GpuUuid, mode: MigMode) -> Result<MigSwitch, MigError> {
        Target::find(&self.library, gpu)?.set_mode(mode)
    }

    /// Makes a GPU instance of this profile at this place and a compute instance that has all of it, and
    /// says what came of it. Nothing is left of it where an error is returned, or a bare GPU instance at
    /// worst.
    pub fn create_mig_device(
        &self,
        gpu: &GpuUuid,
        profile: MigProfile,
        profile_id: u16,
        placement: Placement,
        kernel: &KernelFiles,
    ) -> Result<MigInstance, MigError> {
        let gpu = Target::find(&self.library, gpu)?;
        if gpu.mode()? == MigMode::Off {
            return Err(gpu.refused("nvmlDeviceGetMigMode", MigErrorReason::ModeOff));
        }
        gpu.create(profile, profile_id, placement, kernel)
    }

    /// Destroys the MIG device with these numbers, if it still has this UUID, and its GPU instance.
    pub fn destroy_mig_device(
        &self,
        gpu: &GpuUuid,
        gpu_instance: u8,
        compute_instance: u8,
        uuid: &MigUuid,
    ) -> Result<Destroyed, MigError> {
        let gpu = Target::find(&self.library, gpu)?;
        let Some(part) = gpu.part(gpu_instance)? else {
            return Ok(Destroyed::Absent);
        };
        match gpu.compute(part, compute_instance)? {
            None if gpu.is_bare(part)? => Ok(Destroyed::Bare(gpu.placement(part)?)),
            None => Ok(Destroyed::Absent),
            Some(compute) if gpu.uuid_of(part, compute)? != *uuid => Ok(Destroyed::Absent),
            Some(compute) => gpu.destroy(part, Some(compute)),
        }
    }

    /// Destroys the GPU instance with this number, if it is at this place and has no compute instance.
    pub fn destroy_gpu_instance(
        &self,
        gpu: &GpuUuid,
        gpu_instance: u8,
        placement: Placement,
    ) -> Result<Destroyed, MigError> {
        let gpu = Target::find(&self.library, gpu)?;
        match gpu.part(gpu_instance)? {
            Some(part) if gpu.placement(part)? == placement && gpu.is_bare(part)? => {
                gpu.destroy(part, None)
            }
            Some(_) | None => Ok(Destroyed::Absent),
        }
    }
}

/// The GPU that an operation is about.
struct Target<'n> {
    nvml: &'n nvml_wrapper::Nvml,
    uuid: &'n GpuUuid,
    device: Device<'n>,
}

impl<'n> Target<'n> {
    fn find(nvml: &'n nvml_wrapper::Nvml, uuid: &'n GpuUuid) -> Result<Self, MigError> {
        let device = nvml.device_by_uuid(uuid.as_str()).map_err(|code| {
            let is_unknown = matches!(code, Code::NotFound);
            let fault = Fault::from(code);
            MigError {
                gpu: uuid.clone(),
                call: "nvmlDeviceGetHandleByUUID",
                reason: if is_unknown {
                    MigErrorReason::NoSuchGpu
                } else {
                    MigErrorReason::of(&fault)
                },
                fault: Some(fault),
            }
        })?;
        Ok(Self { nvml, uuid, device })
    }

    fn failed(&self, error: QueryError) -> MigError {
        MigError {
            gpu: self.uuid.clone(),
            call: error.call,
            reason: MigErrorReason::of(&error.fault),
            fault: Some(error.fault),
        }
    }

    fn refused(&self, call: &'static str, reason: MigErrorReason) -> MigError {
        MigError {
            gpu: self.uuid.clone(),
            call,
            reason,
            fault: None,
        }
    }

    fn asking<T, E: Into<Fault>>(
        &self,
        call: &'static str,
        answer: Result<T, E>,
    ) -> Result<T, MigError> {
        asking(call, answer).map_err(|error| self.failed(error))
    }

    fn parent<'a>(&'a self, kernel: &'a KernelFiles) -> Result<Parent<'a>, MigError> {
        let minor = self.asking("nvmlDeviceGetMinorNumber", self.device.minor_number())?;
        let memory = self.asking("nvmlDeviceGetMemoryInfo_v2", self.device.memory_info())?;
        Ok(Parent {
            nvml: self.nvml,
            gpu: &self.device,
            minor,
            memory: Bytes(memory.total),
            proc: &kernel.proc,
        })
    }

    fn modes(&self) -> Result<(MigMode, MigMode), MigError> {
        let call = "nvmlDeviceGetMigMode";
        let modes = self.asking(call, self.device.mig_mode())?;
        let mode = |number| self.asking(call, mig::mode_of(number));
        Ok((mode(modes.current)?, mode(modes.pending)?))
    }

    fn mode(&self) -> Result<MigMode, MigError> {
        Ok(self.modes()?.0)
    }

    fn set_mode(&self, mode: MigMode) -> Result<MigSwitch, MigError> {
        let call = "nvmlDeviceSetMigMode";
        let (former, pending) = self.modes()?;
        if (former, pending) == (mode, mode) {
            return Ok(MigSwitch::Done);
        }
        let set = |mode| self.device.set_mig_mode(mode == MigMode::On);
        match self.asking(call, set(mode))? {
            SUCCESS if self.mode()? == mode => Ok(MigSwitch::Done),
            SUCCESS | RESET_REQUIRED => Ok(MigSwitch::AfterReset),
            code => {
                if let Err(error) = set(former) {
                    tracing::warn!(gpu = %self.uuid, %error, "the GPU's MIG mode waits for a reset");
                }
                self.asking(call, Err(Code::from(code)))
            }
        }
    }

    fn create(
        &self,
        profile: MigProfile,
        profile_id: u16,
        placement: Placement,
        kernel: &KernelFiles,
    ) -> Result<MigInstance, MigError> {
        let library = self.nvml.lib();
        let place = (placement.start.into(), placement.size.into());
        let made = raw::create_gpu_instance(library, &self.device, profile_id.into(), place);
        let part = self.asking("nvmlDeviceCreateGpuInstanceWithPlacement", made)?;
        let mut compute = None;
        let whole = self.fill(part, profile).and_then(|made| {
            compute = Some(made);
            self.describe(part, made, kernel)
        });
        whole.inspect_err(|_| {
            if let Err(error) = self.destroy(part, compute) {
                tracing::warn!(%error, "what was made of a MIG device stays");
            }
        })
    }

    /// Makes the compute instance that has all of a GPU instance.
    fn fill(&self, part: Part, profile: MigProfile) -> Result<Compute, MigError> {
        let library = self.nvml.lib();
        let mut profiles = mig::compute_profiles(library, part);
        let all = profiles.find(|(_, slices)| *slices == u32::from(profile.slices));
        let call = "nvmlGpuInstanceGetComputeInstanceProfileInfo";
        let (id, _) = self.asking(call, all.ok_or(Code::NotSupported))?;
        let made = raw::create_compute_instance(library, part, id);
        self.asking("nvmlGpuInstanceCreateComputeInstance", made)
    }

    fn describe(
        &self,
        part: Part,
        compute: Compute,
        kernel: &KernelFiles,
    ) -> Result<MigInstance, MigError> {
        let parent = self.parent(kernel)?;
        let device = self.device_of(part, compute)?;
        let instance = parent.instance(&device, &parent.profiles());
        instance.map_err(|error| self.failed(error))
    }

    /// The MIG device that a compute instance is. NVML names a device with the compute instance, which is
    /// it on the drivers that the reference driver was made for; where it is the GPU, as the header has
    /// it, the MIG devices of the GPU are gone through.
    fn device_of(&self, part: Part, compute: Compute) -> Result<Device<'n>, MigError> {
        let library = self.nvml.lib();
        let info = raw::compute_instance_info(library, &self.device, compute);
        let info = self.asking("nvmlComputeInstanceGetInfo_v2", info)?;
        let is_mig = info.device.mig_is_mig_device_handle();
        if self.asking("nvmlDeviceIsMigDeviceHandle", is_mig)? {
            return Ok(info.device);
        }
        let own = self.info(part)?.id;
        let most = self.device.mig_device_count();
        let most = self.asking("nvmlDeviceGetMaxMigDeviceCount", most)?;
        let mut devices = (0..most).filter_map(|index| self.device.mig_device_by_index(index).ok());
        let found = devices.find(|device| {
            raw::gpu_instance_id(library, device).is_ok_and(|id| id == own)
                && raw::compute_instance_id(library, device).is_ok_and(|id| id == info.id)
        });
        let call = "nvmlDeviceGetMigDeviceHandleByIndex";
        self.asking(call, found.ok_or(Code::NotFound))
    }

    fn uuid_of(&self, part: Part, compute: Compute) -> Result<MigUuid, MigError> {
        let call = "nvmlDeviceGetUUID";
        let uuid = self.asking(call, self.device_of(part, compute)?.uuid())?;
        self.asking(call, uuid.parse::<MigUuid>())
    }

    fn info(&self, part: Part) -> Result<raw::GpuInstance, MigError> {
        let info = raw::gpu_instance_info(self.nvml.lib(), part);
        self.asking("nvmlGpuInstanceGetInfo", info)
    }

    /// The GPU instance with this number.
    fn part(&self, id: u8) -> Result<Option<Part>, MigError> {
        match raw::gpu_instance_by_id(self.nvml.lib(), &self.device, id.into()) {
            Err(Code::NotFound) => Ok(None),
            // A GPU that is not in MIG mode has no instance, and says that it knows of none.
            Err(Code::NotSupported) if self.mode()? == MigMode::Off => Ok(None),
            found => self.asking("nvmlDeviceGetGpuInstanceById", found).map(Some),
        }
    }

    /// The compute instance with this number.
    fn compute(&self, part: Part, id: u8) -> Result<Option<Compute>, MigError> {
        let call = "nvmlGpuInstanceGetComputeInstanceById";
        match raw::compute_instance_by_id(self.nvml.lib(), part, id.into()) {
            Err(Code::NotFound) => Ok(None),
            found => self.asking(call, found).map(Some),
        }
    }

    fn is_bare(&self, part: Part) -> Result<bool, MigError> {
        let call = "nvmlGpuInstanceGetComputeInstances";
        self.asking(call, mig::is_bare(self.nvml.lib(), part))
    }

    fn placement(&self, part: Part) -> Result<Placement, MigError> {
        let info = self.info(part)?;
        let place = mig::placement((info.start, info.size));
        let out_of_range = Fault::OutOfRange(info.start.into());
        self.asking("nvmlGpuInstanceGetInfo", place.ok_or(out_of_range))
    }

    fn destroy(&self, part: Part, compute: Option<Compute>) -> Result<Destroyed, MigError> {
        let library = self.nvml.lib();
        if let Some(compute) = compute {
            let gone = raw::destroy_compute_instance(library, compute);
            self.asking("nvmlComputeInstanceDestroy", gone)?;
        }
        let gone = raw::destroy_gpu_instance(library, part);
        self.asking("nvmlGpuInstanceDestroy", gone)?;
        Ok(Destroyed::Now)
    }
}
