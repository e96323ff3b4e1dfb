//! Fuzz targets: claims as the API server may answer them.
//!
//! Configurations come mostly with words that mean something, so that the strict decoders go deep.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own functions fail by panic, as the test does"
)]

use bolero::TypeGenerator;
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Map, Value, json};
use tessera_api::{API_VERSION, Config, Document, Driver, FieldPath, OWN_API_VERSION};
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
    share: Option<ShareText>,
    consumed: Vec<(ConsumedName, AmountText)>,
}

#[derive(Clone, Debug, TypeGenerator)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a generated configuration may have or not"
)]
struct Configuration {
    ours: bool,
    from_class: bool,
    opaque: bool,
    requests: Vec<String>,
    /// The kind, if there is a header at all.
    kind: Option<Word>,
    /// Whether it stands beside the version of our own group.
    own: bool,
    fields: Vec<(Word, Parameter)>,
}

/// Mostly a word of the configuration kinds.
#[derive(Clone, Debug, TypeGenerator)]
enum Word {
    Known(u8),
    Any(String),
}

#[derive(Clone, Debug, TypeGenerator)]
enum Scalar {
    Null,
    Bool(bool),
    Number(i16),
    Text(Word),
}

/// A value as deep as the kinds go.
#[derive(Clone, Debug, TypeGenerator)]
enum Parameter {
    Scalar(Scalar),
    Object(Vec<(Word, Scalar)>),
    Deep(Word, Word, Vec<(Word, Scalar)>),
}

const WORDS: [&str; 48] = [
    "GpuConfig",
    "MigDeviceConfig",
    "VfioDeviceConfig",
    "sharing",
    "strategy",
    "TimeSlicing",
    "MPS",
    "timeSlicingConfig",
    "interval",
    "Short",
    "mpsConfig",
    "defaultActiveThreadPercentage",
    "defaultPinnedDeviceMemoryLimit",
    "defaultPerDevicePinnedMemoryLimit",
    "multiUser",
    "0",
    "GPU-0",
    "1Gi",
    "iommu",
    "backendPolicy",
    "PreferIommuFD",
    "enableAPIDevice",
    "metadata",
    "kind",
    "ShareConfig",
    "memory",
    "limit",
    "50%",
    "enforcement",
    "Required",
    "BestEffort",
    "minimumTier",
    "Native",
    "onPressure",
    "Swap",
    "Evict",
    "compute",
    "mode",
    "TimeWindows",
    "weight",
    "swap",
    "policy",
    "Never",
    "Allow",
    "idleSeconds",
    "maxWakeSeconds",
    "hostLimit",
    "assumeUnshared",
];

impl Word {
    fn text(&self) -> String {
        match self {
            Self::Known(at) => WORDS[usize::from(*at) % WORDS.len()].to_owned(),
            Self::Any(text) => text.clone(),
        }
    }
}

impl Scalar {
    fn json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => json!(value),
            Self::Number(value) => json!(value),
            Self::Text(word) => json!(word.text()),
        }
    }

    fn object(fields: &[(Word, Self)]) -> Value {
        let fields = fields.iter();
        Value::Object(
            fields
                .map(|(name, value)| (name.text(), value.json()))
                .collect(),
        )
    }
}

impl Parameter {
    fn json(&self) -> Value {
        match self {
            Self::Scalar(value) => value.json(),
            Self::Object(fields) => Scalar::object(fields),
            Self::Deep(strategy, name, fields) => {
                let name = name.text();
                json!({ "strategy": strategy.text(), name: Scalar::object(fields) })
            }
        }
    }
}

/// The id of a share, mostly one that the scheduler could have made.
#[derive(Clone, Debug, TypeGenerator)]
enum ShareText {
    Id(u8),
    Any(String),
}

impl ShareText {
    fn text(&self) -> String {
        match self {
            Self::Id(at) => format!("a671734a-e8e5-11e4-8fde-{at:012}"),
            Self::Any(text) => text.clone(),
        }
    }
}

#[derive(Clone, Debug, TypeGenerator)]
enum ConsumedName {
    Memory,
    ComputeShare,
    Shares,
    Any(String),
}

#[derive(Clone, Debug, TypeGenerator)]
enum AmountText {
    Gibibytes(u8),
    Count(u32),
    Any(String),
}

impl AmountText {
    fn text(&self) -> String {
        match self {
            Self::Gibibytes(amount) => format!("{amount}Gi"),
            Self::Count(amount) => amount.to_string(),
            Self::Any(text) => text.clone(),
        }
    }
}

impl ConsumedName {
    fn text(&self) -> &str {
        match self {
            Self::Memory => "memory",
            Self::ComputeShare => "computeShare",
            Self::Shares => "gpu.nvidia.com/shares",
            Self::Any(name) => name,
        }
    }
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
        let consumed: Map<_, _> = self
            .consumed
            .iter()
            .map(|(name, amount)| (name.text().to_owned(), json!(amount.text())))
            .collect();
        json!({
            "driver": if self.ours { DRIVER } else { "net.example.com" },
            "request": self.request,
            "pool": self.pool,
            "device": device,
            "adminAccess": self.admin,
            "shareID": self.share.as_ref().map(ShareText::text),
            "consumedCapacity": consumed,
        })
    }
}

impl Configuration {
    fn is_ours(&self) -> bool {
        self.ours && self.opaque
    }

    fn parameters(&self) -> Value {
        let fields = self.fields.iter();
        let mut parameters: Map<_, _> = fields
            .map(|(name, value)| (name.text(), value.json()))
            .collect();
        if let Some(kind) = &self.kind {
            parameters.insert("kind".to_owned(), kind.text().into());
            let version = if self.own {
                OWN_API_VERSION
            } else {
                API_VERSION
            };
            parameters.insert("apiVersion".to_owned(), version.into());
        }
        Value::Object(parameters)
    }

    fn decoded(&self) -> Option<Config> {
        let at = FieldPath::parameters("p");
        Config::decode(Driver::Gpu, &at, &Document::from(&self.parameters())).ok()
    }

    fn json(&self) -> Value {
        let parameters = self.parameters();
        let driver = if self.ours { DRIVER } else { "net.example.com" };
        let opaque = json!({ "driver": driver, "parameters": parameters });
        json!({
            "source": if self.from_class { "FromClass" } else { "FromClaim" },
            "requests": self.requests,
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
        let Ok(allocation) = allocation(&claim, &wanted(), DRIVER, tessera_api::AVAILABLE) else {
            return;
        };
        assert!(made.same_uid && made.allocated);
        let ours: Vec<_> = made.results.iter().filter(|result| result.ours).collect();
        assert_eq!(allocation.devices.len(), ours.len());
        assert!(!ours.is_empty());
        let configurations = made.configurations.iter().filter(|made| made.is_ours());
        let decoded: Option<Vec<_>> = configurations.map(Configuration::decoded).collect();
        let decoded = decoded.expect("a wrong configuration refuses the claim");
        for (device, result) in allocation.devices.iter().zip(ours) {
            assert_eq!(device.admin_access, result.admin == Some(true));
            assert_eq!(device.share_id, result.share.as_ref().map(ShareText::text));
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
            assert!(device.share_id.iter().all(|id| id.chars().all(is_word)));
            assert!(!device.request.contains('/'));
            assert!(device.configuration.iter().all(|one| decoded.contains(one)));
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
            && let Ok(allocation) = allocation(&claim, &wanted(), DRIVER, tessera_api::AVAILABLE)
        {
            assert!(!allocation.devices.is_empty());
        }
    });
}
