//! The facts of one GPU, and of the driver.

use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper::{Device, Nvml};
use tessera_device::{
    AddressingMode, Architecture, Bytes, CudaVersion, DriverFacts, DriverVersion, Gpu, GpuUuid,
    MemoryLimiting, PciAddress,
};

use crate::error::{Fault, GpuProblem, QueryError};
use crate::mig::{Catalogue, Parent};
use crate::{KernelFiles, fabric, limits, mig, names, raw, sysfs};

/// Names the NVML function in whatever goes wrong with it.
pub(crate) fn asking<T, E: Into<Fault>>(
    call: &'static str,
    answer: Result<T, E>,
) -> Result<T, QueryError> {
    answer.map_err(|fault| QueryError {
        call,
        fault: fault.into(),
    })
}

/// The driver's facts.
pub(crate) fn driver(nvml: &Nvml, kernel: &KernelFiles) -> Result<DriverFacts, QueryError> {
    let version = asking("nvmlSystemGetDriverVersion", nvml.sys_driver_version())?;
    let call = "nvmlSystemGetCudaDriverVersion_v2";
    let packed = asking(call, nvml.sys_cuda_driver_version())?;
    let out_of_range = Fault::OutOfRange(packed.into());
    let cuda = asking(call, names::cuda_version(packed).ok_or(out_of_range))?;
    Ok(DriverFacts {
        version: DriverVersion::new(version),
        cuda,
        memory_limiting: memory_limiting(nvml, kernel),
    })
}

/// Only a hierarchy of version 2 has `cgroup.controllers`, in each of its directories (`cgroup-v2.rst` of the
/// kernel, "Core Interface Files"), so it does not matter whose this process sees.
fn memory_limiting(nvml: &Nvml, kernel: &KernelFiles) -> MemoryLimiting {
    let root = kernel.sysfs.join("fs/cgroup");
    if !limits::are_taken(nvml, &root) {
        MemoryLimiting::NoCall
    } else if root.join("cgroup.controllers").exists() {
        MemoryLimiting::PerCgroup
    } else {
        MemoryLimiting::CgroupV1
    }
}

/// The GPU with an NVML index, or what is known of it and why that is not enough.
///
/// `catalogue` has what other GPUs have told of the profiles that this one may have too.
pub(crate) fn gpu(
    nvml: &Nvml,
    index: u32,
    kernel: &KernelFiles,
    catalogue: &mut Catalogue,
) -> Result<Gpu, GpuProblem> {
    let mut known = Known::default();
    read(nvml, index, kernel, catalogue, &mut known).map_err(|error| {
        let Known { uuid, minor, pci } = known;
        GpuProblem {
            index,
            uuid,
            minor,
            pci,
            error,
        }
    })
}

/// What a GPU has said of its identity so far.
#[derive(Default)]
struct Known {
    uuid: Option<GpuUuid>,
    minor: Option<u32>,
    pci: Option<PciAddress>,
}

fn read(
    nvml: &Nvml,
    index: u32,
    kernel: &KernelFiles,
    catalogue: &mut Catalogue,
    known: &mut Known,
) -> Result<Gpu, QueryError> {
    let call = "nvmlDeviceGetHandleByIndex_v2";
    let device = asking(call, nvml.device_by_index(index))?;
    // Each part is asked before any is insisted on, so that a problem names what it can.
    let uuid = uuid(&device);
    let minor = asking("nvmlDeviceGetMinorNumber", device.minor_number());
    let pci = pci(&device);
    known.uuid = uuid.as_ref().ok().cloned();
    known.minor = minor.as_ref().ok().copied();
    known.pci = pci.as_ref().ok().copied();
    let (uuid, minor, pci) = (uuid?, minor?, pci?);

    let memory = asking("nvmlDeviceGetMemoryInfo_v2", device.memory_info())?;
    let memory = Bytes(memory.total);
    let product_name = asking("nvmlDeviceGetName", device.name())?;
    let parent = Parent {
        nvml,
        gpu: &device,
        minor,
        memory,
        proc: &kernel.proc,
    };
    let profiles = || catalogue.profiles(nvml.lib(), &device, &product_name, memory);
    let mig = mig::state(&parent, profiles)?;
    let place = sysfs::place(&kernel.sysfs, pci);
    Ok(Gpu {
        uuid,
        minor,
        pci,
        product_name,
        brand: brand(&device)?.to_owned(),
        architecture: architecture(&device)?,
        compute_capability: compute_capability(&device)?,
        memory,
        addressing_mode: addressing_mode(nvml, &device),
        pcie_root: place.pcie_root,
        numa_node: place.numa_node,
        mig,
        fabric: fabric::fabric(nvml, &device),
    })
}

fn uuid(device: &Device<'_>) -> Result<GpuUuid, QueryError> {
    let call = "nvmlDeviceGetUUID";
    asking(call, asking(call, device.uuid())?.parse())
}

fn pci(device: &Device<'_>) -> Result<PciAddress, QueryError> {
    let call = "nvmlDeviceGetPciInfo_v3";
    asking(call, asking(call, device.pci_info())?.bus_id.parse())
}

/// A brand that is newer than the bindings is no reason to hide the GPU.
fn brand(device: &Device<'_>) -> Result<&'static str, QueryError> {
    match device.brand() {
        Err(Code::UnexpectedVariant(_)) => Ok("Unknown"),
        answer => asking("nvmlDeviceGetBrand", answer).map(names::brand),
    }
}

/// Nor is an architecture.
fn architecture(device: &Device<'_>) -> Result<Architecture, QueryError> {
    match device.architecture() {
        Err(Code::UnexpectedVariant(_)) => Ok(Architecture::Unknown),
        answer => {
            let known = asking("nvmlDeviceGetArchitecture", answer)?;
            Ok(names::architecture(&known))
        }
    }
}

fn compute_capability(device: &Device<'_>) -> Result<CudaVersion, QueryError> {
    let call = "nvmlDeviceGetCudaComputeCapability";
    let answer = asking(call, device.cuda_compute_capability())?;
    let number = |part: i32| {
        let out_of_range = Fault::OutOfRange(part.into());
        asking(call, u32::try_from(part).map_err(|_| out_of_range))
    };
    Ok(CudaVersion {
        major: number(answer.major)?,
        minor: number(answer.minor)?,
    })
}

/// An optional attribute: older drivers lack the function and most GPUs do not support it.
fn addressing_mode(nvml: &Nvml, device: &Device<'_>) -> Option<AddressingMode> {
    match raw::addressing_mode(nvml.lib(), device) {
        Ok(number) => names::addressing_mode(number),
        Err(error) => {
            tracing::debug!(%error, "nvmlDeviceGetAddressingMode gave no answer");
            None
        }
    }
}
