//! Reads what a `ResourceClaim` allocates to this node.
//!
//! A claim comes from the API with everything optional; [`allocation`] turns it once into values
//! that the planning crates need not check again, or says why it cannot.

mod allocation;
mod configuration;
mod ids;
mod share;
mod slot;
mod users;

pub use allocation::{
    AllocatedDevice, Allocation, ClaimRefusal, allocates, allocation, still_allocates,
};
pub use configuration::ConfigurationRefusal;
pub use ids::{ClaimRef, ClaimUid, UidError};
pub use share::{COMPUTE_SHARE, Consumed, MEMORY, SHARES, ShareError};
pub use slot::{NoSlot, Slot, slot};
pub use users::{PodRef, users};
