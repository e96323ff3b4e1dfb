//! A driver that does whatever it is asked, at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, StreamExt};
use tessera_proto::dra::v1::{Claim, NodePrepareResourceResponse, NodeUnprepareResourceResponse};
use tessera_proto::health::v1::DeviceHealth;
use tessera_proto::{DraPlugin, DraResourceHealth, Ending, NameError, Served, SocketPaths};
use tokio_util::sync::CancellationToken;

/// It keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Driver;

impl DraPlugin for Driver {
    async fn node_prepare_resources(
        &self,
        claims: Vec<Claim>,
        _: Instant,
    ) -> BTreeMap<String, NodePrepareResourceResponse> {
        let done = |claim: Claim| (claim.uid, NodePrepareResourceResponse::default());
        claims.into_iter().map(done).collect()
    }

    async fn node_unprepare_resources(
        &self,
        claims: Vec<Claim>,
        _: Instant,
    ) -> BTreeMap<String, NodeUnprepareResourceResponse> {
        let done = |claim: Claim| (claim.uid, NodeUnprepareResourceResponse::default());
        claims.into_iter().map(done).collect()
    }
}

impl DraResourceHealth for Driver {
    fn watch(&self) -> BoxStream<'static, Vec<DeviceHealth>> {
        stream::pending().boxed()
    }
}

const NAME: &str = "gpu.nvidia.com";

/// The driver's sockets below `root`.
pub fn paths(root: &Path) -> Result<SocketPaths, NameError> {
    SocketPaths::new(&root.join("reg"), &root.join("p"), NAME, None)
}

/// What the sockets serve.
pub fn served() -> Served<Driver, Driver> {
    Served {
        driver: NAME.to_owned(),
        plugin: Arc::new(Driver),
        health: Arc::new(Driver),
        observer: Arc::new(|_| {}),
    }
}

/// An end for which calls have the time `calls`, and nobody is waited for to hang up.
pub fn ending(told: &CancellationToken, calls: Duration) -> Ending {
    Ending {
        told: told.clone(),
        calls,
        hang_up: Duration::ZERO,
    }
}
