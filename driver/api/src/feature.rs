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

/// What this version has where no feature gate is switched on. A feature is added here, or to those with a
/// gate, in the change that makes it act.
pub const AVAILABLE: &[Feature] = &[Feature::ComputeDomains, Feature::Shares];

/// What this version has where the feature gates are switched like this.
pub fn available(time_slicing_settings: bool) -> &'static [Feature] {
    const WITH_TIME_SLICING: &[Feature] = &[
        Feature::ComputeDomains,
        Feature::Shares,
        Feature::TimeSlicing,
    ];
    if time_slicing_settings {
        WITH_TIME_SLICING
    } else {
        AVAILABLE
    }
}

impl Feature {
    /// The feature gate that switches it on, by the name of the reference driver.
    fn gate(self) -> Option<&'static str> {
        match self {
            Self::TimeSlicing => Some("TimeSlicingSettings"),
            Self::Mps | Self::Passthrough | Self::Shares | Self::ComputeDomains => None,
        }
    }
}

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
#[error("{at}: {value:?} asks for {feature}, {} remove {remove}", missing(*feature))]
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

/// Why a feature is not there, and what can be done beside doing without it.
fn missing(feature: Feature) -> String {
    match feature.gate() {
        Some(gate) => format!("whose feature gate {gate} is off; switch it on, or"),
        None => "which this version does not have yet;".to_owned(),
    }
}
