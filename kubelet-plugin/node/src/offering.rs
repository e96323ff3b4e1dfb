//! Turns hardware and registration into an offer.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};
use tessera_offer::{Node as OfferNode, Offer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::deadline::Deadline;
use crate::hardware::HardwareWatch;
use tessera_shell::logging::chain;

/// Time between two attempts to read our Node object.
const NODE_READ_PAUSE: Duration = Duration::from_secs(1);

/// Bound of one attempt to read our Node object.
const NODE_READ: Duration = Duration::from_secs(5);

/// What an offer is made of, and where it goes.
pub struct Offering {
    /// Reads our Node object.
    pub client: Client,
    /// Its name.
    pub node: String,
    /// Name of the driver.
    pub driver: &'static str,
    /// The GPUs.
    pub hardware: HardwareWatch,
    /// How often the kubelet has registered us.
    pub registrations: watch::Receiver<u64>,
    /// Takes the offer.
    pub offers: watch::Sender<Option<Offer>>,
}

impl Offering {
    /// Offers until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        stop.clone().run_until_cancelled(self.offer()).await;
        Ok(())
    }

    /// Offers at every registration: before the first one a pod could land here that nobody would
    /// prepare, and each later one comes with a kubelet that has wiped the slices.
    async fn offer(&mut self) {
        let node = self.read_node().await;
        let hardware = self.hardware.arrival().await;
        let offer = tessera_offer::plan(&hardware.inventory, &node, self.driver);
        for dropped in offer.dropped() {
            warn!(%dropped, "a device is offered with less than is known of it");
        }
        self.registrations.mark_changed();
        while self.registrations.changed().await.is_ok() {
            if *self.registrations.borrow_and_update() > 0 {
                self.offers.send_replace(Some(offer.clone()));
            }
        }
    }

    async fn read_node(&self) -> OfferNode {
        let api: Api<NodeObject> = Api::all(self.client.clone());
        loop {
            match Deadline::after(NODE_READ).run(api.get(&self.node)).await {
                Ok(Ok(node)) => {
                    let uid = node.metadata.uid.unwrap_or_default();
                    return OfferNode {
                        name: self.node.clone(),
                        uid,
                    };
                }
                Ok(Err(error)) => {
                    warn!(
                        node = self.node,
                        error = %chain(&error),
                        "the Node cannot be read"
                    );
                }
                Err(_passed) => warn!(node = self.node, "the API server does not answer"),
            }
            tokio::time::sleep(NODE_READ_PAUSE).await;
        }
    }
}
