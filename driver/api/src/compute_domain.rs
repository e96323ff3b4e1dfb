//! How a pod joins a compute domain.
//!
//! The templates that a compute domain makes carry these kinds; nobody needs to write them by hand.

use serde::{Deserialize, Serialize};

use crate::error::ConfigError;
use crate::fields::{Field, Fields};

/// Configuration of a channel that a workload gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeDomainChannelConfig {
    /// UID of the compute domain.
    pub domain_id: String,
    /// How many channels the container gets.
    pub allocation_mode: AllocationMode,
}

/// Configuration of the daemon of a compute domain on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeDomainDaemonConfig {
    /// UID of the compute domain.
    pub domain_id: String,
}

/// How many channels a container gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllocationMode {
    /// One.
    #[default]
    Single,
    /// All that there are.
    All,
}

impl AllocationMode {
    const ALL: [Self; 2] = [Self::Single, Self::All];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Single => "Single",
            Self::All => "All",
        }
    }
}

impl ComputeDomainChannelConfig {
    pub(crate) const FIELDS: &'static [&'static str] =
        &["apiVersion", "kind", "domainID", "allocationMode"];

    pub(crate) fn decode(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let mode = |field: Field<'_>| {
            field.one_of(
                "allocation mode",
                &AllocationMode::ALL,
                AllocationMode::as_str,
            )
        };
        let allocation_mode = fields
            .get("allocationMode")
            .map(mode)
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            domain_id: domain_id(fields)?,
            allocation_mode,
        })
    }
}

impl ComputeDomainDaemonConfig {
    pub(crate) const FIELDS: &'static [&'static str] = &["apiVersion", "kind", "domainID"];

    pub(crate) fn decode(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let domain_id = domain_id(fields)?;
        Ok(Self { domain_id })
    }
}

fn domain_id(fields: &Fields<'_>) -> Result<String, ConfigError> {
    let field = fields.required("domainID", &["the UID of the ComputeDomain"])?;
    let text = field.text()?;
    if text.is_empty() {
        return Err(ConfigError::Missing {
            at: field.at,
            remedy: "write the UID of the ComputeDomain".to_owned(),
        });
    }
    Ok(text.to_owned())
}
