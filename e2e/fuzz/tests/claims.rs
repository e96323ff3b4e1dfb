//! Fuzz targets: claims as the API server may answer them.
//!
//! Opaque configuration is refused as a whole so far. Its strict decoders get their targets here:
//! `Configuration` below makes their inputs.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

use bolero::TypeGenerator;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use tessera_claim::{ClaimRef, allocation, still_allocates};
use tessera_fuzz::fuzz;

const DRIVER: &str = "gpu.nvidia.com";
const UID: &str = "0f2d6a3e-9a55-4f0c-8c8e-0a9be8a1c001";

fn wanted() -> ClaimRef {
    ClaimRef {
        namespace: "default".to_owned(),
        name: "a".to_owned(),
        uid: UID.parse().unwrap(),
    }
}

/// Mostly what names a device of ours, so that reading goes past the first look.
#[derive(Clone, Debug, TypeGenerator)]
enum DeviceText {
    Gpu(u8),
    Any(String),
}

#[derive(Clone, Debug, TypeGenerator)]
struct AllocationResult {
    ours: bool,
    request: String,
    pool: String,
    device: DeviceText,
    admin: Option<bool>,
    share: Option<String>,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Configuration {
    ours: bool,
    from_class: bool,
    opaque: bool,
    api_version: Option<String>,
    kind: Option<String>,
    field: Option<(String, String)>,
}

#[derive(Clone, Debug, TypeGenerator)]
struct Claim {
    same_uid: bool,
    allocated: bool,
    results: Vec<AllocationResult>,
    configurations: Vec<Configuration>,
}

impl AllocationResult {
    fn json(&self) -> Value {
        let device = match &self.device {
            DeviceText::Gpu(at) => format!("gpu-{at}"),
            DeviceText::Any(text) => text.clone(),
        };
        json!({
            "driver": if self.ours { DRIVER } else { "net.example.com" },
            "request": self.request,
            "pool": self.pool,
            "device": device,
            "adminAccess": self.admin,
            "shareID": self.share,
        })
    }
}

impl Configuration {
    fn is_ours(&self) -> bool {
        self.ours && self.opaque
    }

    fn json(&self) -> Value {
        let mut parameters = json!({ "apiVersion": self.api_version, "kind": self.kind });
        if let Some((name, value)) = &self.field {
            parameters[name] = json!(value);
        }
        let driver = if self.ours { DRIVER } else { "net.example.com" };
        let opaque = json!({ "driver": driver, "parameters": parameters });
        json!({
            "source": if self.from_class { "FromClass" } else { "FromClaim" },
            "requests": [],
            "opaque": self.opaque.then_some(opaque),
        })
    }
}

impl Claim {
    fn json(&self) -> Value {
        let results: Vec<_> = self.results.iter().map(AllocationResult::json).collect();
        let config: Vec<_> = self
            .configurations
            .iter()
            .map(Configuration::json)
            .collect();
        let devices = json!({ "results": results, "config": config });
        json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {
                "namespace": "default",
                "name": "a",
                "uid": if self.same_uid { UID } else { "another" },
            },
            "spec": {},
            "status": self.allocated.then(|| json!({ "allocation": { "devices": devices } })),
        })
    }
}

#[test]
fn an_allocation_is_all_that_the_claim_gives_this_driver_or_a_refusal() {
    fuzz!(3_000, Claim, |made| {
        let claim: ResourceClaim = serde_json::from_value(made.json()).unwrap();
        let Ok(allocation) = allocation(&claim, &wanted(), DRIVER) else {
            return;
        };
        assert!(made.same_uid && made.allocated);
        let ours: Vec<_> = made.results.iter().filter(|result| result.ours).collect();
        assert_eq!(allocation.devices.len(), ours.len());
        assert!(!ours.is_empty());
        assert!(!made.configurations.iter().any(Configuration::is_ours));
        for (device, result) in allocation.devices.iter().zip(ours) {
            assert_eq!(device.admin_access, result.admin == Some(true));
            assert_eq!(device.share_id, result.share);
            assert!(!device.request.contains('/'));
            let (pool, name) = (&device.pool, &device.device);
            assert!(still_allocates(&claim, &wanted(), DRIVER, pool, name));
        }
    });
}

#[test]
fn no_answer_of_the_api_server_breaks_the_reader() {
    fuzz!(3_000, (Claim, u16, u8), |(made, at, bits)| {
        let mut bytes = serde_json::to_vec(&made.json()).unwrap();
        let at = usize::from(*at) % bytes.len();
        bytes[at] ^= bits;
        if let Ok(claim) = serde_json::from_slice::<ResourceClaim>(&bytes)
            && let Ok(allocation) = allocation(&claim, &wanted(), DRIVER)
        {
            assert!(!allocation.devices.is_empty());
        }
    });
}
