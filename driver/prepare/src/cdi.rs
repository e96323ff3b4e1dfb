//! Renders the CDI spec of a claim.
//!
//! The Container Device Interface is how a container runtime learns what a GPU means inside a
//! container. Each prepared claim has one spec of its own, complete in itself: nothing in it refers
//! to another file, so it stays right when GPUs are renumbered or other claims come and go.
//!
//! # Guarantees
//! - Same inputs, same bytes.
//! - A container may use several claims. The runtime replaces device nodes and mounts that have the
//!   same path in the container, and the last of two equal variables wins, so the edits that two
//!   specs have in common are applied once. Hooks are the exception: they run once per spec, and
//!   are idempotent.
//! - Every spec sets `NVIDIA_VISIBLE_DEVICES=void`. Where the `nvidia` runtime is the default
//!   runtime, that keeps it from adding the GPUs that an image's environment asks for.

mod currency;
mod install;
mod kind;
mod limit;
mod render;
mod spec;

pub use currency::is_current;
pub use install::{DriverFile, DriverInstall, DriverLink, LimitHook};
pub use kind::{
    CLAIM_KIND, CdiKind, ClaimedDevice, KindError, claim_of_file, claimed_devices, device_id,
    device_name, file_name, reference_file_name,
};
pub use limit::{ceiling_in, limit_in};
pub use render::{GpuEdits, claim_spec};
pub use spec::{CdiVersion, ContainerEdits, Device, DeviceNode, Hook, Mount, NodeNumbers, Spec};
