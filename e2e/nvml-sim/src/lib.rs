//! A simulated `libnvidia-ml`: the C ABI of NVIDIA's management library over simulated GPUs.
//!
//! It follows the documented behaviour of the real library: which call fails how, what is counted,
//! what a handle is worth. What the GPUs are stands in the state file of the driver root that the
//! library was loaded from; see `tessera-hw`.
//!
//! # Guarantees
//! - A GPU exists here exactly when its device node does, so that a container that was given one
//!   GPU sees one.
//! - No panic crosses the ABI: the caller gets `NVML_ERROR_UNKNOWN`.
//! - The state is looked at in every call, so a change from outside shows at once.
#![allow(
    unsafe_code,
    reason = "this crate is a C ABI: it exports symbols and takes pointers"
)]

mod abi;
mod events;
mod fault;
mod library;
mod root;
mod tally;
