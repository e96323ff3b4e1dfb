//! Reads what the reference driver keeps of the claims that it has prepared: its `checkpoint.json`.
//!
//! The file holds everything twice: `v2`, and the same once more as `v1` for older releases, which wrote
//! that alone. `v2` goes before `v1`, as there. The checksums are not looked at: the reference takes them
//! over its own types as they are encoded again, so a release with another field calls a good file
//! corrupt (its issues 1080 and 1326), and what is read here is checked value by value.
//!
//! # Guarantees
//! No bytes panic the reader. What is wrong with one claim hides no other.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tessera_claim::Consumed;
use tessera_device::{DeviceName, GpuUuid, IdError, MigUuid};
use thiserror::Error;

use crate::record::BootId;

/// A file that is no checkpoint.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// It is no JSON, or not of the shape of a checkpoint.
    #[error("it is not the JSON of a checkpoint: {0}")]
    Shape(#[from] serde_json::Error),
    /// A newer release wrote it, and left out what older ones read.
    #[error("it has neither v1 nor v2, but {found}; a newer release than is known here wrote it")]
    Newer {
        /// What it has instead.
        found: String,
    },
}

/// What the reference driver has prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The boot in which that was; releases that wrote `v1` alone did not say.
    pub boot: Option<BootId>,
    /// By the UID of the claim, as it stands there.
    pub claims: BTreeMap<String, Result<CheckpointedClaim, String>>,
}

/// What it says of one claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointedClaim {
    /// Whether the kubelet was told of success.
    pub completed: bool,
    /// Namespace and name; only a preparation that has begun has them.
    pub name: Option<(String, String)>,
    /// What the scheduler allocated, of whatever driver.
    pub results: Vec<AllocatedResult>,
    /// What was prepared.
    pub devices: Vec<CheckpointedDevice>,
    /// Whether an MPS control daemon was started for it.
    pub mps: bool,
}

/// A device that the scheduler allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocatedResult {
    /// The request, with its sub-request if there is one.
    pub request: String,
    /// The driver.
    pub driver: String,
    /// The pool.
    pub pool: String,
    /// The device.
    pub device: String,
    /// Whether it was admin access.
    pub admin_access: bool,
    /// Which share of the device.
    pub share_id: Option<String>,
    /// What the share takes of it, as far as that can be read.
    pub consumed: Consumed,
}

/// A device that was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointedDevice {
    /// What it is.
    pub kind: DeviceKind,
    /// Its requests.
    pub requests: Vec<String>,
    /// Its pool.
    pub pool: String,
    /// Its name.
    pub name: DeviceName,
    /// What the kubelet hands to the container runtime.
    pub cdi_ids: Vec<String>,
}

/// What a prepared device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A whole GPU.
    Gpu(GpuUuid),
    /// A MIG device: one that was there, or one that was made for the claim. The file does not tell which.
    Mig {
        /// The GPU that it is a part of.
        gpu: GpuUuid,
        /// Which it is, if it says so in a form that NVML has today.
        instance: Option<MigUuid>,
    },
    /// A GPU that was given to a virtual machine. One that was bound to another kernel driver before
    /// the reference started has no UUID that NVML would know.
    Vfio(Option<GpuUuid>),
}

impl Checkpoint {
    /// Whether a claim was prepared with a MIG device, of which the file does not say where it lies.
    pub fn has_mig(&self) -> bool {
        let claims = self.claims.values().flatten();
        let mut devices = claims.flat_map(|claim| &claim.devices);
        devices.any(|device| matches!(device.kind, DeviceKind::Mig { .. }))
    }

    /// Reads the file's contents.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let File { v1, v2, others } = serde_json::from_slice(bytes)?;
        let newer = |key: &&String| key.starts_with('v') && *key != "version";
        match (v2.or(v1), others.keys().find(newer)) {
            (Some(Version { boot, claims }), _) => Ok(Self {
                boot: boot.filter(|boot| !boot.is_empty()).map(BootId),
                claims: claims
                    .into_iter()
                    .map(|(uid, claim)| (uid, read_claim(claim)))
                    .collect(),
            }),
            (None, Some(key)) => Err(CheckpointError::Newer { found: key.clone() }),
            // What the reference writes at its first start, before it has prepared anything.
            (None, None) => Ok(Self::default()),
        }
    }
}

#[derive(Deserialize)]
struct File {
    v1: Option<Version>,
    v2: Option<Version>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "nodeBootID")]
    boot: Option<String>,
    #[serde(rename = "preparedClaims", default, deserialize_with = "or_default")]
    claims: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    checkpoint_state: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
    #[serde(default, deserialize_with = "or_default")]
    prepared_devices: Vec<Option<Group>>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Default, Deserialize)]
struct Status {
    allocation: Option<Allocation>,
}

#[derive(Deserialize)]
struct Allocation {
    #[serde(default, deserialize_with = "or_default")]
    devices: Devices,
}

#[derive(Default, Deserialize)]
struct Devices {
    #[serde(default, deserialize_with = "or_default")]
    results: Vec<ResultEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultEntry {
    request: String,
    driver: String,
    pool: String,
    device: String,
    admin_access: Option<bool>,
    #[serde(rename = "shareID")]
    share_id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    consumed_capacity: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default, deserialize_with = "or_default")]
    devices: Vec<Entry>,
    #[serde(default, deserialize_with = "or_default")]
    config_state: ConfigState,
}

#[derive(Default, Deserialize)]
struct ConfigState {
    #[serde(rename = "mpsControlDaemonID")]
    mps: Option<String>,
}

/// One of these is there, the others are null.
#[derive(Deserialize)]
struct Entry {
    gpu: Option<Kind>,
    mig: Option<Kind>,
    vfio: Option<Kind>,
}

/// What the kinds have in common; which of the two descriptions is there differs.
#[derive(Deserialize)]
struct Kind {
    #[serde(alias = "concrete")]
    info: Option<Info>,
    device: Option<Device>,
}

#[derive(Deserialize)]
struct Info {
    uuid: Option<String>,
    #[serde(rename = "migUUID")]
    mig: Option<String>,
    #[serde(rename = "parentUUID")]
    parent: Option<String>,
}

/// As the Go type names its fields, or, in releases that kept the kubelet's message, as that does.
#[derive(Deserialize)]
struct Device {
    #[serde(
        rename = "Requests",
        alias = "request_names",
        default,
        deserialize_with = "or_default"
    )]
    requests: Vec<String>,
    #[serde(rename = "PoolName", alias = "pool_name", default)]
    pool: String,
    #[serde(rename = "DeviceName", alias = "device_name", default)]
    name: String,
    #[serde(
        rename = "CDIDeviceIDs",
        alias = "cdi_device_ids",
        default,
        deserialize_with = "or_default"
    )]
    cdi_ids: Vec<String>,
}

/// Go writes an empty list, map or struct behind a pointer as null.
fn or_default<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn read_claim(value: Value) -> Result<CheckpointedClaim, String> {
    let claim: Claim = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let groups: Vec<Group> = claim.prepared_devices.into_iter().flatten().collect();
    let completed = match claim.checkpoint_state.as_deref() {
        Some("PrepareStarted") => false,
        // v1 has only what is complete, and does not say so.
        Some("PrepareCompleted" | "") | None => true,
        Some(other) => return Err(format!("checkpointState is {other:?}")),
    };
    let name = (!claim.name.is_empty() && !claim.namespace.is_empty())
        .then_some((claim.namespace, claim.name));
    let mps = groups.iter().any(|group| {
        group
            .config_state
            .mps
            .as_ref()
            .is_some_and(|id| !id.is_empty())
    });
    let entries = groups.into_iter().flat_map(|group| group.devices);
    let allocation = claim.status.allocation;
    let results = allocation.map_or_else(Vec::new, |allocation| allocation.devices.results);
    Ok(CheckpointedClaim {
        completed,
        name,
        results: results.into_iter().map(read_result).collect(),
        devices: entries.map(read_device).collect::<Result<_, _>>()?,
        mps,
    })
}

fn read_result(result: ResultEntry) -> AllocatedResult {
    let amounts = result.consumed_capacity.iter();
    let amounts = amounts.map(|(name, amount)| (name.as_str(), amount.as_str()));
    let consumed = Consumed::of(amounts, &result.driver).unwrap_or_default();
    AllocatedResult {
        consumed,
        request: result.request,
        driver: result.driver,
        pool: result.pool,
        device: result.device,
        admin_access: result.admin_access.unwrap_or_default(),
        share_id: result.share_id.filter(|id| !id.is_empty()),
    }
}

fn read_device(entry: Entry) -> Result<CheckpointedDevice, String> {
    let (kind, part) = match entry {
        Entry {
            gpu: Some(gpu),
            mig: None,
            vfio: None,
        } => (DeviceKind::Gpu(required(gpu.uuid(), "gpu.info.uuid")?), gpu),
        Entry {
            gpu: None,
            mig: Some(mig),
            vfio: None,
        } => {
            let parent = required(mig.parent(), "mig.concrete.parentUUID")?;
            let instance = mig.instance().and_then(|uuid| uuid.parse().ok());
            let gpu = parent;
            (DeviceKind::Mig { gpu, instance }, mig)
        }
        Entry {
            gpu: None,
            mig: None,
            vfio: Some(vfio),
        } => (
            DeviceKind::Vfio(vfio.uuid().and_then(|uuid| uuid.parse().ok())),
            vfio,
        ),
        _ => return Err("a prepared device is not exactly one of gpu, mig and vfio".to_owned()),
    };
    let device = part.device.ok_or("a prepared device has no field device")?;
    Ok(CheckpointedDevice {
        kind,
        requests: device.requests,
        pool: device.pool,
        name: device
            .name
            .parse()
            .map_err(|error: IdError| error.to_string())?,
        cdi_ids: device.cdi_ids,
    })
}

impl Kind {
    fn uuid(&self) -> Option<&str> {
        self.info.as_ref()?.uuid.as_deref()
    }

    /// Of a MIG device: `concrete` names its UUID so, and the `info` of older releases like that of a GPU.
    fn instance(&self) -> Option<&str> {
        let info = self.info.as_ref()?;
        info.mig.as_deref().or(info.uuid.as_deref())
    }

    fn parent(&self) -> Option<&str> {
        self.info.as_ref()?.parent.as_deref()
    }
}

fn required(uuid: Option<&str>, field: &str) -> Result<GpuUuid, String> {
    let uuid = uuid.ok_or_else(|| format!("{field} is missing"))?;
    uuid.parse()
        .map_err(|error: IdError| format!("{field}: {error}"))
}

#[cfg(test)]
mod tests;
