//! NVML's numbers as the reference driver spells them.

use nvml_wrapper::enum_wrappers::device::Brand;
use nvml_wrapper::enums::device::DeviceArchitecture;
use nvml_wrapper_sys::bindings::{
    NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME as ONE_ALL_ME,
    NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX as ONE_GFX,
    NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME as ONE_NO_ME,
    NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1 as ONE_REV1,
    NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME as TWO_ALL_ME,
    NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX as TWO_GFX,
    NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME as TWO_NO_ME,
    NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1 as TWO_REV1,
    NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX as FOUR_GFX,
};
use tessera_device::mig::Extras;
use tessera_device::{AddressingMode, Architecture, CudaVersion};

/// The `brand` attribute, as NVIDIA's go-nvlib writes it for the reference driver.
pub(crate) fn brand(brand: Brand) -> &'static str {
    match brand {
        Brand::Unknown => "Unknown",
        Brand::Quadro => "Quadro",
        Brand::Tesla => "Tesla",
        Brand::NVS => "NVS",
        Brand::GRID => "Grid",
        Brand::GeForce => "GeForce",
        Brand::Titan => "Titan",
        Brand::VApps => "NvidiaVApps",
        Brand::VPC => "NvidiaVPC",
        Brand::VCS => "NvidiaVCS",
        Brand::VWS => "NvidiaVWS",
        // One number in NVML under two names.
        Brand::CloudGaming | Brand::VGaming => "NvidiaCloudGaming",
        Brand::QuadroRTX => "QuadroRTX",
        Brand::NvidiaRTX => "NvidiaRTX",
        Brand::Nvidia => "Nvidia",
        Brand::GeForceRTX => "GeForceRTX",
        Brand::TitanRTX => "TitanRTX",
    }
}

pub(crate) fn architecture(architecture: &DeviceArchitecture) -> Architecture {
    match architecture {
        DeviceArchitecture::Kepler => Architecture::Kepler,
        DeviceArchitecture::Maxwell => Architecture::Maxwell,
        DeviceArchitecture::Pascal => Architecture::Pascal,
        DeviceArchitecture::Volta => Architecture::Volta,
        DeviceArchitecture::Turing => Architecture::Turing,
        DeviceArchitecture::Ampere => Architecture::Ampere,
        DeviceArchitecture::Ada => Architecture::Ada,
        DeviceArchitecture::Hopper => Architecture::Hopper,
        DeviceArchitecture::Blackwell => Architecture::Blackwell,
        DeviceArchitecture::Unknown => Architecture::Unknown,
    }
}

/// `nvmlDeviceAddressingModeType_t`; nothing for a mode that is newer than this table.
pub(crate) fn addressing_mode(value: u32) -> Option<AddressingMode> {
    match value {
        0 => Some(AddressingMode::None),
        1 => Some(AddressingMode::Hmm),
        2 => Some(AddressingMode::Ats),
        _ => None,
    }
}

/// What a profile has beside others of its size, by its index (`NVML_GPU_INSTANCE_PROFILE_*`). A
/// profile that is newer than this table goes by its size alone.
pub(crate) fn extras(index: u32) -> Extras {
    match index {
        ONE_REV1 | TWO_REV1 => Extras::Media,
        ONE_GFX | TWO_GFX | FOUR_GFX => Extras::Graphics,
        ONE_NO_ME | TWO_NO_ME => Extras::NoMedia,
        ONE_ALL_ME | TWO_ALL_ME => Extras::AllMedia,
        _ => Extras::None,
    }
}

/// NVML packs a CUDA version as `1000 * major + 10 * minor` (`nvmlSystemGetCudaDriverVersion_v2`).
pub(crate) fn cuda_version(packed: i32) -> Option<CudaVersion> {
    let packed = u32::try_from(packed).ok()?;
    Some(CudaVersion {
        major: packed / 1000,
        minor: packed % 1000 / 10,
    })
}

#[cfg(test)]
mod tests {
    use nvml_wrapper_sys::bindings::{
        nvmlDeviceAddressingModeType_t_NVML_DEVICE_ADDRESSING_MODE_ATS as ATS,
        nvmlDeviceAddressingModeType_t_NVML_DEVICE_ADDRESSING_MODE_HMM as HMM,
        nvmlDeviceAddressingModeType_t_NVML_DEVICE_ADDRESSING_MODE_NONE as NONE,
    };

    use super::*;

    #[test]
    fn brands_are_spelled_as_the_reference_driver_publishes_them() {
        // The numbers of `nvmlBrandType_t` with the spelling of go-nvlib.
        let spellings = [
            (0, "Unknown"),
            (1, "Quadro"),
            (2, "Tesla"),
            (3, "NVS"),
            (4, "Grid"),
            (5, "GeForce"),
            (6, "Titan"),
            (7, "NvidiaVApps"),
            (8, "NvidiaVPC"),
            (9, "NvidiaVCS"),
            (10, "NvidiaVWS"),
            (11, "NvidiaCloudGaming"),
            (12, "QuadroRTX"),
            (13, "NvidiaRTX"),
            (14, "Nvidia"),
            (15, "GeForceRTX"),
            (16, "TitanRTX"),
        ];
        for (number, spelling) in spellings {
            assert_eq!(brand(Brand::try_from(number).unwrap()), spelling);
        }
    }

    #[test]
    fn architectures_follow_nvmls_numbers() {
        // `NVML_DEVICE_ARCH_*` with the spelling of the attribute.
        let spellings = [
            (2, "Kepler"),
            (3, "Maxwell"),
            (4, "Pascal"),
            (5, "Volta"),
            (6, "Turing"),
            (7, "Ampere"),
            (8, "Ada Lovelace"),
            (9, "Hopper"),
            (10, "Blackwell"),
            (u32::MAX, "Unknown"),
        ];
        for (number, spelling) in spellings {
            let from_nvml = DeviceArchitecture::try_from(number).unwrap();
            assert_eq!(architecture(&from_nvml).as_str(), spelling);
        }
    }

    #[test]
    fn addressing_modes_follow_nvmls_numbers_and_a_newer_one_is_not_guessed() {
        for (number, mode) in [
            (NONE, Some(AddressingMode::None)),
            (HMM, Some(AddressingMode::Hmm)),
            (ATS, Some(AddressingMode::Ats)),
            (3, None),
        ] {
            assert_eq!(addressing_mode(number), mode);
        }
    }

    #[test]
    fn a_packed_cuda_version_is_taken_apart() {
        for (packed, version) in [
            (13000, Some((13, 0))),
            (12020, Some((12, 2))),
            (11080, Some((11, 8))),
            (0, Some((0, 0))),
            (-1, None),
        ] {
            let version = version.map(|(major, minor)| CudaVersion { major, minor });
            assert_eq!(cuda_version(packed), version);
        }
    }
}
