//! What NVML's numbers say of a GPU's fabric.

use nvml_wrapper::error::NvmlError as Code;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings as nvml;
use tessera_device::fabric::{Clique, ClusterUuid, FabricHealth, GpuFabric};

use crate::raw::{self, FabricInfo};

/// The GPU's part of a fabric. Not to know it is a fact as well: it hides no GPU.
pub(crate) fn fabric(library: &Nvml, device: &Device<'_>) -> GpuFabric {
    match raw::fabric_info(library.lib(), device) {
        Ok(info) => of_numbers(&info),
        // The library or the GPU knows no fabric.
        Err(Code::FailedToLoadSymbol(_) | Code::FunctionNotFound | Code::NotSupported) => {
            GpuFabric::None
        }
        Err(error) => GpuFabric::Silent {
            why: error.to_string(),
        },
    }
}

fn of_numbers(info: &FabricInfo) -> GpuFabric {
    match u32::from(info.state) {
        nvml::NVML_GPU_FABRIC_STATE_NOT_SUPPORTED => GpuFabric::None,
        nvml::NVML_GPU_FABRIC_STATE_NOT_STARTED | nvml::NVML_GPU_FABRIC_STATE_IN_PROGRESS => {
            GpuFabric::Joining
        }
        // The status counts in this state alone, and the UUID only after a success.
        nvml::NVML_GPU_FABRIC_STATE_COMPLETED if info.status != 0 => GpuFabric::Failed {
            status: info.status,
        },
        nvml::NVML_GPU_FABRIC_STATE_COMPLETED => {
            ClusterUuid::new(info.cluster_uuid).map_or(GpuFabric::None, |cluster| {
                GpuFabric::Member {
                    clique: Clique {
                        cluster,
                        id: info.clique_id,
                    },
                    health: health(info),
                }
            })
        }
        newer => GpuFabric::Silent {
            why: format!("fabric state {newer} is not known to this version"),
        },
    }
}

/// The summary where the driver gives one, else what the bits of the mask come to.
fn health(info: &FabricInfo) -> FabricHealth {
    match u32::from(info.health_summary) {
        nvml::NVML_GPU_FABRIC_HEALTH_SUMMARY_HEALTHY => FabricHealth::Healthy,
        nvml::NVML_GPU_FABRIC_HEALTH_SUMMARY_UNHEALTHY => FabricHealth::Unhealthy,
        nvml::NVML_GPU_FABRIC_HEALTH_SUMMARY_LIMITED_CAPACITY => FabricHealth::LimitedCapacity,
        nvml::NVML_GPU_FABRIC_HEALTH_SUMMARY_NOT_SUPPORTED => health_of_mask(info.health_mask),
        _newer => FabricHealth::Unknown,
    }
}

fn health_of_mask(mask: u32) -> FabricHealth {
    let field = |shift: u32, width: u32| mask >> shift & width;
    let degraded = field(
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW,
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_DEGRADED_BW,
    ) == nvml::NVML_GPU_FABRIC_HEALTH_MASK_DEGRADED_BW_TRUE;
    let recovering = field(
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_RECOVERY,
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_ROUTE_RECOVERY,
    ) == nvml::NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_RECOVERY_TRUE
        || field(
            nvml::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ACCESS_TIMEOUT_RECOVERY,
            nvml::NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_ACCESS_TIMEOUT_RECOVERY,
        ) == nvml::NVML_GPU_FABRIC_HEALTH_MASK_ACCESS_TIMEOUT_RECOVERY_TRUE;
    let broken = field(
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY,
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_ROUTE_UNHEALTHY,
    ) == nvml::NVML_GPU_FABRIC_HEALTH_MASK_ROUTE_UNHEALTHY_TRUE;
    // Every number above "none" names a way in which the configuration is wrong.
    let misconfigured = field(
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_INCORRECT_CONFIGURATION,
        nvml::NVML_GPU_FABRIC_HEALTH_MASK_WIDTH_INCORRECT_CONFIGURATION,
    ) > nvml::NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_NONE;
    if broken || misconfigured {
        FabricHealth::Unhealthy
    } else if degraded || recovering {
        FabricHealth::LimitedCapacity
    } else if mask == 0 {
        FabricHealth::Unknown
    } else {
        FabricHealth::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [7; 16];

    fn joined() -> FabricInfo {
        FabricInfo {
            cluster_uuid: UUID,
            clique_id: 32766,
            state: 3,
            ..FabricInfo::default()
        }
    }

    #[test]
    fn only_a_join_that_succeeded_says_which_clique_it_is() {
        let clique = Clique {
            cluster: ClusterUuid::new(UUID).unwrap(),
            id: 32766,
        };
        let member = GpuFabric::Member {
            clique,
            health: FabricHealth::Unknown,
        };
        for (info, expected) in [
            (joined(), member),
            (
                FabricInfo {
                    state: 0,
                    ..joined()
                },
                GpuFabric::None,
            ),
            (
                FabricInfo {
                    state: 1,
                    ..joined()
                },
                GpuFabric::Joining,
            ),
            (
                FabricInfo {
                    state: 2,
                    status: 3,
                    ..joined()
                },
                GpuFabric::Joining,
            ),
            (
                FabricInfo {
                    status: 3,
                    ..joined()
                },
                GpuFabric::Failed { status: 3 },
            ),
            (
                FabricInfo {
                    cluster_uuid: [0; 16],
                    ..joined()
                },
                GpuFabric::None,
            ),
        ] {
            assert_eq!(of_numbers(&info), expected, "{info:?}");
        }
        let newer = of_numbers(&FabricInfo {
            state: 9,
            ..joined()
        });
        assert!(matches!(newer, GpuFabric::Silent { .. }), "{newer:?}");
    }

    #[test]
    fn a_summary_goes_before_the_mask_and_the_mask_counts_without_one() {
        // The mask's fields from the lowest bits: bandwidth, recovery, route (two bits each), timeout
        // recovery (two), configuration (four). In the first four 1 is yes and 2 is no.
        for (summary, mask, expected) in [
            (1, 0, FabricHealth::Healthy),
            (2, 0, FabricHealth::Unhealthy),
            (3, 0, FabricHealth::LimitedCapacity),
            (1, 0b01_0000, FabricHealth::Healthy),
            (9, 0b01_0000, FabricHealth::Unknown),
            (0, 0, FabricHealth::Unknown),
            (0, 0b0001_1010_1010, FabricHealth::Healthy),
            (0, 0b0001_1010_1001, FabricHealth::LimitedCapacity),
            (0, 0b0001_1010_0110, FabricHealth::LimitedCapacity),
            (0, 0b0001_0110_1010, FabricHealth::LimitedCapacity),
            (0, 0b0001_1001_1010, FabricHealth::Unhealthy),
            (0, 0b0100_1010_1010, FabricHealth::Unhealthy),
        ] {
            let info = FabricInfo {
                health_summary: summary,
                health_mask: mask,
                ..joined()
            };
            assert_eq!(health(&info), expected, "{summary} {mask:b}");
        }
    }
}
