//! `tessera-hw fabric`: what it takes, and how a fabric is shown.

use anyhow::{Result, bail};
use clap::Args;
use tessera_hw::{
    Fabric, FabricChange, FabricHealth, FabricState, Node,
    fabric::{Uuid, cluster_uuid_of_rack},
    injection::ReturnCode,
};

/// What becomes of the fabric, of which GPUs.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which GPU. All of them if none is named.
    gpu: Option<String>,
    /// UUID of the fabric.
    #[arg(long, value_name = "UUID", conflicts_with = "rack")]
    cluster_uuid: Option<Uuid>,
    /// The rack whose fabric it is: nodes of one rack share a UUID.
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// Clique id: the partition of the fabric.
    #[arg(long, value_name = "NUMBER")]
    clique: Option<u32>,
    /// How far joining has come.
    #[arg(long)]
    state: Option<FabricState>,
    /// The return code that joining ended with: a number or a name such as `GPU_IS_LOST`.
    #[arg(long, value_name = "CODE")]
    status: Option<ReturnCode>,
    /// How the GPU's part is.
    #[arg(long)]
    health: Option<FabricHealth>,
}

impl Arguments {
    /// Changes the GPUs that are named.
    pub(super) fn apply(&self, node: &mut Node) -> Result<()> {
        let of_rack = self.rack.as_deref().map(cluster_uuid_of_rack);
        let change = FabricChange {
            cluster_uuid: self.cluster_uuid.or(of_rack),
            clique_id: self.clique,
            state: self.state,
            status: self.status.map(|code| code.0),
            health: self.health,
        };
        if let Some(name) = &self.gpu {
            let gpu = super::gpu(node, name)?;
            let Some(fabric) = &mut gpu.fabric else {
                bail!("GPU {name} is part of no fabric: its profile has none");
            };
            change.apply(fabric);
            return Ok(());
        }
        let mut fabrics = node.gpus.iter_mut().filter_map(|gpu| gpu.fabric.as_mut());
        let Some(first) = fabrics.next() else {
            bail!("no GPU of this node is part of a fabric: its profile has none");
        };
        change.apply(first);
        fabrics.for_each(|fabric| change.apply(fabric));
        Ok(())
    }
}

/// One line about a GPU's part of a fabric.
pub(super) fn describe(fabric: &Fabric) -> String {
    let Fabric {
        cluster_uuid,
        clique_id,
        state,
        status,
        health,
    } = fabric;
    format!("fabric {cluster_uuid}.{clique_id}: {state:?}, status {status}, health {health:?}")
}
