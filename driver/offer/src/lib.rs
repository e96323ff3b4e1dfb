//! Decides which ResourceSlices describe a node's GPUs.
//!
//! [`plan`] turns an inventory into an [`Offer`], [`partitions`] into one of GPUs that are cut when claims
//! need it, and [`channels`] into the one for compute domains;
//! [`reconcile`] compares an offer with what is stored and lists the writes that make them equal;
//! [`dropped_fields`] tells what a server did not keep, and [`Tried`] which writes are worth a dry run to
//! know it in time. All are functions of their arguments: the same input gives the same bytes, so that a
//! republication writes nothing and the scheduler's first fit never changes by chance.

pub mod limits;

mod attributes;
mod channels;
mod engines;
mod entry;
mod fields;
mod layout;
mod mig_device;
mod names;
mod offer;
mod partitions;
mod plan;
mod quantity;
mod reconcile;
mod same;
mod shareable;
mod trial;
mod whole_gpu;

pub use channels::{HeldChannels, channels};
pub use entry::MIG_DEVICE_BUSY;
pub use fields::{FieldPath, dropped_fields};
pub use offer::{DropReason, Dropped, Form, Node, Offer};
pub use partitions::{MadeDevices, partitions};
pub use plan::{nothing, plan};
pub use reconcile::{SliceRef, Write, reconcile};
pub use trial::Tried;
