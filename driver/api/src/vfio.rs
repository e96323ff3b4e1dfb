//! How a GPU is handed to a virtual machine.

use serde_json::{Value, json};

use crate::error::ConfigError;
use crate::fields::Fields;

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

const POLICIES: &[&str] = &["LegacyOnly", "PreferIommuFD"];

impl VfioDeviceConfig {
    pub(crate) const FIELDS: &'static [&'static str] = &["apiVersion", "kind", "iommu"];

    pub(crate) fn decode(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let Some(iommu) = fields.get("iommu") else {
            return Ok(Self::default());
        };
        let iommu = iommu
            .fields()?
            .only(&["backendPolicy", "enableAPIDevice"])?;
        let backend = match iommu.get("backendPolicy") {
            None => IommuBackend::default(),
            Some(policy) => match policy.one_of("IOMMU backend policy", POLICIES)? {
                0 => IommuBackend::LegacyOnly,
                _ => IommuBackend::PreferIommuFd,
            },
        };
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

    pub(crate) fn encode(&self) -> (&'static str, Value) {
        let policy = match self.backend {
            IommuBackend::LegacyOnly => POLICIES[0],
            IommuBackend::PreferIommuFd => POLICIES[1],
        };
        let iommu = json!({"backendPolicy": policy, "enableAPIDevice": self.enable_api_device});
        ("iommu", iommu)
    }
}
