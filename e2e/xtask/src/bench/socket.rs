//! Times the calls on the plugin's DRA socket from outside, as the kubelet makes them.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use tessera_cluster::{Node, interrupt};
use tessera_proto::dra::v1::dra_plugin_client::DraPluginClient;
use tessera_proto::dra::v1::{Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest};
use tessera_proto::uds::SocketPath;
use tessera_proto::{CALL_LIMIT, SocketPaths, client};
use tessera_scenarios::Failure;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Channel;

use super::memory::Memory;

/// How long each call took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Timings {
    pub(super) prepare: Vec<Duration>,
    pub(super) unprepare: Vec<Duration>,
}

/// The plugin's memory in the middle and at the end of a load of claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loaded {
    /// How many claims are half of them.
    pub(super) half: usize,
    /// How many there are.
    pub(super) all: usize,
    pub(super) after_half: Memory,
    pub(super) after_all: Memory,
}

/// A connection to the socket.
pub(super) struct Socket {
    runtime: Runtime,
    client: DraPluginClient<Channel>,
}

impl Socket {
    /// Connects to the socket of a driver's plugin on `node` whose pod has this UID.
    pub(super) fn open(node: &Node, driver: &str, pod_uid: &str) -> anyhow::Result<Self> {
        // The name depends on the length of the path as the plugin sees it.
        let kubelet = Path::new("/var/lib/kubelet");
        let (registrar, plugins) = (kubelet.join("plugins_registry"), kubelet.join("plugins"));
        let path = SocketPaths::new(&registrar, &plugins, driver, Some(pod_uid))?.dra;
        let name = path.as_path().file_name().context("name the socket")?;
        // From here the path would be too long for a socket.
        let link = tempfile::tempdir().context("make a directory for a link")?;
        let folder = link.path().join("plugin");
        symlink(node.kubelet_dir().join("plugins").join(driver), &folder)
            .context("link to the plugin's folder")?;
        Self::at(&SocketPath::new(&folder.join(name))?)
    }

    /// Connects to the socket at this path.
    pub(super) fn at(path: &SocketPath) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the runtime")?;
        let channel = runtime.block_on(client::connect(path, CALL_LIMIT))?;
        let client = DraPluginClient::new(channel);
        Ok(Self { runtime, client })
    }

    /// Prepares and unprepares the claims one after the other, and looks at the plugin's memory.
    pub(super) fn load(
        &self,
        claims: &[Claim],
        memory: impl Fn() -> anyhow::Result<Memory>,
    ) -> anyhow::Result<(Timings, Loaded)> {
        let (first, second) = claims.split_at(claims.len() / 2);
        let mut timings = self.time(first, 1)?;
        let after_half = memory()?;
        let rest = self.time(second, 1)?;
        timings.prepare.extend(rest.prepare);
        timings.unprepare.extend(rest.unprepare);
        let loaded = Loaded {
            half: first.len(),
            all: claims.len(),
            after_half,
            after_all: memory()?,
        };
        Ok((timings, loaded))
    }

    /// Prepares and unprepares the claims, `width` at once. Claims of one round must hold different GPUs.
    pub(super) fn time(&self, claims: &[Claim], width: usize) -> anyhow::Result<Timings> {
        let mut timings = Timings::default();
        for round in claims.chunks(width) {
            if interrupt::requested() {
                return Err(Failure::Interrupted.into());
            }
            self.runtime.block_on(async {
                let prepared = round
                    .iter()
                    .map(|claim| prepare(self.client.clone(), claim));
                timings.prepare.extend(try_join_all(prepared).await?);
                let unprepared = round
                    .iter()
                    .map(|claim| unprepare(self.client.clone(), claim));
                timings.unprepare.extend(try_join_all(unprepared).await?);
                anyhow::Ok(())
            })?;
        }
        Ok(timings)
    }
}

async fn prepare(mut client: DraPluginClient<Channel>, claim: &Claim) -> anyhow::Result<Duration> {
    let claims = vec![claim.clone()];
    let begun = Instant::now();
    let answer = client
        .node_prepare_resources(NodePrepareResourcesRequest { claims })
        .await;
    let took = begun.elapsed();
    let error = answer
        .with_context(|| format!("prepare claim {}", claim.name))?
        .into_inner()
        .claims
        .remove(&claim.uid)
        .map(|answer| answer.error);
    expect_none(error.as_deref(), "prepare", claim)?;
    Ok(took)
}

async fn unprepare(
    mut client: DraPluginClient<Channel>,
    claim: &Claim,
) -> anyhow::Result<Duration> {
    let claims = vec![claim.clone()];
    let begun = Instant::now();
    let answer = client
        .node_unprepare_resources(NodeUnprepareResourcesRequest { claims })
        .await;
    let took = begun.elapsed();
    let error = answer
        .with_context(|| format!("unprepare claim {}", claim.name))?
        .into_inner()
        .claims
        .remove(&claim.uid)
        .map(|answer| answer.error);
    expect_none(error.as_deref(), "unprepare", claim)?;
    Ok(took)
}

/// A claim that is not prepared is quickly not prepared, and would make the figures better than they are.
fn expect_none(error: Option<&str>, what: &str, claim: &Claim) -> anyhow::Result<()> {
    match error {
        Some("") => Ok(()),
        Some(error) => bail!("{what} claim {}: {error}", claim.name),
        None => bail!(
            "{what} claim {}: the plugin did not answer for it",
            claim.name
        ),
    }
}
