//! Which GPUs there are, and what does not change about them.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    NVML_DEVICE_ARCH_ADA, NVML_DEVICE_ARCH_AMPERE, NVML_DEVICE_ARCH_BLACKWELL,
    NVML_DEVICE_ARCH_HOPPER, NVML_DEVICE_ARCH_TURING,
    nvmlBrandType_enum_NVML_BRAND_NVIDIA as BRAND_NVIDIA,
    nvmlBrandType_enum_NVML_BRAND_TESLA as BRAND_TESLA, nvmlBrandType_t, nvmlDevice_t,
    nvmlDeviceAddressingMode_t,
    nvmlDeviceAddressingModeType_t_NVML_DEVICE_ADDRESSING_MODE_ATS as MODE_ATS,
    nvmlDeviceAddressingModeType_t_NVML_DEVICE_ADDRESSING_MODE_HMM as MODE_HMM,
    nvmlDeviceAddressingModeType_t_NVML_DEVICE_ADDRESSING_MODE_NONE as MODE_NONE,
    nvmlDeviceArchitecture_t,
    nvmlGpuVirtualizationMode_NVML_GPU_VIRTUALIZATION_MODE_NONE as BARE_MACHINE,
    nvmlGpuVirtualizationMode_t, nvmlPciInfo_t,
};
use tessera_hw::{AddressingMode, Architecture, Brand, Facts, PciFunction};

use super::{Out, array, check_version, export, put, put_text, text};
use crate::{
    fault::Fault,
    library::{Any, with_any, with_device, with_facts, with_session},
};

export! {
    fn nvmlDeviceGetCount(count: Out<'_, c_uint>) { put(count, device_count()?) }
    fn nvmlDeviceGetCount_v2(count: Out<'_, c_uint>) { put(count, device_count()?) }

    fn nvmlDeviceGetHandleByIndex(index: c_uint, device: Out<'_, nvmlDevice_t>) {
        put(device, by_index(index)?)
    }
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: Out<'_, nvmlDevice_t>) {
        put(device, by_index(index)?)
    }
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: Out<'_, nvmlDevice_t>) {
        put(device, by_uuid(text(uuid)?)?)
    }
    fn nvmlDeviceGetHandleByPciBusId(address: *const c_char, device: Out<'_, nvmlDevice_t>) {
        put(device, by_pci_bus_id(address)?)
    }
    fn nvmlDeviceGetHandleByPciBusId_v2(address: *const c_char, device: Out<'_, nvmlDevice_t>) {
        put(device, by_pci_bus_id(address)?)
    }
    fn nvmlDeviceGetHandleBySerial(serial: *const c_char, device: Out<'_, nvmlDevice_t>) {
        let serial = text(serial)?;
        put(device, find(|facts| facts.serial == serial)?)
    }

    fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: Out<'_, c_uint>) {
        let at = with_device(device, |device| Ok(device.index))?;
        put(index, c_uint::try_from(at).map_err(|_| Fault::Unknown)?)
    }
    fn nvmlDeviceGetMinorNumber(device: nvmlDevice_t, minor: Out<'_, c_uint>) {
        with_facts(device, |facts| put(minor, facts.minor))
    }
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) {
        with_any(device, |any| match any {
            Any::Gpu(device) => put_text(uuid, length, &device.gpu.facts.uuid),
            Any::Mig(_, mig) => put_text(uuid, length, &mig.instance.uuid),
        })
    }
    fn nvmlDeviceGetName(device: nvmlDevice_t, name: *mut c_char, length: c_uint) {
        with_any(device, |any| match any {
            Any::Gpu(device) => put_text(name, length, &device.gpu.facts.name),
            Any::Mig(parent, mig) => {
                let size = mig.instance.name(mig.profile);
                put_text(name, length, &format!("{} MIG {size}", parent.gpu.facts.name))
            }
        })
    }
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, serial: *mut c_char, length: c_uint) {
        with_facts(device, |facts| put_text(serial, length, &facts.serial))
    }
    fn nvmlDeviceGetBoardPartNumber(device: nvmlDevice_t, number: *mut c_char, length: c_uint) {
        with_facts(device, |facts| put_text(number, length, &facts.board_part_number))
    }
    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, version: *mut c_char, length: c_uint) {
        with_facts(device, |facts| put_text(version, length, &facts.vbios))
    }

    fn nvmlDeviceGetBrand(device: nvmlDevice_t, brand: Out<'_, nvmlBrandType_t>) {
        with_facts(device, |facts| put(brand, match facts.brand {
            Brand::Tesla => BRAND_TESLA,
            Brand::Nvidia => BRAND_NVIDIA,
        }))
    }
    fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, arch: Out<'_, nvmlDeviceArchitecture_t>) {
        with_facts(device, |facts| put(arch, match facts.architecture {
            Architecture::Turing => NVML_DEVICE_ARCH_TURING,
            Architecture::Ampere => NVML_DEVICE_ARCH_AMPERE,
            Architecture::Ada => NVML_DEVICE_ARCH_ADA,
            Architecture::Hopper => NVML_DEVICE_ARCH_HOPPER,
            Architecture::Blackwell => NVML_DEVICE_ARCH_BLACKWELL,
        }))
    }
    fn nvmlDeviceGetCudaComputeCapability(
        device: nvmlDevice_t,
        major: Out<'_, c_int>,
        minor: Out<'_, c_int>,
    ) {
        let number = |number: u32| c_int::try_from(number).map_err(|_| Fault::Unknown);
        let version = with_facts(device, |facts| Ok(facts.compute_capability))?;
        put(major, number(version.major)?)?;
        put(minor, number(version.minor)?)
    }

    fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: Out<'_, nvmlPciInfo_t>) {
        with_facts(device, |facts| put(pci, pci_info(facts)))
    }
    fn nvmlDeviceGetNumaNodeId(device: nvmlDevice_t, node: Out<'_, c_uint>) {
        let own = with_facts(device, |facts| facts.memory_numa_node.ok_or(Fault::NotSupported))?;
        put(node, own)
    }
    // No hypervisor is simulated, whatever machine a profile describes.
    fn nvmlDeviceGetVirtualizationMode(
        device: nvmlDevice_t,
        mode: Out<'_, nvmlGpuVirtualizationMode_t>,
    ) {
        with_facts(device, |_| put(mode, BARE_MACHINE))
    }
    fn nvmlDeviceGetAddressingMode(
        device: nvmlDevice_t,
        mode: Option<&mut nvmlDeviceAddressingMode_t>,
    ) {
        let mode = mode.ok_or(Fault::InvalidArgument)?;
        check_version::<nvmlDeviceAddressingMode_t>(mode.version, 1)?;
        let fact = with_facts(device, |facts| facts.addressing_mode.ok_or(Fault::FunctionNotFound))?;
        mode.value = match fact {
            AddressingMode::None => MODE_NONE,
            AddressingMode::Hmm => MODE_HMM,
            AddressingMode::Ats => MODE_ATS,
        };
        Ok(())
    }
}

fn device_count() -> Result<c_uint, Fault> {
    with_session(|session| c_uint::try_from(session.devices().len()).map_err(|_| Fault::Unknown))
}

fn by_index(index: c_uint) -> Result<nvmlDevice_t, Fault> {
    let index = usize::try_from(index).map_err(|_| Fault::InvalidArgument)?;
    with_session(|session| {
        let device = session.devices().nth(index).ok_or(Fault::InvalidArgument)?;
        Ok(device.present()?.handle)
    })
}

fn by_uuid(uuid: &str) -> Result<nvmlDevice_t, Fault> {
    if uuid.starts_with("GPU-") {
        return find(|facts| facts.uuid == uuid);
    }
    with_session(|session| {
        let mut all = session.all_mig_devices();
        let found = all.find(|(_, mig)| mig.instance.uuid == uuid);
        let (parent, mig) = found.ok_or(Fault::NotFound)?;
        parent.present()?;
        Ok(mig.handle)
    })
}

fn by_pci_bus_id(address: *const c_char) -> Result<nvmlDevice_t, Fault> {
    let address: PciFunction = text(address)?.parse().map_err(|_| Fault::InvalidArgument)?;
    find(|facts| facts.pci == address)
}

fn find(wanted: impl Fn(&Facts) -> bool) -> Result<nvmlDevice_t, Fault> {
    with_session(|session| {
        let device = session.devices().find(|device| wanted(&device.gpu.facts));
        Ok(device.ok_or(Fault::NotFound)?.present()?.handle)
    })
}

fn pci_info(facts: &Facts) -> nvmlPciInfo_t {
    nvmlPciInfo_t {
        busIdLegacy: array(&facts.pci.nvml_legacy()),
        domain: facts.pci.domain,
        bus: facts.pci.bus.into(),
        device: facts.pci.device.into(),
        pciDeviceId: facts.pci_device_id,
        pciSubSystemId: facts.pci_subsystem_id,
        busId: array(&facts.pci.nvml()),
    }
}
