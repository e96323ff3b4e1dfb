//! What configurations can ask for, and how much of it this version has.

use std::fmt;

use thiserror::Error;

use crate::path::FieldPath;

/// Something that a configuration asks the driver to do to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// Set the time slice and compute mode of a GPU.
    TimeSlicing,
    /// Run an MPS control daemon for the claim.
    Mps,
    /// Bind a GPU to a VFIO driver.
    Passthrough,
    /// Hold a share to limits of its own.
    Shares,
    /// Join a compute domain.
    ComputeDomains,
}

/// What this version has. A feature is added here in the change that makes it act.
pub const AVAILABLE: &[Feature] = &[Feature::ComputeDomains, Feature::Shares];

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimeSlicing => "time-slicing settings",
            Self::Mps => "MPS",
            Self::Passthrough => "VFIO passthrough",
            Self::Shares => "limits of shares",
            Self::ComputeDomains => "compute domains",
        })
    }
}

/// A valid configuration that asks for more than there is.
///
/// It is refused and not ignored, because whoever wrote it expects it to act.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{at}: {value:?} asks for {feature}, which this version does not have yet; remove {remove}"
)]
pub struct Unsupported {
    /// The field that asks.
    pub at: FieldPath,
    /// Its value.
    pub value: &'static str,
    /// What it asks for.
    pub feature: Feature,
    /// What to take out of the configuration to be rid of the wish.
    pub remove: &'static str,
}
