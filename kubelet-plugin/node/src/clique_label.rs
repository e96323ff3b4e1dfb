//! Follows the node's fabric: says in the log what it is, and on the Node in which clique the node is.
//!
//! The label is GPU Feature Discovery's, for clusters without it. Server-side apply keeps the two apart:
//! what another manager has set is a conflict, and left alone.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tessera_device::fabric::{Clique, NodeFabric};
use tessera_device::follow::Known;
use tessera_shell::logging::chain;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::deadline::Deadline;
use crate::hardware::HardwareWatch;

/// The label of GPU Feature Discovery.
pub const LABEL: &str = "nvidia.com/gpu.clique";

/// Who we are to server-side apply.
const MANAGER: &str = "tessera-compute-domain";

/// Bound of one write.
const WRITE: Duration = Duration::from_secs(5);

/// Time between two attempts, and between two looks at a label that was set: a Node that is deleted and registers anew has
/// no label.
const AGAIN: Duration = Duration::from_secs(30);

/// The label of one Node.
#[derive(Clone, Debug)]
pub struct NodeLabel {
    nodes: Api<Node>,
    name: String,
}

impl NodeLabel {
    /// The label of the Node of this name.
    pub fn new(client: Client, name: &str) -> Self {
        Self {
            nodes: Api::all(client),
            name: name.to_owned(),
        }
    }

    /// Sets the label to the clique, or takes our own away where there is none.
    async fn set(&self, clique: Option<Clique>) -> kube::Result<()> {
        let patch = Patch::Apply(applied(&self.name, clique));
        let params = PatchParams::apply(MANAGER);
        self.nodes
            .patch(&self.name, &params, &patch)
            .await
            .map(drop)
    }

    /// Whether the Node is there without the label. What cannot be asked is asked again later.
    async fn is_missing(&self) -> bool {
        let asked = Deadline::after(WRITE).run(self.nodes.get_metadata(&self.name));
        matches!(asked.await, Ok(Ok(node)) if is_unlabelled(&node.metadata))
    }
}

/// Whether a Node says nothing of its clique.
fn is_unlabelled(node: &ObjectMeta) -> bool {
    let labels = node.labels.as_ref();
    labels.is_none_or(|labels| !labels.contains_key(LABEL))
}

/// What is applied. A field that was applied and is not any more is removed by the server.
fn applied(node: &str, clique: Option<Clique>) -> Value {
    let mut metadata = json!({"name": node});
    if let Some(clique) = clique {
        metadata["labels"] = json!({LABEL: clique.to_string()});
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
}

/// Follows until `stop` is cancelled.
pub async fn follow(
    mut hardware: HardwareWatch,
    label: Option<NodeLabel>,
    stop: CancellationToken,
) {
    let following = async {
        let mut told = None;
        let mut last = None;
        loop {
            if let Known::Present(inventory) = hardware.known() {
                let fabric = NodeFabric::of(inventory.gpus());
                if told.as_ref() != Some(&fabric) {
                    tell(&fabric);
                    told = Some(fabric.clone());
                }
                let clique = fabric.clique();
                if let Some(label) = &label
                    && last != Some(clique)
                {
                    last = write(label, clique).await.then_some(clique);
                }
            }
            let pause = tokio::time::sleep(AGAIN);
            tokio::select! {
                () = hardware.changed() => {}
                () = pause, if label.is_some() => {
                    if let Some(label) = &label
                        && matches!(last, Some(Some(_)))
                        && label.is_missing().await
                    {
                        last = None;
                    }
                }
            }
        }
    };
    stop.run_until_cancelled(following).await;
}

fn tell(fabric: &NodeFabric) {
    if fabric.is_trouble() {
        warn!("{fabric}");
    } else {
        info!("{fabric}");
    }
}

/// Writes the label; says whether nothing is left to do.
async fn write(label: &NodeLabel, clique: Option<Clique>) -> bool {
    match Deadline::after(WRITE).run(label.set(clique)).await {
        Ok(Ok(())) => true,
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
            info!("somebody else labels the node with its clique; that label is left alone");
            true
        }
        Ok(Err(error)) => {
            warn!(error = %chain(&error), "the node is not labelled with its clique; trying again");
            false
        }
        Err(_passed) => {
            warn!("the node is not labelled with its clique: the API server does not answer");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use tessera_device::testing::clique;

    use super::*;

    #[test]
    fn a_clique_is_applied_as_the_label_and_none_as_no_label() {
        let clique = clique(7);
        let with = applied("node-a", Some(clique));
        assert_eq!(with["metadata"]["labels"][LABEL], clique.to_string());
        let without = applied("node-a", None);
        assert_eq!(
            without,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}})
        );
    }

    #[test]
    fn a_node_that_registers_anew_has_no_label_and_one_of_somebody_else_counts() {
        assert!(is_unlabelled(&ObjectMeta::default()));
        let labelled = |key: &str| ObjectMeta {
            labels: Some([(key.to_owned(), "x".to_owned())].into()),
            ..ObjectMeta::default()
        };
        assert!(is_unlabelled(&labelled("kubernetes.io/hostname")));
        assert!(!is_unlabelled(&labelled(LABEL)));
    }
}
