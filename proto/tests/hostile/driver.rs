//! A driver that does whatever it is asked, at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, StreamExt};
use tessera_proto::dra::v1::{Claim, NodePrepareResourceResponse, NodeUnprepareResourceResponse};
use tessera_proto::health::v1::DeviceHealth;
use tessera_proto::{DraPlugin, DraResourceHealth, Ending, Served, SocketPaths};
use tokio_util::sync::CancellationToken;

pub(crate) struct Driver;

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

pub(crate) fn paths(root: &Path) -> SocketPaths {
    SocketPaths::new(&root.join("reg"), &root.join("p"), "gpu.nvidia.com", None).unwrap()
}

pub(crate) fn served() -> Served<Driver, Driver> {
    Served {
        driver: "gpu.nvidia.com".to_owned(),
        plugin: Arc::new(Driver),
        health: Arc::new(Driver),
        observer: Arc::new(|_| {}),
    }
}

/// Nobody is waited for to hang up.
pub(crate) fn ending(told: &CancellationToken, calls: Duration) -> Ending {
    Ending {
        told: told.clone(),
        calls,
        hang_up: Duration::ZERO,
    }
}
