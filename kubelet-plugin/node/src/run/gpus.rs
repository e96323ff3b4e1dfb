//! The driver `gpu.nvidia.com`.

use std::path::PathBuf;
use std::sync::Arc;

use tessera_device::Inventory;
use tessera_device::mig::MigLayouts;
use tessera_offer::Node;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::record::PreparedDevice;

use super::assembly::{Assembly, NodeClaims};
use super::role::Role;
use crate::args::Args;
use crate::claims::OwnMigDevices;
use crate::events::Notices;
use crate::hardware::HardwareWatch;
use crate::health::GpuHealth;
use crate::journal::Journal;
use crate::offering::Planned;
use crate::wait::Waits;

/// Offers whole GPUs and MIG devices.
pub(super) struct Gpus;

impl Role for Gpus {
    type Device = PreparedDevice;
    type Claims = NodeClaims;
    type Health = GpuHealth;

    fn cdi_kind() -> CdiKind {
        CdiKind::claim()
    }

    fn hook(assembly: &Assembly<'_>) -> anyhow::Result<Option<PathBuf>> {
        assembly.hook().map(Some)
    }

    fn hardware_news(notices: &Notices) -> Notices {
        notices.clone()
    }

    fn claims(
        assembly: &Assembly<'_>,
        journal: Journal,
        hardware: HardwareWatch,
        waits: Waits,
    ) -> anyhow::Result<NodeClaims> {
        assembly.claims(journal, hardware, waits)
    }

    async fn take_over(
        assembly: &mut Assembly<'_>,
        claims: &NodeClaims,
        notices: &Notices,
    ) -> anyhow::Result<()> {
        assembly.take_over(claims, notices).await
    }

    fn planned(assembly: &mut Assembly<'_>, claims: &Arc<NodeClaims>) -> Planned {
        let ring = claims.offer_changes();
        let changes = ring.subscribe();
        let shares = assembly.shares(ring);
        let dynamic = claims.mig_layouts() == MigLayouts::Dynamic;
        let own = dynamic.then(|| OwnMigDevices::of(claims.clone()));
        let plan = move |inventory: &Inventory, node: &Node, driver: &str| {
            let shares = shares.known()?;
            Some(match &own {
                None => tessera_offer::plan(inventory, node, driver, shares),
                Some(own) => {
                    let made = own.now();
                    tessera_offer::partitions(inventory, &made, node, driver, shares)
                }
            })
        };
        Planned {
            plan: Box::new(plan),
            changes,
        }
    }

    fn health(args: &Args, hardware: &HardwareWatch) -> GpuHealth {
        let pool = args.node_name.clone();
        GpuHealth::new(pool, hardware.clone(), args.mig_layouts())
    }

    fn start_others(
        assembly: &mut Assembly<'_>,
        _: &Arc<NodeClaims>,
        journal: &Journal,
        hardware: &HardwareWatch,
    ) {
        assembly.hold_containers(journal.clone(), hardware.clone());
        if assembly.args.share_status {
            assembly.tell_of_shares(journal.clone());
        }
    }
}
