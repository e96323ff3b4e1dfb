//! There is one cluster per machine. That another is kept is found out before minutes are spent on building.

use tessera_cluster::{Cluster, ClusterError};

/// Holds if no kept cluster is up. One that ends with another process is waited for when it matters.
pub(crate) fn alone() -> Result<(), ClusterError> {
    Cluster::refuse_kept()
}
