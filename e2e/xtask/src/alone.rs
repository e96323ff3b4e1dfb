//! There is one cluster per machine. That another is up is found out before minutes are spent on building.

use tessera_cluster::Cluster;

/// Holds if no cluster is up.
pub(crate) fn alone() -> anyhow::Result<()> {
    anyhow::ensure!(
        Cluster::attach().is_err(),
        "a cluster is up on this machine, and there can be one; take it down first with `cargo xtask cluster down`"
    );
    Ok(())
}
