//! An API server of claims.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::json;
use tessera_api::Interval;
use tessera_claim::ClaimRef;

use crate::claim_reader::{ClaimReader, ReadError, SearchError};
use crate::deadline::Deadline;

/// An API server that holds claims, and can be away.
#[derive(Default)]
pub(crate) struct Api {
    pub(crate) claims: Mutex<BTreeMap<String, ResourceClaim>>,
    pub(crate) away: AtomicBool,
    /// Takes every call and answers none, so each lasts until its deadline.
    pub(crate) silent: AtomicBool,
    /// How often a claim was read.
    pub(crate) reads: AtomicUsize,
    /// Reading this claim is a defect of the plugin.
    pub(crate) panics_at: Mutex<Option<String>>,
}

impl Api {
    pub(crate) fn allocate(&self, name: &str, minors: &[u32]) {
        let results: Vec<_> = minors
            .iter()
            .map(|minor| {
                json!({"request": "gpu", "driver": "gpu.nvidia.com", "pool": "node0",
                       "device": format!("gpu-{minor}")})
            })
            .collect();
        let object = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": "default", "name": name, "uid": format!("{name}-uid")},
            "spec": {},
            "status": {"allocation": {"devices": {"results": results}}},
        });
        let object = serde_json::from_value(object).unwrap();
        self.put(name, object);
    }

    /// Allocates shares of a GPU, each by its id and its memory in GiB.
    pub(crate) fn allocate_shares(&self, name: &str, minor: u32, shares: &[(&str, u64)]) {
        self.allocate(name, &[minor]);
        let mut claims = self.claims.lock().unwrap();
        let mut object = serde_json::to_value(&claims[name]).unwrap();
        let results = &mut object["status"]["allocation"]["devices"]["results"];
        let of = results[0].clone();
        let share = |(id, gib): &(&str, u64)| {
            let mut share = of.clone();
            share["shareID"] = json!(id);
            share["consumedCapacity"] = json!({"memory": format!("{gib}Gi"), "computeShare": "0"});
            share
        };
        *results = shares.iter().map(share).collect();
        let object = serde_json::from_value(object).unwrap();
        claims.insert(name.to_owned(), object);
    }

    /// Lets the claim of this name ask for a time slice of its GPUs.
    pub(crate) fn ask_for_slices(&self, name: &str, interval: Interval) {
        let sharing = json!({
            "strategy": "TimeSlicing",
            "timeSlicingConfig": {"interval": interval.as_str()},
        });
        self.configure(
            name,
            &json!({
                "apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing,
            }),
        );
    }

    /// Lets the claim of this name say this of the memory of its shares.
    pub(crate) fn configure_share(&self, name: &str, memory: &serde_json::Value) {
        self.configure(
            name,
            &json!({
                "apiVersion": "tessera-dra.github.io/v1alpha1", "kind": "ShareConfig", "memory": memory,
            }),
        );
    }

    /// Gives the claim of this name one configuration for all of its requests.
    fn configure(&self, name: &str, parameters: &serde_json::Value) {
        let mut claims = self.claims.lock().unwrap();
        let mut object = serde_json::to_value(&claims[name]).unwrap();
        object["status"]["allocation"]["devices"]["config"] = json!([{
            "source": "FromClaim", "requests": [], "opaque": {
                "driver": "gpu.nvidia.com", "parameters": parameters,
            },
        }]);
        let object = serde_json::from_value(object).unwrap();
        claims.insert(name.to_owned(), object);
    }

    /// Stores a claim under this name, whatever it says.
    pub(crate) fn put(&self, name: &str, object: ResourceClaim) {
        self.claims.lock().unwrap().insert(name.to_owned(), object);
    }

    /// The claim is deleted.
    pub(crate) fn forget(&self, name: &str) {
        self.claims.lock().unwrap().remove(name);
    }
}

impl ClaimReader for Arc<Api> {
    async fn read(&self, claim: &ClaimRef, limit: Deadline) -> Result<ResourceClaim, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let defect = self.panics_at.lock().unwrap().as_deref() == Some(claim.name.as_str());
        assert!(!defect, "injected");
        if self.silent.load(Ordering::Relaxed) {
            tokio::time::sleep(limit.remaining()).await;
        }
        if self.away.load(Ordering::Relaxed) || self.silent.load(Ordering::Relaxed) {
            return Err(ReadError::Unavailable {
                claim: claim.clone(),
                source: None,
            });
        }
        let found = self.claims.lock().unwrap().get(&claim.name).cloned();
        found.ok_or_else(|| ReadError::NotFound {
            claim: claim.clone(),
        })
    }

    async fn search<T: Send>(
        &self,
        look: impl FnMut(&ResourceClaim) -> Option<T> + Send,
        _: Deadline,
    ) -> Result<Option<T>, SearchError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(SearchError::Unavailable);
        }
        Ok(self.claims.lock().unwrap().values().find_map(look))
    }
}
