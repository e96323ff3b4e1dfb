//! A real Kubernetes cluster on one machine, with simulated GPU nodes.
//!
//! [`Cluster::up`] brings up etcd, the API server, controller manager and scheduler and, per node, containerd and a kubelet:
//! real programs, pinned by checksum and built once. The control plane and each node live in namespaces of their own, owned
//! by one first process each (see [`supervisor`]). So nothing of a cluster outlives those processes but files, cgroups and
//! mount points, and those are found by name: [`down`] leaves nothing, whatever happened before.
//!
//! One cluster per machine: its addresses and links are fixed. Processes take turns: one that wants a cluster waits for
//! that of another to end.

mod apt;
pub mod cargo;
mod causes;
mod cgroup;
mod cluster;
mod control_plane;
mod digest;
mod driver;
mod gates;
pub mod images;
pub mod interrupt;
mod kubeconfig;
pub mod logs;
mod materials;
mod names;
mod network;
mod node;
mod packages;
pub mod paths;
mod pki;
mod platform;
mod plugin;
mod process;
pub mod programs;
pub mod progress;
mod release;
mod ssh;
pub mod supervisor;
mod teardown;

pub use cargo::{CargoError, Profile};
pub use causes::with_causes;
pub use cgroup::CgroupError;
pub use cluster::{Cluster, ClusterError, Cut, CutOff, Drivers, Node, Options, Report, Stopped};
pub use driver::{DriverError, IMEX, simulated_driver};
pub use gates::{Gates, ParseGatesError};
pub use materials::Materials;
pub use names::MOST_NODES;
pub use packages::PackagesError;
pub use pki::{PkiError, ServingCertificate};
pub use platform::{CrossError, Platform, UnknownPlatform};
pub use process::RunError;
pub use release::{ParseReleaseError, Release};
pub use ssh::SshKeys;
pub use teardown::{TeardownError, down};
