//! MIG: GPUs that are cut into instances.
//!
//! A GPU in MIG mode is cut into *GPU instances*, each with some of its memory slices and some of its
//! engines, and each of those holds one or more *compute instances*. What programs use is a pair of
//! both, a *MIG device*. The words are those of NVML and of NVIDIA's MIG user guide.

mod choices;
mod option;
mod placement;
mod profile;
mod state;
mod table;

pub use choices::{Bound, Choices, MigLayouts, Slot};
pub use option::{MigOption, UnfinishedInstance};
pub use placement::{Part, Placement};
pub use profile::{Extras, MigProfile, ProfileError};
pub use state::{DeviceNumber, MigAccess, MigEngines, MigInstance, MigMode, MigState};
pub use table::{MODELS, ModeSwitch, Model, Row};
