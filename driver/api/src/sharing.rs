//! How the containers of a claim share its devices.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tessera_device::Bytes;

use crate::error::ConfigError;
use crate::feature::Feature;
use crate::fields::{Field, Fields};

const STRATEGIES: &[&str] = &[TIME_SLICING, MPS];
const TIME_SLICING: &str = "TimeSlicing";
const MPS: &str = "MPS";

/// How a GPU is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuSharing {
    /// In turns.
    TimeSlicing(Interval),
    /// At the same time, through an MPS daemon.
    Mps(MpsConfig),
}

/// How a MIG device is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigSharing {
    /// In turns. A MIG device has no time slice to set, so this changes nothing of it.
    TimeSlicing,
    /// At the same time, through an MPS daemon.
    Mps(MpsConfig),
}

/// How long a process keeps the GPU while another waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interval {
    /// As the NVIDIA driver does by itself.
    #[default]
    Default,
    /// Short.
    Short,
    /// Medium.
    Medium,
    /// Long.
    Long,
}

impl Interval {
    const ALL: [Self; 4] = [Self::Default, Self::Short, Self::Medium, Self::Long];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "Default",
            Self::Short => "Short",
            Self::Medium => "Medium",
            Self::Long => "Long",
        }
    }

    /// The interval of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|interval| interval.as_str() == name)
    }
}

/// A device among those of a claim that a limit is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitedDevice {
    /// Its position among the claim's devices in the order of their UUIDs.
    Index(u32),
    /// Its UUID, of a GPU or of a MIG device.
    Uuid(String),
}

/// Settings of an MPS control daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MpsConfig {
    /// Share of the GPU's threads that each client may use, in percent. `None`: all.
    pub active_thread_percentage: Option<u8>,
    /// Device memory that each client may use of each device: whole MiB. `None`: all.
    pub pinned_memory: Option<Bytes>,
    /// The same for single devices, before `pinned_memory`.
    pub per_device: BTreeMap<LimitedDevice, Bytes>,
    /// Whether processes of several users may share the daemon.
    pub multi_user: bool,
}

impl GpuSharing {
    pub(crate) fn decode(sharing: Field<'_>) -> Result<Self, ConfigError> {
        let fields = sharing
            .fields()?
            .only(&["strategy", "timeSlicingConfig", "mpsConfig"])?;
        if strategy(&fields)? == MPS {
            refuse(&fields, "timeSlicingConfig", MPS, TIME_SLICING)?;
            return Ok(Self::Mps(mps(&fields)?));
        }
        refuse(&fields, "mpsConfig", TIME_SLICING, MPS)?;
        let interval = fields.get("timeSlicingConfig").map(interval).transpose()?;
        Ok(Self::TimeSlicing(interval.unwrap_or_default()))
    }

    pub(crate) fn encode(&self) -> Value {
        match self {
            Self::TimeSlicing(interval) => json!({
                "strategy": TIME_SLICING,
                "timeSlicingConfig": {"interval": interval.as_str()},
            }),
            Self::Mps(config) => json!({"strategy": MPS, "mpsConfig": config.encode()}),
        }
    }

    pub(crate) fn wish(&self) -> (&'static str, Feature) {
        match self {
            Self::TimeSlicing(_) => (TIME_SLICING, Feature::TimeSlicing),
            Self::Mps(_) => (MPS, Feature::Mps),
        }
    }
}

impl MigSharing {
    pub(crate) fn decode(sharing: Field<'_>) -> Result<Self, ConfigError> {
        let fields = sharing.fields()?.only(&["strategy", "mpsConfig"])?;
        if strategy(&fields)? == MPS {
            return Ok(Self::Mps(mps(&fields)?));
        }
        refuse(&fields, "mpsConfig", TIME_SLICING, MPS)?;
        Ok(Self::TimeSlicing)
    }

    pub(crate) fn encode(&self) -> Value {
        match self {
            Self::TimeSlicing => json!({"strategy": TIME_SLICING}),
            Self::Mps(config) => json!({"strategy": MPS, "mpsConfig": config.encode()}),
        }
    }

    pub(crate) fn wish(&self) -> (&'static str, Feature) {
        match self {
            Self::TimeSlicing => (TIME_SLICING, Feature::TimeSlicing),
            Self::Mps(_) => (MPS, Feature::Mps),
        }
    }
}

fn strategy(fields: &Fields<'_>) -> Result<&'static str, ConfigError> {
    let field = fields.required("strategy", STRATEGIES)?;
    field.one_of("GPU sharing strategy", STRATEGIES, |name| name)
}

fn refuse(
    fields: &Fields<'_>,
    name: &str,
    strategy: &'static str,
    belongs: &'static str,
) -> Result<(), ConfigError> {
    match fields.get(name) {
        None => Ok(()),
        Some(Field { at, .. }) => Err(ConfigError::OtherStrategy {
            at,
            strategy,
            belongs,
        }),
    }
}

fn interval(settings: Field<'_>) -> Result<Interval, ConfigError> {
    let fields = settings.fields()?.only(&["interval"])?;
    match fields.get("interval") {
        None => Ok(Interval::default()),
        Some(field) => field.one_of("time-slice interval", &Interval::ALL, Interval::as_str),
    }
}

fn mps(sharing: &Fields<'_>) -> Result<MpsConfig, ConfigError> {
    let Some(settings) = sharing.get("mpsConfig") else {
        return Ok(MpsConfig::default());
    };
    let fields = settings.fields()?.only(&[
        "defaultActiveThreadPercentage",
        "defaultPinnedDeviceMemoryLimit",
        "defaultPerDevicePinnedMemoryLimit",
        "multiUser",
    ])?;
    let limit = |field: Field<'_>| field.mebibytes().map(Bytes::from_mib);
    Ok(MpsConfig {
        active_thread_percentage: fields
            .get("defaultActiveThreadPercentage")
            .map(|field| field.whole("the active thread percentage", 0, 100))
            .transpose()?,
        pinned_memory: fields
            .get("defaultPinnedDeviceMemoryLimit")
            .map(limit)
            .transpose()?,
        per_device: match fields.get("defaultPerDevicePinnedMemoryLimit") {
            None => BTreeMap::new(),
            Some(field) => field
                .fields()?
                .entries()
                .map(|(key, field)| Ok((limited(key, &field)?, limit(field)?)))
                .collect::<Result<_, _>>()?,
        },
        multi_user: fields
            .get("multiUser")
            .map(|field| field.boolean())
            .transpose()?
            .unwrap_or_default(),
    })
}

/// A device by index or UUID. Whether the claim has it is known only when it is prepared.
fn limited(key: &str, field: &Field<'_>) -> Result<LimitedDevice, ConfigError> {
    if let Ok(index) = key.parse() {
        return Ok(LimitedDevice::Index(index));
    }
    if ["GPU-", "MIG-"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
    {
        return Ok(LimitedDevice::Uuid(key.to_owned()));
    }
    Err(ConfigError::Device {
        at: field.at.clone(),
        found: crate::document::excerpt(key),
    })
}

impl MpsConfig {
    fn encode(&self) -> Value {
        let mut fields = Map::new();
        if let Some(percent) = self.active_thread_percentage {
            fields.insert("defaultActiveThreadPercentage".to_owned(), percent.into());
        }
        if let Some(limit) = self.pinned_memory {
            let limit = limit.to_string();
            fields.insert("defaultPinnedDeviceMemoryLimit".to_owned(), limit.into());
        }
        if !self.per_device.is_empty() {
            let limits: Map<String, Value> = self
                .per_device
                .iter()
                .map(|(device, limit)| (device.to_string(), limit.to_string().into()))
                .collect();
            fields.insert(
                "defaultPerDevicePinnedMemoryLimit".to_owned(),
                limits.into(),
            );
        }
        fields.insert("multiUser".to_owned(), self.multi_user.into());
        Value::Object(fields)
    }
}

impl std::fmt::Display for LimitedDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Uuid(uuid) => f.write_str(uuid),
        }
    }
}
