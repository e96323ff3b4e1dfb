//! How a GPU is handed to a virtual machine.

use serde_json::{Value, json};

use crate::error::ConfigError;
use crate::fields::{Field, Fields};

/// Configuration of a GPU that is bound to a VFIO driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VfioDeviceConfig {
    /// Which of the kernel's interfaces is used.
    pub backend: IommuBackend,
    /// Whether the container gets that interface's device node too.
    pub enable_api_device: bool,
}

/// An interface of the kernel to the IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IommuBackend {
    /// Only `/dev/vfio/vfio`.
    #[default]
    LegacyOnly,
    /// `/dev/iommu` where the host has it.
    PreferIommuFd,
}

impl IommuBackend {
    const ALL: [Self; 2] = [Self::LegacyOnly, Self::PreferIommuFd];

    /// The policy that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LegacyOnly => "LegacyOnly",
            Self::PreferIommuFd => "PreferIommuFD",
        }
    }
}

impl VfioDeviceConfig {
    pub(crate) const FIELDS: &'static [&'static str] = &["apiVersion", "kind", "iommu"];

    pub(crate) fn decode(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let Some(iommu) = fields.get("iommu") else {
            return Ok(Self::default());
        };
        let iommu = iommu
            .fields()?
            .only(&["backendPolicy", "enableAPIDevice"])?;
        let policy = |field: Field<'_>| {
            field.one_of(
                "IOMMU backend policy",
                &IommuBackend::ALL,
                IommuBackend::as_str,
            )
        };
        let backend = iommu
            .get("backendPolicy")
            .map(policy)
            .transpose()?
            .unwrap_or_default();
        let enable_api_device = iommu
            .get("enableAPIDevice")
            .map(|field| field.boolean())
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            backend,
            enable_api_device,
        })
    }

    pub(crate) fn encode(&self) -> Value {
        let policy = self.backend.as_str();
        json!({"backendPolicy": policy, "enableAPIDevice": self.enable_api_device})
    }
}
