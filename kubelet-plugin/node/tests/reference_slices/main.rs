//! What this driver offers, held against slices of the reference driver.
//!
//! Some were published on real machines ([`published`]), others are what its own code makes of simulated ones
//! ([`simulated`]); each capture says where it is from. The same machine is simulated, and what this driver would publish
//! of it is found out on the product's own path, from the NVML library to the slices.
//!
//! All that differs stands in a list with its reason, and all that stands there does differ.
//!
//! Needs the right to make device nodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod differences;
mod machine;
mod published;
mod simulated;
