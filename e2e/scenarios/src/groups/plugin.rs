//! What operators see of the plugin: when it is ready, and what it counts.

use std::fs;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::Node;

use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, same};
use crate::gpus::{DRIVER, offered};
use crate::kubernetes::{Objects, Scope, name, runs};
use crate::plugin_pod::{Plugin, plugin_on};
use crate::release::RELEASE;

pub(crate) fn the_plugin_is_ready_only_once_its_slices_are_published(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("t4")?;
    // Without its library the driver is not there yet, as on a node where a driver container still installs it.
    let hidden = HiddenLibrary::hide(node)?;
    let old = Plugin::on(context.kubernetes(), node).pod_name()?;
    let kubernetes = context.kubernetes();
    kubernetes.delete(RELEASE, &["pod", &old])?;
    for slice in slices_of(context, node)? {
        kubernetes.delete(RELEASE, &["resourceslice", &slice])?;
    }

    let ours = Scope::Namespace(RELEASE);
    let what = "a new pod of the plugin";
    let new = kubernetes.wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
        plugin_on(pods, node)
    })?;
    let what = "the probe of the plugin without a driver to fail";
    kubernetes.wait(ours, what, START_LIMIT, |events: &Objects<Event>| {
        events.values().any(|e| failed_probe(e, &new)).then_some(())
    })?;
    let pods: Objects<Pod> = kubernetes.list(ours)?;
    same(
        "whether the plugin is ready without a driver",
        &pods.get(&new).map(runs),
        &Some(false),
    )?;
    let slices: Objects<ResourceSlice> = kubernetes.list(Scope::Cluster)?;
    let devices = offered(&slices).into_iter();
    let devices = devices.filter(|device| device.place.pool == node.name());
    same("devices without a driver", &devices.count(), &0)?;

    hidden.show()?;
    kubernetes.wait(
        ours,
        "the plugin to be ready",
        START_LIMIT,
        |pods: &Objects<Pod>| pods.get(&new).filter(|pod| runs(pod)).map(drop),
    )?;
    same(
        "the number of slices once it is ready",
        &slices_of(context, node)?.len(),
        &1,
    )
}

const TWO_GPUS: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: two-gpus
spec:
  devices:
    requests:
    - name: gpus
      exactly:
        deviceClassName: gpu.nvidia.com
        count: 2
---
apiVersion: v1
kind: Pod
metadata:
  name: pod
spec:
  resourceClaims:
  - name: gpus
    resourceClaimName: two-gpus
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpus
  terminationGracePeriodSeconds: 1
";

pub(crate) fn the_metrics_count_the_devices_that_are_prepared(
    context: &Context<'_>,
) -> Result<(), Failure> {
    same("prepared devices before", &prepared(context)?, &0)?;
    context.apply(TWO_GPUS)?;
    context.running(&["pod"])?;
    same("prepared devices of two GPUs", &prepared(context)?, &2)?;
    context.delete_pods(&["pod"])?;
    same("prepared devices after", &prepared(context)?, &0)
}

/// The sum over all nodes of the metric that dashboards of the reference driver show.
fn prepared(context: &Context<'_>) -> Result<u64, Failure> {
    let mut sum = 0;
    for node in context.nodes() {
        let plugin = Plugin::on(context.kubernetes(), node);
        let devices = plugin.metric_if_any("nvidia_dra_prepared_devices")?;
        sum += devices.unwrap_or(0);
    }
    Ok(sum)
}

fn failed_probe(event: &Event, pod: &str) -> bool {
    let about = event.involved_object.name.as_deref();
    about == Some(pod) && event.reason.as_deref() == Some("Unhealthy")
}

/// The names of the slices of this node's GPUs.
fn slices_of(context: &Context<'_>, node: &Node) -> Result<Vec<String>, Failure> {
    let slices: Objects<ResourceSlice> = context.kubernetes().list(Scope::Cluster)?;
    let ours = slices
        .values()
        .filter(|slice| slice.spec.driver == DRIVER && slice.spec.pool.name == node.name());
    Ok(ours.map(name).collect())
}

/// The driver's library, out of the way until this value ends.
struct HiddenLibrary {
    shown: PathBuf,
    hidden: PathBuf,
}

impl HiddenLibrary {
    fn hide(node: &Node) -> Result<Self, Failure> {
        let shown = node.driver_root().join("usr/lib64/libnvidia-ml.so.1");
        let hidden = shown.with_extension("hidden");
        let library = Self { shown, hidden };
        library.rename(&library.shown, &library.hidden)?;
        Ok(library)
    }

    fn show(self) -> Result<(), Failure> {
        self.rename(&self.hidden, &self.shown)
    }

    fn rename(&self, from: &PathBuf, to: &PathBuf) -> Result<(), Failure> {
        fs::rename(from, to).map_err(|reason| Failure::File {
            path: self.shown.clone(),
            reason,
        })
    }
}

impl Drop for HiddenLibrary {
    fn drop(&mut self) {
        // Shown already, or the node is gone with its library.
        let _ = fs::rename(&self.hidden, &self.shown);
    }
}
