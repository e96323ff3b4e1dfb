//! Turns hardware and registration into an offer.
//!
//! # Guarantees
//! Nothing is offered before the kubelet has registered the driver, and nothing before it is known
//! whether there is a driver: a plugin that starts anew leaves its slices as they are until then.
//! Without a driver an empty pool is offered, so that no pod is sent here.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};
use tessera_device::Inventory;
use tessera_device::follow::Known;
use tessera_offer::{Node as OfferNode, Offer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::deadline::Deadline;
use crate::hardware::HardwareWatch;
use tessera_shell::logging::chain;

/// Time between two attempts to read our Node object.
const NODE_READ_PAUSE: Duration = Duration::from_secs(1);

/// Bound of one attempt to read our Node object.
const NODE_READ: Duration = Duration::from_secs(5);

/// What a driver offers of an inventory. `None`: too little is known yet.
pub type Plan = Box<dyn Fn(&Inventory, &OfferNode, &str) -> Option<Offer> + Send + Sync>;

/// A plan, and when it may lead to another offer of the same inventory.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Rings when it may.
    pub changes: watch::Receiver<()>,
}

impl Planned {
    /// A plan that depends on nothing but the inventory.
    pub fn fixed(plan: fn(&Inventory, &OfferNode, &str) -> Offer) -> Self {
        Self {
            plan: Box::new(move |inventory, node, driver| Some(plan(inventory, node, driver))),
            changes: watch::channel(()).1,
        }
    }
}

/// What an offer is made of, and where it goes.
pub struct Offering {
    /// Reads our Node object.
    pub client: Client,
    /// Its name.
    pub node: String,
    /// Name of the driver.
    pub driver: &'static str,
    /// What it offers.
    pub planned: Planned,
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

    /// Offers at every registration, because each comes with a kubelet that has wiped the slices,
    /// and whenever the hardware leads to another offer.
    async fn offer(&mut self) {
        let mut node = self.read_node().await;
        let mut last = None;
        let mut answered = 0;
        self.registrations.mark_changed();
        loop {
            tokio::select! {
                changed = self.registrations.changed() => if changed.is_err() {
                    return;
                },
                () = self.hardware.changed() => {}
                () = rung(&mut self.planned.changes) => {}
            }
            // Counted, because a registration may come together with whatever woke us.
            let registrations = *self.registrations.borrow_and_update();
            let registered = registrations != answered;
            if registrations == 0 {
                continue;
            }
            // A kubelet that starts may have made its Node anew. Slices of the former one would be collected as garbage.
            if registered && registrations > 1 {
                node = self.read_node().await;
            }
            let Some(offer) = offer_of(
                &self.hardware.known(),
                &node,
                self.driver,
                &self.planned.plan,
            ) else {
                continue;
            };
            if registered || last.as_ref() != Some(&offer) {
                for (gpu, bound) in offer.bound() {
                    info!(%gpu, "offered in one mode only: {bound}");
                }
                for dropped in offer.dropped() {
                    warn!(%dropped, "a device is offered with less than is known of it");
                }
                self.offers.send_replace(Some(offer.clone()));
                last = Some(offer);
            }
            answered = registrations;
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

/// Waits for the next ring. It never comes where nobody can ring.
async fn rung(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The offer that what is known leads to. `None`: too little is known.
fn offer_of(known: &Known, node: &OfferNode, driver: &str, plan: &Plan) -> Option<Offer> {
    match known {
        Known::Unseen => None,
        Known::Absent { .. } => Some(tessera_offer::nothing(node, driver)),
        Known::Present(inventory) => plan(inventory, node, driver),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tessera_sharing::ConsumableShares;
    use tokio::sync::mpsc;
    use tower::{BoxError, service_fn};

    use super::*;
    use crate::testing::machine::hardware;

    /// An API server whose Node is another one at each read.
    fn ever_new_nodes() -> Client {
        let reads = AtomicUsize::new(0);
        let serve = move |_: Request<Body>| {
            let uid = reads.fetch_add(1, Ordering::Relaxed);
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": "node0", "uid": format!("uid-{uid}")},
            });
            let answer = Response::new(Body::from(node.to_string().into_bytes()));
            async { Ok::<_, BoxError>(answer) }
        };
        Client::new(service_fn(serve), "default")
    }

    #[tokio::test]
    async fn what_is_offered_belongs_to_the_node_of_the_latest_registration() {
        let (hand, mut watched) = HardwareWatch::test();
        hand.set(Some(hardware()));
        // Seen already, so that nothing but this test is a reason to plan.
        watched.changed().await;
        let (ring, changes) = watch::channel(());
        let (planned, mut owners) = mpsc::unbounded_channel();
        let plan = move |_: &Inventory, node: &OfferNode, driver: &str| {
            planned.send(node.uid.clone()).unwrap();
            Some(tessera_offer::nothing(node, driver))
        };
        let (register, registrations) = watch::channel(0);
        let (offers, mut offered) = watch::channel(None);
        let offering = Offering {
            client: ever_new_nodes(),
            node: "node0".to_owned(),
            driver: "gpu.nvidia.com",
            planned: Planned {
                plan: Box::new(plan),
                changes,
            },
            hardware: watched,
            registrations,
            offers,
        };
        let stop = CancellationToken::new();
        let offering = tokio::spawn(offering.run(stop.clone()));
        register.send_replace(1);
        assert_eq!(owners.recv().await.unwrap(), "uid-0");
        // What else happens is no reason to ask.
        ring.send_replace(());
        assert_eq!(owners.recv().await.unwrap(), "uid-0");
        for (registrations, owner) in [(2, "uid-1"), (3, "uid-2")] {
            register.send_replace(registrations);
            assert_eq!(owners.recv().await.unwrap(), owner);
        }
        // A registration counts also when something else wakes us in the same moment.
        for registrations in 4..64 {
            let own = OfferNode {
                name: "node0".to_owned(),
                uid: format!("uid-{}", registrations - 1),
            };
            let expected = Some(tessera_offer::nothing(&own, "gpu.nvidia.com"));
            ring.send_replace(());
            register.send_replace(registrations);
            Deadline::after(Duration::from_secs(10))
                .run(offered.wait_for(|offer| *offer == expected))
                .await
                .unwrap()
                .unwrap();
        }
        stop.cancel();
        offering.await.unwrap().unwrap();
    }

    #[test]
    fn the_pool_is_empty_without_a_driver_and_untouched_before_anybody_has_looked() {
        let node = OfferNode {
            name: "node0".to_owned(),
            uid: "uid".to_owned(),
        };
        let planned = Planned::fixed(|inventory, node, driver| {
            tessera_offer::plan(inventory, node, driver, ConsumableShares::Disabled)
        });
        let devices = |known: &Known| {
            let offer = offer_of(known, &node, "gpu.nvidia.com", &planned.plan);
            offer.map(|offer| offer.count())
        };
        let inventory = hardware().inventory;
        let absent = Known::Absent {
            why: "it was removed".to_owned(),
            last: Some(inventory.clone()),
        };
        assert_eq!(devices(&Known::Unseen), None);
        assert_eq!(devices(&absent), Some(0));
        assert_eq!(devices(&Known::Present(inventory)), Some(8));
    }
}
