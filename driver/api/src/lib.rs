//! The kinds that users write: configurations, decoded strictly, and custom resources.
//!
//! A claim or a device class carries configuration that only the driver understands ("opaque"
//! parameters). [`Config`] is such a configuration after it was decoded, given its defaults and
//! found valid, so that nobody has to check it again. What it asks for may still be more than a
//! version can do: [`Config::require`] tells.
//!
//! Decoding takes JSON and says where in it a mistake is. The custom resources are checked by the API server
//! against the chart's CRDs, which a test holds against the types here.

mod clique;
mod compute_domain;
mod config;
mod document;
mod domain;
mod error;
mod feature;
mod fields;
mod group;
mod object;
mod path;
mod policy;
mod share;
mod sharing;
mod vfio;

pub use clique::{
    NVLinkClique, NVLinkCliqueMember, NVLinkCliqueSession, NVLinkCliqueSpec, NVLinkCliqueStatus,
    SessionsOf,
};
pub use compute_domain::{AllocationMode, ComputeDomainChannelConfig, ComputeDomainDaemonConfig};
pub use config::{Config, Driver, GpuConfig, Kind, MigDeviceConfig};
pub use document::Document;
pub use domain::{
    ComputeDomain, ComputeDomainChannelSpec, ComputeDomainNode, ComputeDomainSpec,
    ComputeDomainStatus, ComputeDomainTemplate, DomainSize, NODES_IN_STATUS, Readiness,
};
pub use error::ConfigError;
pub use feature::{AVAILABLE, Feature, Unsupported, available};
pub use group::{API_VERSION, GROUP, OWN_API_VERSION, OWN_GROUP, OWN_VERSION, VERSION};
pub use path::FieldPath;
pub use policy::{
    CapacityType, CliquePolicy, DEFAULT_POLICY, DomainPolicy, DomainPolicySpec, DomainPolicyStatus,
    POLICY_ANNOTATION, Replacement, Topology,
};
pub use share::{
    ComputeConfig, ComputeMode, Enforcement, MemoryConfig, MemoryLimit, MinimumTier, Pressure,
    ShareConfig, SwapConfig, Willingness,
};
pub use sharing::{GpuSharing, Interval, LimitedDevice, MigSharing, MpsConfig};
pub use vfio::{IommuBackend, VfioDeviceConfig};
