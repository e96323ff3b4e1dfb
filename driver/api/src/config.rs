//! The configuration kinds, from JSON and back.

use std::fmt;

use serde_json::{Map, Value};

use crate::compute_domain::{ComputeDomainChannelConfig, ComputeDomainDaemonConfig};
use crate::document::{Document, excerpt};
use crate::error::ConfigError;
use crate::feature::{Feature, Unsupported};
use crate::fields::Fields;
use crate::group::{API_VERSION, OWN_API_VERSION};
use crate::path::FieldPath;
use crate::share::ShareConfig;
use crate::sharing::{GpuSharing, MigSharing};
use crate::vfio::VfioDeviceConfig;

/// A driver that takes configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `gpu.nvidia.com`
    Gpu,
    /// `compute-domain.nvidia.com`
    ComputeDomain,
}

/// A kind of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a whole GPU.
    GpuConfig,
    /// Of a MIG device.
    MigDeviceConfig,
    /// Of a GPU bound to a VFIO driver.
    VfioDeviceConfig,
    /// Of a share of a GPU or of a MIG device.
    ShareConfig,
    /// Of a channel of a compute domain.
    ComputeDomainChannelConfig,
    /// Of the daemon of a compute domain.
    ComputeDomainDaemonConfig,
}

/// Configuration of whole GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuConfig {
    /// How the claim's containers share the GPU. `None`: as the NVIDIA driver does by itself.
    pub sharing: Option<GpuSharing>,
}

/// Configuration of MIG devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigDeviceConfig {
    /// How the claim's containers share the MIG device. `None`: as the NVIDIA driver does by itself.
    pub sharing: Option<MigSharing>,
}

/// A configuration that is valid and has its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// Of whole GPUs.
    Gpu(GpuConfig),
    /// Of MIG devices.
    MigDevice(MigDeviceConfig),
    /// Of GPUs bound to a VFIO driver.
    VfioDevice(VfioDeviceConfig),
    /// Of shares of GPUs and MIG devices.
    Share(ShareConfig),
    /// Of channels of a compute domain.
    ComputeDomainChannel(ComputeDomainChannelConfig),
    /// Of the daemon of a compute domain.
    ComputeDomainDaemon(ComputeDomainDaemonConfig),
}

const SHARING_FIELDS: &[&str] = &["apiVersion", "kind", "sharing"];

impl Config {
    /// Decodes the opaque parameters `document` that a claim or class addresses to `driver`.
    ///
    /// Strictly: whatever the kind does not have is an error, because a misspelt field that is
    /// ignored leaves its user with a device that is not as they think.
    pub fn decode(
        driver: Driver,
        at: &FieldPath,
        document: &Document,
    ) -> Result<Self, ConfigError> {
        let fields = Fields::of(at.clone(), document)?;
        let version = api_version(driver, &fields)?;
        let named = fields.required("kind", &driver.kinds(version))?;
        let name = named.text()?;
        let kind = Kind::named(name).ok_or_else(|| ConfigError::UnknownKind {
            at: named.at.clone(),
            found: excerpt(name),
            kinds: driver.kinds(version),
        })?;
        if kind.driver() != driver {
            let at = named.at;
            return Err(ConfigError::OtherDriver { at, kind, driver });
        }
        Self::decode_kind(kind, &fields.only(kind.fields())?)
    }

    /// As [`Config::decode`], from text.
    pub fn decode_text(driver: Driver, at: &FieldPath, text: &str) -> Result<Self, ConfigError> {
        let document = serde_json::from_str(text).map_err(|error| ConfigError::NotJson {
            at: at.clone(),
            problem: error.to_string(),
        })?;
        Self::decode(driver, at, &document)
    }

    fn decode_kind(kind: Kind, fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let sharing = fields.get("sharing");
        Ok(match kind {
            Kind::GpuConfig => Self::Gpu(GpuConfig {
                sharing: sharing.map(GpuSharing::decode).transpose()?,
            }),
            Kind::MigDeviceConfig => Self::MigDevice(MigDeviceConfig {
                sharing: sharing.map(MigSharing::decode).transpose()?,
            }),
            Kind::VfioDeviceConfig => Self::VfioDevice(VfioDeviceConfig::decode(fields)?),
            Kind::ShareConfig => Self::Share(ShareConfig::decode(fields)?),
            Kind::ComputeDomainChannelConfig => {
                Self::ComputeDomainChannel(ComputeDomainChannelConfig::decode(fields)?)
            }
            Kind::ComputeDomainDaemonConfig => {
                Self::ComputeDomainDaemon(ComputeDomainDaemonConfig::decode(fields)?)
            }
        })
    }

    /// The configuration as JSON, every default written out. It decodes to the same again.
    pub fn encode(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("apiVersion".to_owned(), self.kind().api_version().into());
        fields.insert("kind".to_owned(), self.kind().as_str().into());
        let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        match self {
            Self::Gpu(GpuConfig { sharing }) => {
                if let Some(sharing) = sharing {
                    set("sharing", sharing.encode());
                }
            }
            Self::MigDevice(MigDeviceConfig { sharing }) => {
                if let Some(sharing) = sharing {
                    set("sharing", sharing.encode());
                }
            }
            Self::VfioDevice(config) => {
                set("iommu", config.encode());
            }
            Self::Share(config) => {
                for (name, section) in config.encode() {
                    set(name, section);
                }
            }
            Self::ComputeDomainChannel(config) => {
                set("domainID", config.domain_id.clone().into());
                set("allocationMode", config.allocation_mode.as_str().into());
            }
            Self::ComputeDomainDaemon(config) => {
                set("domainID", config.domain_id.clone().into());
            }
        }
        Value::Object(fields)
    }

    /// What kind of configuration it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Gpu(_) => Kind::GpuConfig,
            Self::MigDevice(_) => Kind::MigDeviceConfig,
            Self::VfioDevice(_) => Kind::VfioDeviceConfig,
            Self::Share(_) => Kind::ShareConfig,
            Self::ComputeDomainChannel(_) => Kind::ComputeDomainChannelConfig,
            Self::ComputeDomainDaemon(_) => Kind::ComputeDomainDaemonConfig,
        }
    }

    /// Fails if the configuration, which stands at `at`, asks for a feature that is not among
    /// `available`.
    pub fn require(&self, at: &FieldPath, available: &[Feature]) -> Result<(), Unsupported> {
        let kind = self.kind().as_str();
        let whole = |feature| Some((at.field("kind"), kind, feature, "the configuration"));
        let shared = |(strategy, feature)| {
            let at = at.field("sharing").field("strategy");
            (at, strategy, feature, "sharing")
        };
        let wish = match self {
            Self::Gpu(config) => config.sharing.as_ref().map(GpuSharing::wish).map(shared),
            Self::MigDevice(config) => config.sharing.as_ref().map(MigSharing::wish).map(shared),
            Self::VfioDevice(_) => whole(Feature::Passthrough),
            Self::Share(_) => whole(Feature::Shares),
            Self::ComputeDomainChannel(_) | Self::ComputeDomainDaemon(_) => {
                whole(Feature::ComputeDomains)
            }
        };
        match wish {
            Some((at, value, feature, remove)) if !available.contains(&feature) => {
                Err(Unsupported {
                    at,
                    value,
                    feature,
                    remove,
                })
            }
            _ => Ok(()),
        }
    }
}

/// The API version that `fields` state, which is that of their kind. Beside an unknown kind it may be any that
/// the driver has.
fn api_version(driver: Driver, fields: &Fields<'_>) -> Result<&'static str, ConfigError> {
    let kind = fields.get("kind").and_then(|field| field.value.text());
    let versions = match kind.and_then(Kind::named) {
        Some(kind) => vec![kind.api_version()],
        None => driver.api_versions(),
    };
    let field = fields.required("apiVersion", &versions)?;
    let found = field.text()?;
    let known = versions.iter().find(|version| **version == found);
    known.copied().ok_or_else(|| ConfigError::ApiVersion {
        at: field.at,
        found: excerpt(found),
        versions,
    })
}

impl Driver {
    /// The driver of this name, if it takes configurations.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Gpu, Self::ComputeDomain]
            .into_iter()
            .find(|driver| driver.as_str() == name)
    }

    /// The driver's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gpu => "gpu.nvidia.com",
            Self::ComputeDomain => "compute-domain.nvidia.com",
        }
    }

    /// Names of the kinds of this API version that the driver takes.
    pub fn kinds(self, api_version: &str) -> Vec<&'static str> {
        let taken = Kind::ALL.into_iter();
        let taken = taken.filter(|kind| kind.driver() == self && kind.api_version() == api_version);
        taken.map(Kind::as_str).collect()
    }

    fn api_versions(self) -> Vec<&'static str> {
        let mut versions = vec![API_VERSION, OWN_API_VERSION];
        versions.retain(|version| !self.kinds(version).is_empty());
        versions
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::GpuConfig,
        Self::MigDeviceConfig,
        Self::VfioDeviceConfig,
        Self::ShareConfig,
        Self::ComputeDomainChannelConfig,
        Self::ComputeDomainDaemonConfig,
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GpuConfig => "GpuConfig",
            Self::MigDeviceConfig => "MigDeviceConfig",
            Self::VfioDeviceConfig => "VfioDeviceConfig",
            Self::ShareConfig => "ShareConfig",
            Self::ComputeDomainChannelConfig => "ComputeDomainChannelConfig",
            Self::ComputeDomainDaemonConfig => "ComputeDomainDaemonConfig",
        }
    }

    /// Whose devices it configures.
    pub fn driver(self) -> Driver {
        match self {
            Self::GpuConfig
            | Self::MigDeviceConfig
            | Self::VfioDeviceConfig
            | Self::ShareConfig => Driver::Gpu,
            Self::ComputeDomainChannelConfig | Self::ComputeDomainDaemonConfig => {
                Driver::ComputeDomain
            }
        }
    }

    /// Group and version that stand beside the kind: the reference driver's, or our own.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::ShareConfig => OWN_API_VERSION,
            Self::GpuConfig
            | Self::MigDeviceConfig
            | Self::VfioDeviceConfig
            | Self::ComputeDomainChannelConfig
            | Self::ComputeDomainDaemonConfig => API_VERSION,
        }
    }

    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::GpuConfig | Self::MigDeviceConfig => SHARING_FIELDS,
            Self::VfioDeviceConfig => VfioDeviceConfig::FIELDS,
            Self::ShareConfig => ShareConfig::FIELDS,
            Self::ComputeDomainChannelConfig => ComputeDomainChannelConfig::FIELDS,
            Self::ComputeDomainDaemonConfig => ComputeDomainDaemonConfig::FIELDS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
