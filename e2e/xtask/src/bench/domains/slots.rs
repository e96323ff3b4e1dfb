//! Two domains at once: what is resident for them, and claims for slots of one of them.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::json;
use tessera_scenarios::gpus::Place;
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope, uid};
use tessera_scenarios::release::RELEASE;

use super::super::claims::{self, Asked};
use super::super::memory::{self, Memory};
use super::super::socket::{Socket, Timings};
use super::{GPUS, NAMESPACE, domain_ready, manifest, remove};
use crate::shipped::{CONTROLLER, SESSION_HOST};

const DRIVER: &str = "compute-domain.nvidia.com";

/// What the process that starts the session host anew calls itself.
const KEEPER: &str = "session-keeper";

/// What came of it.
#[derive(Debug, Clone)]
pub(in super::super) struct Slots {
    pub(super) timings: Timings,
    pub(super) controller: Memory,
    /// The process of each node that supervises nvidia-imex.
    pub(super) session_hosts: Vec<Memory>,
    /// The one that starts it anew.
    pub(super) keepers: Vec<Memory>,
}

/// Brings two domains up, each with a pod on each node and half of its GPUs, and measures.
pub(super) fn measure(kubernetes: Kubernetes<'_>, count: usize) -> anyhow::Result<Slots> {
    for name in ["first", "second"] {
        kubernetes.apply(NAMESPACE, &manifest(name, GPUS / 2, true))?;
    }
    let domain = domain_ready(kubernetes, "first")?;
    domain_ready(kubernetes, "second")?;
    let pods: Objects<Pod> = kubernetes.list(Scope::Namespace(RELEASE))?;
    let controllers = of_component(&pods, "controller");
    let hosts = of_component(&pods, "session-host");
    let controller = controllers.first().context("find the controller's pod")?;
    let resident = |pod: &Pod, program: &str| {
        let process = memory::process(&uid(pod), program);
        memory::of(process.with_context(|| format!("find a process of {program}"))?)
    };
    let all = |program: &str| {
        let each = hosts.iter().map(|pod| resident(pod, program));
        each.collect::<anyhow::Result<Vec<_>>>()
    };
    let measured = Slots {
        controller: resident(controller, CONTROLLER)?,
        session_hosts: all(SESSION_HOST)?,
        keepers: all(KEEPER)?,
        timings: prepare(kubernetes, &pods, &domain, count)?,
    };
    // A domain stays as long as a claim has a slot of it.
    kubernetes.delete(NAMESPACE, &["pods", "--all"])?;
    claims::delete(kubernetes, NAMESPACE)?;
    remove(kubernetes, &["first", "second"])?;
    Ok(measured)
}

fn of_component<'p>(pods: &'p Objects<Pod>, wanted: &str) -> Vec<&'p Pod> {
    let is_it = |pod: &&Pod| {
        let labels = pod.metadata.labels.as_ref();
        let component = labels.and_then(|labels| labels.get("app.kubernetes.io/component"));
        component.is_some_and(|component| component == wanted)
    };
    pods.values().filter(is_it).collect()
}

/// Prepares and unprepares claims for slots of a domain on the first node, as the kubelet does.
fn prepare(
    kubernetes: Kubernetes<'_>,
    pods: &Objects<Pod>,
    domain: &str,
    count: usize,
) -> anyhow::Result<Timings> {
    let slices: Objects<ResourceSlice> = kubernetes.list(Scope::Cluster)?;
    let pool = format!("domain-{domain}");
    let of_domain = slices.values().filter(|slice| slice.spec.pool.name == pool);
    let slots: Vec<Place> = of_domain
        .flat_map(|slice| slice.spec.devices.iter().flatten())
        .map(|slot| Place {
            pool: pool.clone(),
            device: slot.name.clone(),
        })
        .collect();
    ensure!(!slots.is_empty(), "find the slots of domain {domain}");
    let asked = Asked {
        class: "compute-domain-default-channel.nvidia.com",
        driver: DRIVER,
        parameters: Some(json!({
            "apiVersion": "resource.nvidia.com/v1beta1",
            "kind": "ComputeDomainChannelConfig",
            "domainID": domain,
        })),
    };
    let made = claims::make(kubernetes, NAMESPACE, &asked, &slots, count)?;
    let node = super::super::plugin::node(kubernetes)?;
    let on_node = |pod: &&&Pod| {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.node_name.as_deref()) == Some(node.name())
    };
    let plugins = of_component(pods, "kubelet-plugin");
    let plugin = plugins
        .iter()
        .find(on_node)
        .context("find the plugin's pod")?;
    Socket::open(node, DRIVER, &uid(*plugin))?.time(&made, 1)
}
