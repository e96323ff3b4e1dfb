//! What the publisher needs of the API server.

use std::time::Duration;

use futures::stream::BoxStream;
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_offer::SliceRef;
use thiserror::Error;

use super::Turn;

/// The stored slices of one driver on one node.
pub trait SliceStore: Send + Sync {
    /// The slices as they are now, not as some cache remembers them.
    fn list(&self) -> impl Future<Output = Result<Vec<ResourceSlice>, StoreError>> + Send;

    /// What would be stored by this creation or replacement. Nothing is.
    fn rehearse(
        &self,
        write: Rehearsal<'_>,
    ) -> impl Future<Output = Result<ResourceSlice, StoreError>> + Send;

    /// Stores a new slice and answers what was stored.
    fn create(
        &self,
        slice: &ResourceSlice,
        turn: &Turn,
    ) -> impl Future<Output = Result<ResourceSlice, StoreError>> + Send;

    /// Replaces the slice of this name, if it still has this resource version, and answers what
    /// was stored.
    fn replace(
        &self,
        slice: &ResourceSlice,
        turn: &Turn,
    ) -> impl Future<Output = Result<ResourceSlice, StoreError>> + Send;

    /// Deletes the slice, if it still is that one.
    fn delete(
        &self,
        slice: &SliceRef,
        turn: &Turn,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What happens to the slices, by whomever. A new stream begins with
    /// [`SliceEvent::Relisted`] and ends with the first error; the publisher opens another then,
    /// in its own time.
    fn watch(&self) -> BoxStream<'static, SliceEvent>;
}

/// A write that is tried.
#[derive(Clone, Copy, Debug)]
pub enum Rehearsal<'a> {
    /// The creation of this slice.
    Create(&'a ResourceSlice),
    /// The replacement of the slice of this name.
    Replace(&'a ResourceSlice),
}

/// Something happened to the stored slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceEvent {
    /// The watch begins, or begins again: anything may have happened before.
    Relisted,
    /// A slice was created or changed.
    Stored {
        /// Object name.
        name: String,
        /// Resource version that it now has.
        version: String,
    },
    /// A slice was deleted.
    Deleted {
        /// Object name.
        name: String,
    },
}

/// Why a call had no success. The publisher's error around it says which call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The object exists already, or is not of the version that was read (409).
    #[error(
        "it changed or exists already: {0}; if this lasts, another writer holds an object of \
         this name: find it and delete the object"
    )]
    Conflict(String),
    /// The object is gone (404).
    #[error("it is gone: {0}")]
    Missing(String),
    /// Not allowed (401, 403).
    #[error(
        "not allowed: {0}; the plugin's service account needs get, list, watch, create, update \
         and delete on resourceslices.resource.k8s.io"
    )]
    Forbidden(String),
    /// Not a slice by the server's rules (400, 422).
    #[error("the API server finds it invalid: {0}; please report this as a bug")]
    Invalid(String),
    /// No answer, or one that says to come back later (429, 5xx).
    #[error("the API server is not available: {0}; check the plugin's connection to it")]
    Unavailable(String),
    /// No answer in time.
    #[error("the API server did not answer within {after:?}; check the plugin's connection to it")]
    TimedOut {
        /// The time that was waited.
        after: Duration,
    },
}

impl StoreError {
    /// The reason as the label of a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "conflict",
            Self::Missing(_) => "missing",
            Self::Forbidden(_) => "forbidden",
            Self::Invalid(_) => "invalid",
            Self::Unavailable(_) => "unavailable",
            Self::TimedOut { .. } => "timeout",
        }
    }

    /// Whether the call was made on outdated knowledge, so that a fresh list helps.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Missing(_))
    }
}
