//! Simulated GPU hardware: what a node has, what is happening to it, and the driver it sees.
//!
//! A *profile* describes a real machine. *Installing* a profile under a root makes that root look
//! like the root of a driver container: device nodes, libraries, `/proc` and `/sys` files, and the
//! state file that every process of the node shares. The simulated driver library reads that file;
//! tests and people change it while things run.
//!
//! Nothing here is shared with the product, so that one wrong table cannot pass on both sides.

pub mod artifacts;
pub mod fabric;
pub mod facts;
pub mod injection;
pub mod install;
pub mod kernel;
pub mod memory;
pub mod mig;
pub mod policy;
pub mod profile;
pub mod state;

pub use artifacts::{Artifacts, ArtifactsError};
pub use fabric::{Fabric, FabricChange, FabricHealth, FabricState, clique_of_rack};
pub use facts::{AddressingMode, Architecture, Brand, Driver, Facts, PciFunction, Version};
pub use injection::{Effect, Injection, Repeat};
pub use install::{InstallError, Installed, Replaced, install, uninstall, upgrade};
pub use mig::LayoutError;
pub use policy::{ComputeMode, Policy, TimeSlice};
pub use profile::{Profile, ProfileError};
pub use state::{Condition, Gpu, Node, StateError, StateFile};
