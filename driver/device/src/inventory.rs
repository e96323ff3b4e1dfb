//! The facts of one node's GPUs at one moment.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::fabric::GpuFabric;
use crate::follow::{Absence, MissingGpu};
use crate::mig::{MigInstance, MigMode, MigState};
use crate::{Bytes, CudaVersion, DeviceName, DriverVersion, GpuUuid, PciAddress, PcieRoot};

/// Facts about the installed driver, common to all GPUs of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverFacts {
    /// Version of the kernel driver (`nvmlSystemGetDriverVersion`).
    pub version: DriverVersion,
    /// Newest CUDA version that the driver supports (`nvmlSystemGetCudaDriverVersion_v2`).
    pub cuda: CudaVersion,
    /// Whether it can hold containers to limits of GPU memory.
    pub memory_limiting: MemoryLimiting,
}

/// Whether the driver can hold the containers of a node to limits of GPU memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimiting {
    /// It can: per cgroup and GPU (`nvmlDeviceSetMemoryLimits_v1`).
    PerCgroup,
    /// The same, and a process of the node moves the limits of containers that run.
    Moved,
    /// It has no such call. R615 and later do.
    #[default]
    NoCall,
    /// It could, but counts by cgroups of version 2, and the node has the former ones.
    CgroupV1,
}

impl MemoryLimiting {
    /// Whether the driver can hold containers to limits.
    pub fn holds(self) -> bool {
        match self {
            Self::PerCgroup | Self::Moved => true,
            Self::NoCall | Self::CgroupV1 => false,
        }
    }

    /// The same on a node that has a process which moves limits.
    #[must_use]
    pub fn moved(self) -> Self {
        match self {
            Self::PerCgroup | Self::Moved => Self::Moved,
            Self::NoCall | Self::CgroupV1 => self,
        }
    }
}

/// The architecture of a GPU, spelled as the reference driver publishes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// 2012.
    Kepler,
    /// 2014.
    Maxwell,
    /// 2016.
    Pascal,
    /// 2017.
    Volta,
    /// 2018; T4.
    Turing,
    /// 2020; A100.
    Ampere,
    /// 2022; L4, L40.
    Ada,
    /// 2022; H100, H200, GH200.
    Hopper,
    /// 2024; B200, GB200.
    Blackwell,
    /// Newer than this table. Published as `Unknown`.
    Unknown,
}

impl Architecture {
    /// The value of the `architecture` attribute.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Kepler => "Kepler",
            Self::Maxwell => "Maxwell",
            Self::Pascal => "Pascal",
            Self::Volta => "Volta",
            Self::Turing => "Turing",
            Self::Ampere => "Ampere",
            Self::Ada => "Ada Lovelace",
            Self::Hopper => "Hopper",
            Self::Blackwell => "Blackwell",
            Self::Unknown => "Unknown",
        }
    }
}

/// How the GPU sees host memory (`nvmlDeviceGetAddressingMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressingMode {
    /// Heterogeneous memory management in software.
    Hmm,
    /// Address translation service in hardware (Grace).
    Ats,
    /// Neither is active.
    None,
}

impl AddressingMode {
    /// The value of the `addressingMode` attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hmm => "HMM",
            Self::Ats => "ATS",
            Self::None => "None",
        }
    }
}

/// One physical GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Identity of the board.
    pub uuid: GpuUuid,
    /// NVML minor number: the GPU's node is `/dev/nvidia<minor>`.
    pub minor: u32,
    /// Where it sits.
    pub pci: PciAddress,
    /// Product name as NVML says it, e.g. `NVIDIA H100 80GB HBM3`.
    pub product_name: String,
    /// Brand as the reference driver spells it, e.g. `Nvidia`.
    pub brand: String,
    /// Architecture.
    pub architecture: Architecture,
    /// CUDA compute capability.
    pub compute_capability: CudaVersion,
    /// All memory that NVML reports (`nvmlDeviceGetMemoryInfo.total`).
    pub memory: Bytes,
    /// How it sees host memory, if the driver says.
    pub addressing_mode: Option<AddressingMode>,
    /// The PCIe root above it, if sysfs says.
    pub pcie_root: Option<PcieRoot>,
    /// The NUMA node next to it, if sysfs names one.
    pub numa_node: Option<u32>,
    /// Its MIG side, if it has one.
    pub mig: Option<MigState>,
    /// Its part of an NVLink fabric.
    pub fabric: GpuFabric,
}

impl Gpu {
    /// The name under which the whole GPU is offered, unless it is cut.
    pub fn device_name(&self) -> DeviceName {
        DeviceName::whole_gpu(self.minor)
    }

    /// Whether it is used through MIG devices alone.
    pub fn is_cut(&self) -> bool {
        self.mig.as_ref().is_some_and(|mig| mig.mode == MigMode::On)
    }

    /// What it is offered as: itself, or its MIG devices in their order.
    pub fn offered(&self) -> impl Iterator<Item = Offered<'_>> {
        let whole = (!self.is_cut()).then_some(None);
        let mig = self.mig.iter().filter(move |_| self.is_cut());
        let instances = mig.flat_map(|mig| &mig.instances).map(Some);
        let parts = whole.into_iter().chain(instances);
        parts.map(move |instance| Offered {
            gpu: self,
            instance,
        })
    }
}

/// Something that can be offered: a whole GPU or a MIG device of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered<'i> {
    /// The GPU.
    pub gpu: &'i Gpu,
    /// The MIG device of it, or nothing for the GPU as a whole.
    pub instance: Option<&'i MigInstance>,
}

impl Offered<'_> {
    /// The name under which it is offered.
    pub fn name(&self) -> DeviceName {
        match self.instance {
            Some(instance) => instance.device_name(self.gpu.minor),
            None => self.gpu.device_name(),
        }
    }
}

/// Facts that cannot all be true.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InventoryError {
    /// Two GPUs with one minor number would get one device name.
    #[error("GPUs {first} and {second} both have minor number {minor}")]
    DuplicateMinor {
        /// The minor number.
        minor: u32,
        /// Who had it first.
        first: GpuUuid,
        /// Who has it too.
        second: GpuUuid,
    },
    /// The library listed one GPU twice.
    #[error("GPU {uuid} is listed twice")]
    DuplicateUuid {
        /// The GPU.
        uuid: GpuUuid,
    },
    /// Two MIG devices of a GPU would get one device name.
    #[error("GPU {gpu} has two MIG devices that would be offered as {name}")]
    DuplicateDevice {
        /// The GPU.
        gpu: GpuUuid,
        /// The name.
        name: DeviceName,
    },
}

/// The GPUs of one node, in order of their minor number.
///
/// The order is part of the contract: it is the order in the published slice, and the scheduler
/// takes the first fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    driver: DriverFacts,
    gpus: Vec<Gpu>,
    missing: Vec<MissingGpu>,
    strangers: Vec<Absence>,
}

impl Inventory {
    /// Orders the GPUs and refuses contradictions.
    pub fn new(driver: DriverFacts, mut gpus: Vec<Gpu>) -> Result<Self, InventoryError> {
        gpus.sort_by_key(|gpu| gpu.minor);
        for pair in gpus.windows(2) {
            if pair[0].minor == pair[1].minor {
                return Err(InventoryError::DuplicateMinor {
                    minor: pair[0].minor,
                    first: pair[0].uuid.clone(),
                    second: pair[1].uuid.clone(),
                });
            }
        }
        let mut seen = BTreeSet::new();
        for gpu in &gpus {
            if !seen.insert(&gpu.uuid) {
                return Err(InventoryError::DuplicateUuid {
                    uuid: gpu.uuid.clone(),
                });
            }
            let mut names = BTreeSet::new();
            if let Some(twice) = gpu.offered().find(|part| !names.insert(part.name())) {
                return Err(InventoryError::DuplicateDevice {
                    gpu: gpu.uuid.clone(),
                    name: twice.name(),
                });
            }
        }
        Ok(Self {
            driver,
            gpus,
            missing: Vec::new(),
            strangers: Vec::new(),
        })
    }

    /// The same, beside GPUs that were seen before and reasons of GPUs that never were.
    #[must_use]
    pub(crate) fn with_missing(self, missing: Vec<MissingGpu>, strangers: Vec<Absence>) -> Self {
        Self {
            missing,
            strangers,
            ..self
        }
    }

    /// The same, with the MIG side of one GPU as it is known by now.
    pub fn with_mig(&self, gpu: &GpuUuid, mig: MigState) -> Result<Self, InventoryError> {
        let mut gpus = self.gpus.clone();
        if let Some(looked_at) = gpus.iter_mut().find(|other| other.uuid == *gpu) {
            looked_at.mig = Some(mig);
        }
        let anew = Self::new(self.driver.clone(), gpus)?;
        Ok(anew.with_missing(self.missing.clone(), self.strangers.clone()))
    }

    /// The same, on a node that has a process which moves memory limits.
    #[must_use]
    pub fn with_moved_limits(mut self) -> Self {
        self.driver.memory_limiting = self.driver.memory_limiting.moved();
        self
    }

    /// The driver's facts.
    pub fn driver(&self) -> &DriverFacts {
        &self.driver
    }

    /// The GPUs that answer, by minor number.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// The GPUs that answered once and do not now, by minor number.
    pub fn missing(&self) -> &[MissingGpu] {
        &self.missing
    }

    /// Why GPUs do not answer that are listed and have never answered.
    pub fn strangers(&self) -> &[Absence] {
        &self.strangers
    }

    /// The GPUs that answer or once did.
    pub fn ever_seen(&self) -> impl Iterator<Item = &Gpu> {
        let missing = self.missing.iter().map(|missing| &missing.gpu);
        self.gpus.iter().chain(missing)
    }

    /// What can be offered at present, by minor number and in each GPU's order.
    pub fn offered(&self) -> impl Iterator<Item = Offered<'_>> {
        self.gpus.iter().flat_map(Gpu::offered)
    }

    /// What is offered under this name.
    pub fn by_device_name(&self, name: &DeviceName) -> Option<Offered<'_>> {
        self.offered().find(|part| part.name() == *name)
    }

    /// What is offered under this name, or was when its GPU still answered.
    pub fn seen_by_device_name(&self, name: &DeviceName) -> Option<Offered<'_>> {
        let mut parts = self.ever_seen().flat_map(Gpu::offered);
        parts.find(|part| part.name() == *name)
    }

    /// The GPU that a device of this name is, or is a part of, whether it is offered so at present or
    /// not.
    pub fn gpu_of(&self, name: &DeviceName) -> Option<&Gpu> {
        self.ever_seen()
            .find(|gpu| gpu.device_name() == *name || name.mig_parent() == Some(gpu.minor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cut, driver, gpu, gpu_uuid, inventory};

    #[test]
    fn gpus_are_ordered_by_minor_number_whatever_order_the_library_gives() {
        let inventory = inventory([10, 2, 0]);
        let minors: Vec<u32> = inventory.gpus().iter().map(|gpu| gpu.minor).collect();
        assert_eq!(minors, [0, 2, 10]);
    }

    #[test]
    fn two_gpus_with_one_minor_or_one_uuid_are_refused() {
        let other = |minor, uuid| Gpu {
            uuid: gpu_uuid(uuid),
            ..gpu(minor)
        };
        assert!(matches!(
            Inventory::new(driver("580"), vec![gpu(1), other(1, 2)]),
            Err(InventoryError::DuplicateMinor { minor: 1, .. })
        ));
        assert!(matches!(
            Inventory::new(driver("580"), vec![gpu(1), other(2, 1)]),
            Err(InventoryError::DuplicateUuid { .. })
        ));
    }

    #[test]
    fn a_gpu_is_found_by_the_name_it_is_offered_under() {
        let inventory = inventory([0, 1]);
        let by_minor = |minor| inventory.by_device_name(&DeviceName::whole_gpu(minor));
        assert_eq!(by_minor(1).unwrap().gpu.minor, 1);
        assert!(by_minor(2).is_none());
    }

    #[test]
    fn a_cut_gpu_is_found_by_the_names_of_its_parts_and_not_by_its_own() {
        let gpus = vec![gpu(0), cut(gpu(1), &["3g.40gb", "1g.10gb"])];
        let inventory = Inventory::new(driver("580"), gpus).unwrap();
        let names: Vec<_> = inventory.offered().map(|part| part.name()).collect();
        let names: Vec<_> = names.iter().map(DeviceName::as_str).collect();
        assert_eq!(
            names,
            ["gpu-0", "gpu-1-mig-3g40gb-9-0", "gpu-1-mig-1g10gb-19-4"]
        );
        let whole = DeviceName::whole_gpu(1);
        assert_eq!(inventory.by_device_name(&whole), None);
        assert_eq!(inventory.gpu_of(&whole).unwrap().minor, 1);
        let part: DeviceName = names[2].parse().unwrap();
        let found = inventory.by_device_name(&part).unwrap();
        assert_eq!((found.gpu.minor, found.name()), (1, part.clone()));
        let gone: DeviceName = "gpu-1-mig-7g80gb-0-0".parse().unwrap();
        assert_eq!(inventory.by_device_name(&gone), None);
        assert_eq!(inventory.gpu_of(&gone).unwrap().minor, 1);
    }

    #[test]
    fn two_mig_devices_of_one_name_are_refused() {
        let mut twice = cut(gpu(1), &["1g.10gb"]);
        let mig = twice.mig.as_mut().unwrap();
        mig.instances.push(mig.instances[0].clone());
        let error = Inventory::new(driver("580"), vec![twice]).unwrap_err();
        assert!(
            error.to_string().contains("gpu-1-mig-1g10gb-19-0"),
            "{error}"
        );
    }
}
