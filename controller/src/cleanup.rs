//! Takes away what an uninstallation would leave behind: ResourceSlices, finalizers of domains, taints of nodes.
//!
//! Slices outlive pods on purpose, since a rolling update must not take devices away. At an
//! uninstallation the kubelet deletes those of its node too, 30 s after the plugin's sockets went;
//! until then the scheduler would place pods that no plugin prepares, and a node whose kubelet is
//! down would keep its slices. So the chart runs this after everything else is gone. The same goes for the
//! finalizer of a ComputeDomain, which would keep it from being deleted, and for the taint of a node that
//! was held for one. The objects of NVLink cliques are of no use without the controller.
//!
//! # Guarantees
//! Success means that no slice was seen for [`QUIET`]: a plugin in its last second may still answer
//! the first deletion by publishing again.

use std::time::Duration;

use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::core::discovery::ApiResource;
use kube::{Api, Client, discovery};
use tessera_api::{ComputeDomain, NVLinkClique};
use tessera_domain::seen::SeenNode;
use tessera_domain::{Object, World, uninstall};
use tokio::time::{Instant, error::Elapsed, sleep, timeout};

use crate::domains::api::{Api as _, KubeApi, WriteError};

/// The drivers whose slices are ours.
pub const DRIVERS: [&str; 2] = ["gpu.nvidia.com", "compute-domain.nvidia.com"];

/// How long no slice must have been seen.
pub const QUIET: Duration = Duration::from_secs(3);

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Bound of the whole, so that an unreachable API server ends the Job and not its own patience.
pub const DEADLINE: Duration = Duration::from_secs(90);

const GROUP: &str = "resource.k8s.io";
const KIND: &str = "ResourceSlice";

/// Why slices may be left.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The API server does not serve ResourceSlices or does not answer.
    #[error("discover {KIND} in {GROUP}: is DRA on in this cluster?")]
    Discover(#[source] Box<kube::Error>),
    /// A deletion or a look failed.
    #[error("delete slices of {driver}: run kubectl delete resourceslices by hand")]
    Delete {
        /// The driver whose slices were to go.
        driver: &'static str,
        /// What kube says.
        #[source]
        source: Box<kube::Error>,
    },
    /// Domains or nodes could not be listed.
    #[error(
        "list {kind}: see whether they have a finalizer or taint of ours, and take it off by hand"
    )]
    List {
        /// The kind.
        kind: &'static str,
        /// What kube says.
        #[source]
        source: Box<kube::Error>,
    },
    /// A domain or a node keeps what holds it.
    #[error("let {name} go: take our finalizer or taint off by hand")]
    LetGo {
        /// The object.
        name: String,
        /// Why.
        #[source]
        source: WriteError,
    },
    /// Somebody publishes as fast as we delete.
    #[error("slices are still there after {DEADLINE:?}: does a plugin still run?")]
    Overdue(#[source] Elapsed),
}

/// The slices of the cluster.
pub trait Slices {
    /// Deletes the slices of `driver` and returns how many are left or were made anew.
    fn delete(
        &self,
        driver: &'static str,
    ) -> impl Future<Output = Result<usize, CleanupError>> + Send;
}

/// Deletes every slice of [`DRIVERS`] in the cluster of `client`, and lets go of domains and nodes.
pub async fn run(client: Client) -> Result<(), CleanupError> {
    let work = async {
        let group = discovery::group(&client, GROUP).await.map_err(discover)?;
        let (resource, _) = group.recommended_kind(KIND).ok_or_else(|| {
            discover(kube::Error::Discovery(
                kube::error::DiscoveryError::MissingKind(KIND.into()),
            ))
        })?;
        until_quiet(&KubeSlices::new(client.clone(), &resource)).await?;
        let_go(client).await
    };
    timeout(DEADLINE, work)
        .await
        .map_err(CleanupError::Overdue)?
}

/// Takes finalizers off domains and taints off nodes, and deletes the objects of cliques.
async fn let_go(client: Client) -> Result<(), CleanupError> {
    let mut world = World::default();
    let domains: Api<ComputeDomain> = Api::all(client.clone());
    for domain in everything(&domains, "ComputeDomains").await? {
        world.apply(Object::Domain(Box::new(domain)));
    }
    let nodes: Api<SeenNode> = Api::all(client.clone());
    for node in everything(&nodes, "Nodes").await? {
        world.apply(Object::Node(Box::new(node)));
    }
    let cliques: Api<NVLinkClique> = Api::all(client.clone());
    for clique in everything(&cliques, "NVLinkCliques").await? {
        world.apply(Object::Clique(Box::new(clique)));
    }
    let api = KubeApi::new(client, "cleanup");
    for write in uninstall(&world) {
        let written = api.write(&write).await;
        written.map_err(|source| CleanupError::LetGo {
            name: write.name.to_string(),
            source,
        })?;
        tracing::info!(kind = write.kind.as_str(), name = %write.name, "let go");
    }
    Ok(())
}

/// All objects of a kind; none where the cluster does not have the kind, or it was never given rights to it.
async fn everything<K>(api: &Api<K>, kind: &'static str) -> Result<Vec<K>, CleanupError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(Vec::new()),
        Err(source) => Err(CleanupError::List {
            kind,
            source: Box::new(source),
        }),
    }
}

fn discover(error: kube::Error) -> CleanupError {
    CleanupError::Discover(Box::new(error))
}

async fn until_quiet(slices: &impl Slices) -> Result<(), CleanupError> {
    let mut seen = Instant::now();
    while seen.elapsed() < QUIET {
        for driver in DRIVERS {
            let left = slices.delete(driver).await?;
            if left > 0 {
                seen = Instant::now();
                tracing::info!(driver, left, "slices deleted, some are left");
            }
        }
        sleep(INTERVAL).await;
    }
    tracing::info!("no slices are left");
    Ok(())
}

struct KubeSlices(Api<DynamicObject>);

impl KubeSlices {
    fn new(client: Client, resource: &ApiResource) -> Self {
        Self(Api::all_with(client, resource))
    }
}

impl Slices for KubeSlices {
    async fn delete(&self, driver: &'static str) -> Result<usize, CleanupError> {
        let failed = |source| CleanupError::Delete {
            driver,
            source: Box::new(source),
        };
        let ours = ListParams::default().fields(&format!("spec.driver={driver}"));
        self.0
            .delete_collection(&DeleteParams::default(), &ours)
            .await
            .map_err(failed)?;
        Ok(self
            .0
            .list_metadata(&ours)
            .await
            .map_err(failed)?
            .items
            .len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A cluster whose plugin publishes again after each of the first `stubborn` deletions.
    struct Cluster {
        stubborn: Mutex<u32>,
        deletions: Mutex<Vec<(Duration, &'static str)>>,
        start: Instant,
    }

    impl Cluster {
        fn with_stubborn_plugin(stubborn: u32) -> Self {
            let (stubborn, deletions) = (Mutex::new(stubborn), Mutex::default());
            Self {
                stubborn,
                deletions,
                start: Instant::now(),
            }
        }
    }

    impl Slices for Cluster {
        async fn delete(&self, driver: &'static str) -> Result<usize, CleanupError> {
            self.deletions
                .lock()
                .unwrap()
                .push((self.start.elapsed(), driver));
            let mut stubborn = self.stubborn.lock().unwrap();
            let left = usize::from(*stubborn > 0);
            *stubborn = stubborn.saturating_sub(1);
            Ok(left)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slices_that_come_back_are_deleted_again_until_it_has_been_quiet() {
        let cluster = Cluster::with_stubborn_plugin(9);
        until_quiet(&cluster).await.unwrap();
        let deletions = cluster.deletions.lock().unwrap();
        // The ninth answer that still showed a slice came in the fifth round.
        let last_seen = deletions[8].0;
        assert!(cluster.start.elapsed() >= last_seen + QUIET);
        for driver in DRIVERS {
            assert!(
                deletions
                    .iter()
                    .any(|(when, name)| *name == driver && *when > last_seen)
            );
        }
    }
}
