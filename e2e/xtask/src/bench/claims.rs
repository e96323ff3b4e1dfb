//! Claims that are allocated without a scheduler: made in the API, their allocation written by hand.
//!
//! So the plugin does for them all that it does for a pod's claim, and nothing else is in the figures.

use std::io::{Seek as _, Write as _};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use tessera_proto::dra::v1::Claim;
use tessera_scenarios::gpus::{DRIVER, Place};
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope, uid};

/// How many objects are given to the API at once: a call of kubectl has a time limit.
const BATCH: usize = 250;

/// What the API may take to delete all claims.
const DELETE_LIMIT: Duration = Duration::from_mins(1);

/// What each claim asks for, and of whom.
pub(super) struct Asked {
    /// The device class.
    pub(super) class: &'static str,
    /// The driver whose devices are allocated.
    pub(super) driver: &'static str,
    /// The parameters that it is configured with, if any.
    pub(super) parameters: Option<Value>,
}

impl Asked {
    /// A GPU.
    pub(super) fn gpu() -> Self {
        Self {
            class: "gpu.nvidia.com",
            driver: DRIVER,
            parameters: None,
        }
    }

    /// The configurations that a claim carries, or, with `source`, those of its allocation.
    fn config(&self, source: Option<&str>) -> Value {
        let of = |parameters: &Value| {
            let mut config = json!({
                "requests": [REQUEST],
                "opaque": { "driver": self.driver, "parameters": parameters },
            });
            if let Some(source) = source {
                config["source"] = json!(source);
            }
            config
        };
        self.parameters.iter().map(of).collect()
    }
}

const REQUEST: &str = "device";

/// Makes `count` claims, each with one of these devices, in turn.
pub(super) fn make(
    kubernetes: Kubernetes<'_>,
    namespace: &str,
    asked: &Asked,
    devices: &[Place],
    count: usize,
) -> anyhow::Result<Vec<Claim>> {
    let numbered: Vec<_> = (0..count).zip(devices.iter().cycle()).collect();
    for batch in numbered.chunks(BATCH) {
        let wanted = list(batch.iter().map(|(index, _)| claim(asked, *index)));
        kubernetes.apply(namespace, &wanted.to_string())?;
        let allocated = list(
            batch
                .iter()
                .map(|(index, device)| allocated(asked, *index, device)),
        );
        apply_status(kubernetes, namespace, &allocated.to_string())?;
    }
    let made: Objects<ResourceClaim> = kubernetes.list(Scope::Namespace(namespace))?;
    let reference = |index| {
        let name = name(index);
        let claim = made
            .get(&name)
            .with_context(|| format!("find claim {name}"))?;
        Ok(Claim {
            namespace: namespace.to_owned(),
            uid: uid(claim),
            name,
        })
    };
    (0..count).map(reference).collect()
}

/// Deletes all claims of the namespace.
pub(super) fn delete(kubernetes: Kubernetes<'_>, namespace: &str) -> anyhow::Result<()> {
    // To wait for each would take kubectl a request more per claim.
    kubernetes.delete(namespace, &["resourceclaims", "--all", "--wait=false"])?;
    let scope = Scope::Namespace(namespace);
    let what = "no claim to be left";
    kubernetes.wait(
        scope,
        what,
        DELETE_LIMIT,
        |left: &Objects<ResourceClaim>| left.is_empty().then_some(()),
    )?;
    Ok(())
}

fn name(index: usize) -> String {
    format!("claim-{index}")
}

fn list(items: impl Iterator<Item = Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>() })
}

fn claim(asked: &Asked, index: usize) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": { "name": name(index) },
        "spec": { "devices": {
            "requests": [{ "name": REQUEST, "exactly": { "deviceClassName": asked.class } }],
            "config": asked.config(None),
        } },
    })
}

fn allocated(asked: &Asked, index: usize, device: &Place) -> Value {
    let Place { pool, device } = device;
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": { "name": name(index) },
        "status": { "allocation": { "devices": {
            "results": [
                { "request": REQUEST, "driver": asked.driver, "pool": pool, "device": device },
            ],
            "config": asked.config(Some("FromClaim")),
        } } },
    })
}

fn apply_status(kubernetes: Kubernetes<'_>, namespace: &str, objects: &str) -> anyhow::Result<()> {
    let mut input = tempfile::tempfile().context("keep the allocations for kubectl")?;
    input
        .write_all(objects.as_bytes())
        .and_then(|()| input.rewind())
        .context("keep the allocations for kubectl")?;
    let mut kubectl: Command = kubernetes.cluster().kubectl();
    // The schema that kubectl checks against asks for a spec, which is not the status' to write.
    kubectl
        .args([
            "apply",
            "--server-side",
            "--subresource=status",
            "--validate=false",
        ])
        .args(["--field-manager=tessera-bench", "--filename=-"])
        .args(["--request-timeout=30s", "--namespace", namespace])
        .stdin(input);
    let output = kubectl.output().context("run kubectl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("allocate the claims: kubectl apply: {}", said.trim());
    }
    Ok(())
}
