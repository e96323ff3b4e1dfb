//! The driver `compute-domain.nvidia.com`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tessera_device::Inventory;
use tessera_device::mig::MigLayouts;
use tessera_offer::Node;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::channel::{PreparedChannel, channel_kind};
use tessera_proto::DraResourceHealth;
use tessera_proto::health::v1::DeviceHealth;

use super::assembly::Assembly;
use super::role::Role;
use crate::args::Args;
use crate::channels::{
    ApiDomains, ChannelClaims, ChannelsLock, HostImex, NodeSession, Ports, ProcFiles,
};
use crate::claim_reader::ApiClaimReader;
use crate::clique_label::{self, NodeLabel};
use crate::driver_root::DriverRoot;
use crate::events::Notices;
use crate::executor::LocalNode;
use crate::hardware::HardwareWatch;
use crate::journal::JournalOf;
use crate::offering::Planned;
use crate::wait::Waits;

/// Offers the channels of compute domains.
pub(super) struct ComputeDomains;

type Journal = JournalOf<PreparedChannel>;

type NodeChannels = ChannelClaims<ApiClaimReader, ApiDomains, Journal, LocalNode, ProcFiles>;

/// Time between two looks at which channels are held: during an upgrade another process prepares claims
/// too, and the controller waits for channels to be let go.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Role for ComputeDomains {
    type Device = PreparedChannel;
    type Claims = NodeChannels;
    type Health = NoHealth;

    fn cdi_kind() -> CdiKind {
        channel_kind()
    }

    /// A channel is a device node and needs no hook.
    fn hook(_: &Assembly<'_>) -> anyhow::Result<Option<PathBuf>> {
        Ok(None)
    }

    /// The driver for GPUs tells of them already.
    fn hardware_news(_: &Notices) -> Notices {
        let (unheard, _) = Notices::open();
        unheard
    }

    fn claims(
        assembly: &Assembly<'_>,
        journal: Journal,
        hardware: HardwareWatch,
        waits: Waits,
    ) -> anyhow::Result<Self::Claims> {
        let Assembly {
            args,
            directories,
            resources,
            ..
        } = assembly;
        let ports = Ports {
            claims: ApiClaimReader::new(resources.clone()),
            domains: ApiDomains::new(resources.clone(), args.drivers.name()),
            records: journal,
            node: assembly.node()?,
            kernel: ProcFiles::new(&args.alt_proc_devices),
            lock: ChannelsLock::in_directory(&directories.locks()),
            hardware,
            session: session(args),
            waits,
        };
        Ok(ChannelClaims::new(
            assembly.identity(channel_kind(), MigLayouts::Static)?,
            ports,
        ))
    }

    /// What the reference has prepared of its channels is not read.
    async fn take_over(_: &mut Assembly<'_>, _: &NodeChannels, _: &Notices) -> anyhow::Result<()> {
        Ok(())
    }

    fn planned(_: &mut Assembly<'_>, claims: &Arc<NodeChannels>) -> Planned {
        let changes = claims.changes();
        let claims = claims.clone();
        let plan = move |inventory: &Inventory, node: &Node, driver: &str| {
            let held = claims.held();
            Some(tessera_offer::channels(inventory, &held, node, driver))
        };
        Planned {
            plan: Box::new(plan),
            changes,
        }
    }

    fn health(_: &Args, _: &HardwareWatch) -> NoHealth {
        NoHealth
    }

    fn start_others(
        assembly: &mut Assembly<'_>,
        claims: &Arc<NodeChannels>,
        _: &JournalOf<PreparedChannel>,
        hardware: &HardwareWatch,
    ) {
        let claims = claims.clone();
        assembly.parts.start("held channels", |stop| async move {
            let looking = async {
                loop {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    claims.ring();
                }
            };
            let _: Option<()> = stop.run_until_cancelled(looking).await;
            Ok(())
        });
        let labelled = assembly.args.gpu_clique_label_enabled;
        let label = NodeLabel::new(assembly.client.clone(), &assembly.args.node_name);
        let hardware = hardware.clone();
        assembly.parts.start("fabric", move |stop| async move {
            clique_label::follow(hardware, labelled.then_some(label), stop).await;
            Ok(())
        });
    }
}

/// Who runs the NVLink session of the node.
fn session(args: &Args) -> NodeSession {
    let Args {
        session_socket,
        imex_host_socket,
        imex_host_socket_path,
        ..
    } = args;
    match (session_socket, imex_host_socket) {
        (Some(socket), _) => NodeSession::Hosted(socket.clone()),
        (None, Some(socket)) => NodeSession::OfHost(HostImex {
            driver_root: DriverRoot::new(&args.container_driver_root, &args.nvidia_driver_root),
            host_socket: imex_host_socket_path.as_ref().unwrap_or(socket).clone(),
            socket: socket.clone(),
        }),
        (None, None) => NodeSession::Unasked,
    }
}

/// A channel is a number, and has no health of its own.
pub(super) struct NoHealth;

impl DraResourceHealth for NoHealth {
    /// One empty report, and no end: the kubelet asks again when there is one.
    fn watch(&self) -> BoxStream<'static, Vec<DeviceHealth>> {
        stream::once(async { Vec::new() })
            .chain(stream::pending())
            .boxed()
    }
}
