//! A stand-in for the API server: it keeps objects of any kind in memory and knows nothing of what they mean.
//!
//! It is not Kubernetes. What it has of it is what a client sees: lists with field selectors, watches from a resource version
//! on, creation, replacement and deletion with their preconditions, merge
//! patches, dry runs. There is no validation, no defaulting, no
//! authorization and no admission; the scenarios on a real cluster are for those.

mod serve;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::store::Store;
use crate::failure::Failure;
use crate::fuse::Fuse;

/// A running server.
#[derive(Debug)]
pub struct Api {
    shared: Shared,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
struct Shared {
    store: Arc<Mutex<Store>>,
    fuse: Arc<Fuse>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// Serves on a free port of this machine. The fuse sees each request.
    pub fn start(fuse: Arc<Fuse>) -> Result<Self, Failure> {
        let failed = || Failure::io("serve", "the stand-in for the API server");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed())?;
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))
            .map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        let store = Arc::default();
        let shared = Shared { store, fuse };
        let stop = CancellationToken::new();
        let serving = serve::serve(listener, shared.clone());
        let until = stop.clone();
        let thread = thread::spawn(move || {
            // Watches never end, so connections are dropped with the runtime.
            runtime.block_on(until.run_until_cancelled(serving));
        });
        Ok(Self {
            shared,
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self) -> String {
        let server = format!("http://{}", self.address);
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server}}],
            "users": [{"name": "it", "user": {}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        })
        .to_string()
    }

    /// Stores an object in a collection, such as `/api/v1/nodes`, in place of the one of its name.
    pub fn put(&self, collection: &str, object: Value) {
        self.shared.store().put(collection, object);
    }

    /// Deletes an object, if it is there.
    pub fn delete(&self, collection: &str, name: &str) {
        self.shared.store().remove(collection, name);
    }

    /// All objects of a collection.
    pub fn list(&self, collection: &str) -> Vec<Value> {
        self.shared.store().list(collection, "").1
    }

    /// How many requests for this method and path there were.
    pub fn requests(&self, method_and_path: &str) -> usize {
        let store = self.shared.store();
        let same = store
            .requests
            .iter()
            .filter(|seen| *seen == method_and_path);
        same.count()
    }

    /// A request that was answered with ignorance, if there was one.
    pub fn unserved(&self) -> Option<String> {
        self.shared.store().unserved.clone()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
        // It has no outcome.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
