//! The scenarios, one file per group. Each is a function that fails with the first thing that is not as stated.
//!
//! They are meant to be read: the manifests in them are what a user writes.

pub(crate) mod api_away;
pub(crate) mod cleanup;
pub(crate) mod configuration;
pub(crate) mod damage;
pub(crate) mod domain_events;
pub(crate) mod domains;
pub(crate) mod driver;
pub(crate) mod dynamic_mig;
pub(crate) mod events;
pub(crate) mod guide;
pub(crate) mod hostile;
pub(crate) mod isolation;
pub(crate) mod kubelet;
pub(crate) mod manifests;
pub(crate) mod mig;
pub(crate) mod mixes;
pub(crate) mod odd_claims;
pub(crate) mod old_kubelet;
pub(crate) mod plugin;
pub(crate) mod policies;
pub(crate) mod racks;
pub(crate) mod reboot;
mod reference;
pub(crate) mod rights;
pub(crate) mod selection;
pub(crate) mod sessions;
mod setting;
pub(crate) mod shapes;
pub(crate) mod share_status;
pub(crate) mod shares;
pub(crate) mod sharing;
pub(crate) mod survival;
pub(crate) mod takeover;
pub(crate) mod time_slices;
pub(crate) mod uninstall;
pub(crate) mod upgrade;
pub(crate) mod versions;
pub(crate) mod webhook;
pub(crate) mod whole_gpus;
