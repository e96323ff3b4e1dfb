//! A stand-in for Kubeflow's mpi-operator: which objects it makes of an `MPIJob`, and what it says in the job's status.
//!
//! The real operator cannot be had here as a program. This one shares no code with it; it was written from what the real one
//! was seen to do with its API `kubeflow.org/v2beta1` on a cluster, so that jobs for compute domains can be run. It decides
//! only: [`sync()`] takes a job with the objects that are there and answers the next steps, and whoever calls it talks to the
//! API server and makes keys.
//!
//! Honoured: `slotsPerWorker`, `launcherCreationPolicy`, `sshAuthMountPath`, `mpiReplicaSpecs` with `replicas`, `template` and
//! `restartPolicy`, and of `runPolicy` `cleanPodPolicy`, `backoffLimit`, `activeDeadlineSeconds` and
//! `ttlSecondsAfterFinished`. Refused with a reason, because it would do something else than the real one: `mpiImplementation`
//! other than `OpenMPI`, `runLauncherAsWorker`, `runPolicy.suspend`, `runPolicy.schedulingPolicy` and
//! `runPolicy.managedBy`. It has no leader election, removes no pods of a job that is scaled down, and knows no eviction.

mod crd;
mod job;
mod objects;
mod status;
mod sync;

pub use crd::crd;
pub use job::{Fault, Job};
pub use sync::{Kind, Seen, Step, Taken, sync};

/// A key pair for ssh, fresh for each job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The private key, PEM of type `EC PRIVATE KEY` (SEC 1).
    pub private: String,
    /// The public key, a line as `authorized_keys` has it.
    pub public: String,
}
