//! The versions of the resource API, and how its objects are written in each.
//!
//! Everything else in this project knows `resource.k8s.io/v1` alone, which Kubernetes serves since
//! 1.34. A server of 1.33 has `v1beta1` and `v1beta2` instead. Objects are brought into the form of
//! the version that a server has, and back, at the very edge: where they are sent and received.
//!
//! # Guarantees
//! An object that is written in one version and read back is the object that it was. What a version
//! does not have, a server of that version drops, as it drops fields that are behind its gates.

mod form;
mod release;
mod version;

pub use form::{FormError, claim_from, slice_from, slice_in};
pub use release::{COUNTS_SHARES, Release, ReleaseError};
pub use version::{GROUP, Version, VersionError};
