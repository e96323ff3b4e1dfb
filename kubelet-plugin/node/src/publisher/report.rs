//! What the publisher tells the rest of the plugin.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_offer::{FieldPath, SliceRef};
use thiserror::Error;

use super::store::StoreError;

/// Whether the node's devices can be allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishState {
    /// There is nothing to publish: the kubelet has not registered the driver.
    NotYet,
    /// Another process of the driver on this node publishes, as in an upgrade; this one is ready to
    /// take over.
    Standby,
    /// The stored slices are those of the offer.
    Published {
        /// Generation of the pool.
        generation: i64,
        /// Number of devices in it.
        devices: usize,
    },
    /// The last attempt failed; another follows.
    Failing {
        /// What failed, why, and what to do about it.
        reason: String,
    },
}

impl PublishState {
    /// Whether the node's devices are published, by whichever process of the driver.
    pub fn is_published(&self) -> bool {
        matches!(self, Self::Published { .. } | Self::Standby)
    }
}

/// Hears of what happens, for metrics. The unit type hears nothing.
pub trait Observer: Send + Sync {
    /// So many writes made the stored slices equal to the offer.
    fn published(&self, writes: usize);
    /// So many of the devices that are stored can be shared by several claims.
    fn shareable(&self, devices: usize);
    /// A call failed; `reason` is one of a fixed few, see [`StoreError::reason`].
    fn write_failed(&self, reason: &'static str);
    /// The server stored slices without these fields. A smaller offer may be called for.
    fn fields_dropped(&self, fields: &BTreeSet<FieldPath>);
}

impl Observer for () {
    fn published(&self, _writes: usize) {}
    fn shareable(&self, _devices: usize) {}
    fn write_failed(&self, _reason: &'static str) {}
    fn fields_dropped(&self, _fields: &BTreeSet<FieldPath>) {}
}

/// Why the stored slices are not those of the offer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The stored slices could not be read.
    #[error("listing the ResourceSlices of driver {driver} on node {node}: {source}")]
    List {
        /// The node.
        node: String,
        /// The driver.
        driver: String,
        /// What went wrong.
        source: StoreError,
    },
    /// A slice could not be created.
    #[error("creating ResourceSlice {name}: {source}")]
    Create {
        /// Object name.
        name: String,
        /// What went wrong.
        source: StoreError,
    },
    /// A slice could not be replaced.
    #[error("replacing ResourceSlice {name}: {source}")]
    Replace {
        /// Object name.
        name: String,
        /// What went wrong.
        source: StoreError,
    },
    /// A slice that is not wanted any more could not be deleted.
    #[error("deleting the leftover ResourceSlice {name}: {source}")]
    Delete {
        /// Object name.
        name: String,
        /// What went wrong.
        source: StoreError,
    },
}

impl PublishError {
    pub(super) fn create(slice: &ResourceSlice) -> impl FnOnce(StoreError) -> Self {
        let name = slice.metadata.name.clone().unwrap_or_default();
        |source| Self::Create { name, source }
    }

    pub(super) fn replace(slice: &ResourceSlice) -> impl FnOnce(StoreError) -> Self {
        let name = slice.metadata.name.clone().unwrap_or_default();
        |source| Self::Replace { name, source }
    }

    pub(super) fn delete(slice: &SliceRef) -> impl FnOnce(StoreError) -> Self {
        let name = slice.name.clone();
        |source| Self::Delete { name, source }
    }

    /// The reason as the label of a metric.
    pub fn reason(&self) -> &'static str {
        self.cause().reason()
    }

    /// Whether a fresh list may already help.
    pub(super) fn is_stale(&self) -> bool {
        !matches!(self, Self::List { .. }) && self.cause().is_stale()
    }

    fn cause(&self) -> &StoreError {
        match self {
            Self::List { source, .. }
            | Self::Create { source, .. }
            | Self::Replace { source, .. }
            | Self::Delete { source, .. } => source,
        }
    }
}
