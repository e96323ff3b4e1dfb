//! From a `ResourceClaim` to the devices that it gives to this driver.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::{
    DeviceAllocationResult, DeviceRequestAllocationResult, ResourceClaim,
};
use tessera_api::{Config, Feature, ShareConfig};
use tessera_device::{DeviceName, IdError};
use thiserror::Error;

use crate::ClaimRef;
use crate::configuration::{ConfigurationRefusal, Configurations, Effective};
use crate::share::{Consumed, ShareError, share};

/// What a claim allocates of one driver's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The claim.
    pub claim: ClaimRef,
    /// Its devices, in the order of the scheduler's results. Never empty.
    pub devices: Vec<AllocatedDevice>,
}

/// One result of the scheduler that names a device of this driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocatedDevice {
    /// The claim's request that the device serves. For a prioritized list this is the request
    /// without its sub-request, because the kubelet compares it with what a container names.
    pub request: String,
    /// Pool of the device.
    pub pool: String,
    /// Device within the pool.
    pub device: DeviceName,
    /// Admin access: the device may be in use by others and must not be reconfigured.
    pub admin_access: bool,
    /// Which share of the device this is, where the device is shared (KEP 5075): letters, digits and
    /// '-'. A claim has each share of a device once.
    pub share_id: Option<String>,
    /// What the share takes of the device.
    pub consumed: Consumed,
    /// The configuration that applies to the device, if anybody wrote one.
    pub configuration: Option<Config>,
    /// What its share of the device must be held to, if anybody wrote that.
    pub share_configuration: Option<ShareConfig>,
}

/// Why a claim gives this driver nothing to prepare.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClaimRefusal {
    /// The name now belongs to another claim.
    #[error(
        "claim {wanted} was replaced: the name now belongs to UID {found}; \
         the pod that used the former claim must be made anew"
    )]
    Replaced {
        /// The claim that the kubelet asked for.
        wanted: ClaimRef,
        /// UID that the API server has under the name.
        found: String,
    },
    /// No allocation.
    #[error("claim {claim} has no allocation; it must be scheduled before it can be prepared")]
    NotAllocated {
        /// The claim.
        claim: ClaimRef,
    },
    /// An allocation without a device of this driver.
    #[error("claim {claim} allocates no device of driver {driver}")]
    NoDevice {
        /// The claim.
        claim: ClaimRef,
        /// This driver.
        driver: String,
    },
    /// A device name that no slice can have held.
    #[error("request {request} of claim {claim} was allocated an impossible device")]
    BadDevice {
        /// The claim.
        claim: ClaimRef,
        /// The request.
        request: String,
        /// What is wrong with the name.
        #[source]
        source: IdError,
    },
    /// A share that cannot be.
    #[error(
        "request {request} of claim {claim} was allocated an impossible share of {device}: {source}; \
         the allocation is damaged: delete the pod to have it scheduled again"
    )]
    BadShare {
        /// The claim.
        claim: ClaimRef,
        /// The request.
        request: String,
        /// The device.
        device: DeviceName,
        /// What is wrong with it.
        #[source]
        source: ShareError,
    },
    /// A configuration that cannot be acted on.
    #[error("claim {claim} cannot be prepared with its configuration: {refusal}")]
    Configuration {
        /// The claim.
        claim: ClaimRef,
        /// What is wrong with which configuration.
        refusal: Box<ConfigurationRefusal>,
    },
}

/// Reads what `claim` allocates of `driver`'s devices, and how they are to be configured.
///
/// `wanted` is the claim that the kubelet named; `features` is what configurations may ask for. Results of other drivers are skipped: a claim
/// may join a GPU and a network card.
pub fn allocation(
    claim: &ResourceClaim,
    wanted: &ClaimRef,
    driver: &str,
    features: &[Feature],
) -> Result<Allocation, ClaimRefusal> {
    if !wanted.is(claim) {
        return Err(ClaimRefusal::Replaced {
            wanted: wanted.clone(),
            found: claim.metadata.uid.clone().unwrap_or_default(),
        });
    }
    let allocated = allocated(claim).ok_or_else(|| ClaimRefusal::NotAllocated {
        claim: wanted.clone(),
    })?;
    let refused = |refusal| ClaimRefusal::Configuration {
        claim: wanted.clone(),
        refusal: Box::new(refusal),
    };
    let entries = allocated.config.as_deref().unwrap_or_default();
    let configurations = Configurations::decode(entries, driver, features).map_err(refused)?;
    let read = |result: &DeviceRequestAllocationResult| {
        let device = device_name(result, wanted)?;
        let configuration = configurations
            .effective(&result.request, &device)
            .map_err(refused)?;
        let share = share(result, driver).map_err(|source| ClaimRefusal::BadShare {
            claim: wanted.clone(),
            request: result.request.clone(),
            device: device.clone(),
            source,
        })?;
        Ok(allocated_device(result, device, share, configuration))
    };
    let devices = allocated
        .results
        .iter()
        .flatten()
        .filter(|result| result.driver == driver)
        .map(read)
        .collect::<Result<Vec<_>, _>>()?;
    if devices.is_empty() {
        return Err(ClaimRefusal::NoDevice {
            claim: wanted.clone(),
            driver: driver.to_owned(),
        });
    }
    refuse_doubles(wanted, &devices)?;
    Ok(Allocation {
        claim: wanted.clone(),
        devices,
    })
}

/// Fails if one share of a device is there twice: then it would be counted once and have two users.
fn refuse_doubles(claim: &ClaimRef, devices: &[AllocatedDevice]) -> Result<(), ClaimRefusal> {
    let mut seen = BTreeSet::new();
    for device in devices {
        let Some(id) = &device.share_id else {
            continue;
        };
        if !seen.insert((&device.pool, &device.device, id)) {
            return Err(ClaimRefusal::BadShare {
                claim: claim.clone(),
                request: device.request.clone(),
                device: device.device.clone(),
                source: ShareError::Twice(id.clone()),
            });
        }
    }
    Ok(())
}

/// Whether `claim`, as the API has it now under the name of `holder`, still allocates this device
/// to `holder`.
///
/// If it does not, `holder` has been let go: its pod is ending or gone, and the kubelet will
/// unprepare it.
pub fn still_allocates(
    claim: &ResourceClaim,
    holder: &ClaimRef,
    driver: &str,
    pool: &str,
    device: &DeviceName,
) -> bool {
    holder.is(claim) && allocates(claim, driver, pool, device)
}

/// Whether a claim, whichever it is, is allocated this device.
pub fn allocates(claim: &ResourceClaim, driver: &str, pool: &str, device: &DeviceName) -> bool {
    let results = allocated(claim).and_then(|devices| devices.results.as_ref());
    results.into_iter().flatten().any(|result| {
        result.driver == driver && result.pool == pool && result.device == device.as_str()
    })
}

fn allocated(claim: &ResourceClaim) -> Option<&DeviceAllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()?.devices.as_ref()
}

fn device_name(
    result: &DeviceRequestAllocationResult,
    claim: &ClaimRef,
) -> Result<DeviceName, ClaimRefusal> {
    let name = result.device.parse();
    name.map_err(|source| ClaimRefusal::BadDevice {
        claim: claim.clone(),
        request: result.request.clone(),
        source,
    })
}

fn allocated_device(
    result: &DeviceRequestAllocationResult,
    device: DeviceName,
    (share_id, consumed): (Option<String>, Consumed),
    Effective {
        device: configuration,
        share: share_configuration,
    }: Effective,
) -> AllocatedDevice {
    let request = result.request.split('/').next().unwrap_or_default();
    AllocatedDevice {
        request: request.to_owned(),
        pool: result.pool.clone(),
        device,
        admin_access: result.admin_access.unwrap_or_default(),
        share_id,
        consumed,
        configuration,
        share_configuration,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tessera_api::AVAILABLE;
    use tessera_device::Bytes;

    use super::*;

    const DRIVER: &str = "gpu.nvidia.com";

    fn wanted() -> ClaimRef {
        ClaimRef {
            namespace: "default".to_owned(),
            name: "one-gpu".to_owned(),
            uid: "0ddc7d64-6bb6-4a7c-8b7c-3b1c3c0a9f6e".parse().unwrap(),
        }
    }

    fn claim(status: &Value) -> ResourceClaim {
        serde_json::from_value(json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {
                "namespace": "default",
                "name": "one-gpu",
                "uid": "0ddc7d64-6bb6-4a7c-8b7c-3b1c3c0a9f6e",
            },
            "spec": {},
            "status": status,
        }))
        .unwrap()
    }

    fn result(request: &str, driver: &str, device: &str) -> Value {
        json!({ "request": request, "driver": driver, "pool": "node0", "device": device })
    }

    #[track_caller]
    fn check(status: &Value, expected: Result<&[(&str, &str)], &str>) {
        let found = allocation(&claim(status), &wanted(), DRIVER, AVAILABLE);
        match expected {
            Ok(devices) => {
                let found = found.unwrap();
                let found: Vec<(&str, &str)> = found
                    .devices
                    .iter()
                    .map(|d| (d.request.as_str(), d.device.as_str()))
                    .collect();
                assert_eq!(found, devices);
            }
            Err(text) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains(text), "{error}");
                assert!(
                    error.contains("default/one-gpu"),
                    "the claim is not named: {error}"
                );
            }
        }
    }

    #[test]
    fn results_of_this_driver_are_taken_in_order_and_others_are_skipped() {
        let status = json!({"allocation": {"devices": {"results": [
            result("b", DRIVER, "gpu-3"),
            result("nic", "dra.net", "eth1"),
            result("a", DRIVER, "gpu-1"),
        ]}}});
        check(&status, Ok(&[("b", "gpu-3"), ("a", "gpu-1")]));
    }

    #[test]
    fn a_sub_request_is_reported_as_the_request_it_belongs_to() {
        let status =
            json!({"allocation": {"devices": {"results": [result("gpu/large", DRIVER, "gpu-0")]}}});
        check(&status, Ok(&[("gpu", "gpu-0")]));
    }

    #[test]
    fn a_claim_that_cannot_be_prepared_says_why() {
        check(&json!({}), Err("has no allocation"));
        check(
            &json!({"allocation": {"devices": {"results": [result("nic", "dra.net", "eth1")]}}}),
            Err("no device of driver gpu.nvidia.com"),
        );
        check(
            &json!({"allocation": {"devices": {"results": [result("a", DRIVER, "../gpu")]}}}),
            Err("request a"),
        );
        check(
            &configured(&json!({"kind": "GpuConfig"})),
            Err("parameters.apiVersion: is missing"),
        );
    }

    /// One GPU with a configuration of the claim.
    fn configured(parameters: &Value) -> Value {
        json!({"allocation": {"devices": {
            "results": [result("a", DRIVER, "gpu-0")],
            "config": [{"source": "FromClaim", "opaque": {
                "driver": DRIVER, "parameters": parameters,
            }}],
        }}})
    }

    #[test]
    fn a_device_comes_with_the_configuration_that_applies_to_it() {
        let parameters = json!({"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"});
        let status = configured(&parameters);
        let found = allocation(&claim(&status), &wanted(), DRIVER, AVAILABLE).unwrap();
        let encoded = found.devices[0].configuration.as_ref().map(Config::encode);
        assert_eq!(encoded, Some(parameters));
    }

    #[test]
    fn what_a_configuration_may_ask_for_is_up_to_the_caller() {
        let status = configured(&json!({
            "apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig",
            "sharing": {"strategy": "TimeSlicing"},
        }));
        check(&status, Err("feature gate TimeSlicingSettings is off"));
        let features = tessera_api::available(true);
        allocation(&claim(&status), &wanted(), DRIVER, features).unwrap();
    }

    #[test]
    fn a_configuration_for_another_driver_is_not_ours_to_refuse() {
        let status = json!({"allocation": {"devices": {
            "results": [result("a", DRIVER, "gpu-0")],
            "config": [{"source": "FromClass", "opaque": {"driver": "dra.net", "parameters": {}}}],
        }}});
        check(&status, Ok(&[("a", "gpu-0")]));
    }

    #[test]
    fn a_claim_made_anew_under_the_same_name_is_not_the_claim_that_was_asked_for() {
        let mut other = wanted();
        other.uid = "11111111-6bb6-4a7c-8b7c-3b1c3c0a9f6e".parse().unwrap();
        let status =
            json!({"allocation": {"devices": {"results": [result("a", DRIVER, "gpu-0")]}}});
        let error = allocation(&claim(&status), &other, DRIVER, AVAILABLE).unwrap_err();
        assert!(matches!(error, ClaimRefusal::Replaced { .. }));
    }

    #[test]
    fn a_claim_lets_its_device_go_when_it_is_replaced_deallocated_or_moved() {
        let holds = json!({"allocation": {"devices": {"results": [result("a", DRIVER, "gpu-0")]}}});
        let moved = json!({"allocation": {"devices": {"results": [result("a", DRIVER, "gpu-1")]}}});
        let device = DeviceName::whole_gpu(0);
        let still = |status: &Value, holder: &ClaimRef| {
            still_allocates(&claim(status), holder, DRIVER, "node0", &device)
        };
        assert!(still(&holds, &wanted()));
        assert!(!still(&moved, &wanted()));
        assert!(!still(&json!({}), &wanted()));
        let mut replaced = wanted();
        replaced.uid = "11111111-6bb6-4a7c-8b7c-3b1c3c0a9f6e".parse().unwrap();
        assert!(!still(&holds, &replaced));
    }

    #[test]
    fn shares_of_one_device_are_told_apart_and_none_is_there_twice() {
        let shares = |ids: [&str; 2]| {
            let result = |id: &str| {
                let mut result = result("a", DRIVER, "gpu-0");
                result["shareID"] = json!(id);
                result["consumedCapacity"] = json!({"memory": "20Gi"});
                result
            };
            json!({"allocation": {"devices": {"results": ids.map(result)}}})
        };
        let found = allocation(
            &claim(&shares(["one", "two"])),
            &wanted(),
            DRIVER,
            AVAILABLE,
        )
        .unwrap();
        let memory = found.devices.iter().map(|device| device.consumed.memory);
        let twenty = Some(Bytes::from_mib(20 << 10));
        assert_eq!(memory.collect::<Vec<_>>(), [twenty, twenty]);
        check(&shares(["one", "one"]), Err("the same share one"));
        check(&shares(["one", "two/three"]), Err("shareID \"two/three\""));
    }

    #[test]
    fn admin_access_and_shares_are_carried_over() {
        let status = json!({"allocation": {"devices": {"results": [{
            "request": "a", "driver": DRIVER, "pool": "node0", "device": "gpu-0",
            "adminAccess": true, "shareID": "a671734a-e8e5-11e4-8fde-42010af09327",
        }]}}});
        let found = allocation(&claim(&status), &wanted(), DRIVER, AVAILABLE).unwrap();
        assert!(found.devices[0].admin_access);
        assert_eq!(
            found.devices[0].share_id.as_deref(),
            Some("a671734a-e8e5-11e4-8fde-42010af09327")
        );
    }
}
