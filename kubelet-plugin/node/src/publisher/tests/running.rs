//! A publisher that runs against the API server in memory, and everything that it tells.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tessera_device::{Gpu, Inventory, testing};
use tessera_offer::{FieldPath, Node, Offer, plan, reconcile};
use tessera_sharing::ConsumableShares;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::server::Server;
use crate::publisher::{Observer, PublishState, Publisher, Turns};

pub(super) const DRIVER: &str = "gpu.nvidia.com";

/// A bound in the tests' own time, which passes at once where nobody works.
pub(super) const LONG: Duration = Duration::from_hours(1);

/// What a node with so many GPUs offers.
pub(super) fn offer(gpus: u32) -> Offer {
    shared(gpus, ConsumableShares::Disabled)
}

/// The same of one whose GPUs can be shared like this.
pub(super) fn shared(gpus: u32, shares: ConsumableShares) -> Offer {
    let gpu = |minor| Gpu {
        numa_node: Some(0),
        ..testing::gpu(minor)
    };
    let driver = testing::driver("580.95.05");
    let inventory = Inventory::new(driver, (0..gpus).map(gpu).collect()).unwrap();
    let node = Node {
        name: "node-a".to_owned(),
        uid: "uid-a".to_owned(),
    };
    plan(&inventory, &node, DRIVER, shares)
}

/// Hears everything.
#[derive(Clone, Default)]
pub(super) struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub(super) fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn note(&self, entry: String) {
        self.0.lock().unwrap().push(entry);
    }
}

impl Observer for Diary {
    fn published(&self, writes: usize) {
        self.note(format!("published {writes}"));
    }

    fn shareable(&self, _: usize) {}

    fn write_failed(&self, reason: &'static str) {
        self.note(format!("failed {reason}"));
    }

    fn fields_dropped(&self, fields: &BTreeSet<FieldPath>) {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        self.note(format!("dropped {}", fields.join(",")));
    }
}

pub(super) struct Running {
    pub(super) server: Server,
    pub(super) diary: Diary,
    pub(super) offers: watch::Sender<Option<Offer>>,
    states: watch::Receiver<PublishState>,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<()>,
    /// Keeps the directory of the lock, unless it is somebody else's.
    lock: Option<TempDir>,
}

impl Running {
    pub(super) fn start(server: Server, first: Option<Offer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut running = Self::beside(server, first, directory.path());
        running.lock = Some(directory);
        running
    }

    /// A publisher that takes turns with others that have their lock in `directory`.
    pub(super) fn beside(server: Server, first: Option<Offer>, directory: &Path) -> Self {
        let turns = Turns::at(&directory.join("publisher.lock"));
        let (offers, receiver) = watch::channel(first);
        let diary = Diary::default();
        let (publisher, states) = Publisher::new(server.clone(), diary.clone(), receiver, turns);
        let stop = CancellationToken::new();
        Self {
            server,
            diary,
            offers,
            states,
            task: tokio::spawn(publisher.run(stop.clone())),
            stop,
            lock: None,
        }
    }

    /// Waits until nothing is left to do at this moment.
    pub(super) async fn settle(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    pub(super) async fn reaches(&mut self, wanted: PublishState) {
        let reached = self.states.wait_for(|state| *state == wanted);
        timeout(LONG, reached)
            .await
            .expect("the state is reached")
            .unwrap();
    }

    pub(super) fn state(&self) -> PublishState {
        self.states.borrow().clone()
    }

    pub(super) fn assert_stored(&self, offer: &Offer) {
        assert_eq!(reconcile(offer, &self.server.slices()), []);
    }
}

pub(super) fn published(generation: i64, devices: usize) -> PublishState {
    PublishState::Published {
        generation,
        devices,
    }
}
