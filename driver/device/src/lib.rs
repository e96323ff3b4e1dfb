//! What a GPU is: identities, units and facts.
//!
//! This crate holds plain values. It knows neither Kubernetes nor NVML: the NVML adapter fills
//! these types in, and the planning crates read them. Nothing here fails later than at
//! construction, because every identity is parsed once, at the edge.

pub mod fabric;
pub mod follow;
mod ids;
mod inventory;
pub mod mig;
pub mod quantity;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod units;
mod version;

pub use ids::{DeviceName, GpuUuid, IdError, MigUuid, PciAddress, PcieRoot};
pub use inventory::{
    AddressingMode, Architecture, DriverFacts, Gpu, Inventory, InventoryError, MemoryLimiting,
    Offered,
};
pub use units::Bytes;
pub use version::{CudaVersion, DriverVersion};
