//! Failures of the scenarios' kind as errors of these commands.

use tessera_cluster::ClusterError;
use tessera_scenarios::Failure;

/// The same failure, with an interrupt as everything else here reports it.
pub(crate) fn told(failure: Failure) -> anyhow::Error {
    match failure {
        Failure::Interrupted => ClusterError::Interrupted.into(),
        Failure::Cluster(error) => error.into(),
        failure => failure.into(),
    }
}
