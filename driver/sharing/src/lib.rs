//! Decides what the shares of one GPU may have of it.
//!
//! Who asks for a share states a demand ([`ShareConfig`](tessera_api::ShareConfig)); a node has
//! [`Mechanisms`] that hold shares to their memory, some better than others. [`grant`] brings the two
//! together or refuses. What concerns the device as a whole is agreed on in [`merge`]. [`Account`] adds up what was
//! given away, [`decide`] moves the limits of shares that may grow, and [`ShareStatus`] is what the claim of a share says
//! of it.
//!
//! Nothing here acts. What is to be reclaimed from shares above their guarantee nobody takes yet: they get no more, and
//! keep what they have.

mod account;
mod consumable;
mod grant;
mod holder;
mod holding;
mod mechanisms;
mod range;
mod settings;
mod standing;
mod status;
mod tier;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;

pub use account::{Account, Capacity, Hold, Overdrawn, Part};
pub use consumable::{ConsumableShares, ConsumableSharesError, FULL_COMPUTE};
pub use grant::{Demand, Grant, Refusal, Shortfall, grant};
pub use holder::Holder;
pub use holding::{Holding, InUse, hold};
pub use mechanisms::{Form, Mechanisms, NoNative, NodeFacts};
pub use range::{
    Card, Decision, Lending, Limit, LimitChange, Measured, Pressed, Promised, Reclaim, Rung, Rungs,
    STEP, ShareState, Tenant, decide, tenants,
};
pub use settings::{Conflict, DeviceSettings, DeviceWish, merge};
pub use standing::{Standing, Violation};
pub use status::{
    AT_ONCE, Behind, Candidate, ContainerMemory, Past, SharePlace, ShareStatus, behind, chosen,
    entry, running,
};
pub use tessera_claim::{COMPUTE_SHARE, MEMORY, SHARES};
pub use tier::{
    Attribute, DYNAMIC_MEMORY, MEMORY_ENFORCEMENT, SWAP_MECHANISM, SwapMechanism, Tier,
};
