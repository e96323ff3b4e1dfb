//! The kubelet plugin: offers GPUs and prepares claims on one node.
//!
//! This is the shell around the planning crates: it holds the sockets, the files, the locks and the
//! clock, and decides nothing that a pure function could.

pub mod api_read;
pub mod args;
pub mod blocking;
pub mod cdi_dir;
pub mod channels;
pub mod claim_reader;
pub mod claims;
pub mod clique_label;
pub mod deadline;
pub mod directories;
pub mod driver_root;
pub mod events;
pub mod executor;
pub mod file_error;
pub mod hardware;
pub mod health;
pub mod hook_file;
pub mod journal;
pub mod keeper;
pub mod lock_file;
pub mod locks;
pub mod memory_limits;
pub mod metrics;
pub mod mig;
pub mod offering;
pub mod own_files;
pub mod parts;
pub mod presence;
pub mod probe;
pub mod publisher;
pub mod reconcile;
pub mod replace;
pub mod rpc;
pub mod run;
pub mod share_status;
pub mod shares;
pub mod slice_metrics;
pub mod sockets;
pub mod takeover;
#[cfg(test)]
mod testing;
pub mod time_slice;
pub mod unchanged;
pub mod wait;
