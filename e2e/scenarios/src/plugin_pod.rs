//! The plugin's pod on a node: which it is, what it counts, its process.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::Node;

use crate::failure::Failure;
use crate::kubernetes::{Kubernetes, Objects, Scope, name, runs};
use crate::release::RELEASE;

/// The file name of the plugin's program.
pub(crate) const PROGRAM: &str = "tessera-kubelet-plugin";

/// The plugin's pod on this node.
pub(crate) fn plugin_on(pods: &Objects<Pod>, node: &Node) -> Option<String> {
    let is_it = |pod: &&Pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        let of_set = owners.into_iter().any(|owner| owner.kind == "DaemonSet");
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        of_set && on == Some(node.name())
    };
    pods.values().find(is_it).map(name)
}

/// The value of a series on the metrics page of a pod of the plugin: its name, with its labels if it has some. None
/// where there is no such series.
pub(crate) fn metric_of(
    kubernetes: Kubernetes<'_>,
    pod: &str,
    series: &str,
) -> Result<Option<u64>, Failure> {
    let page = format!("/api/v1/namespaces/{RELEASE}/pods/{pod}:8080/proxy/metrics");
    Ok(value(&kubernetes.raw(&page)?, series))
}

/// The plugin on one node.
#[derive(Clone, Copy)]
pub(crate) struct Plugin<'a> {
    kubernetes: Kubernetes<'a>,
    node: &'a Node,
}

impl<'a> Plugin<'a> {
    /// That on this node.
    pub(crate) fn on(kubernetes: Kubernetes<'a>, node: &'a Node) -> Self {
        Self { kubernetes, node }
    }

    /// The name of its pod.
    pub(crate) fn pod(self) -> Result<String, Failure> {
        let pods = self.kubernetes.list(Scope::Namespace(RELEASE))?;
        let found = plugin_on(&pods, self.node);
        found.ok_or_else(|| {
            Failure::wrong(format!("no pod of the plugin is on {}", self.node.name()))
        })
    }

    /// The processes of the plugin, as the machine counts them.
    pub(crate) fn processes(self) -> Vec<u32> {
        self.node.contained(PROGRAM)
    }

    /// One process of the plugin.
    pub(crate) fn process(self) -> Result<u32, Failure> {
        let processes = self.processes();
        let first = processes.first().copied();
        first.ok_or_else(|| {
            Failure::wrong(format!(
                "no process of the plugin is on {}",
                self.node.name()
            ))
        })
    }

    /// The address of its pod.
    pub(crate) fn address(self) -> Result<Ipv4Addr, Failure> {
        let pods: Objects<Pod> = self.kubernetes.list(Scope::Namespace(RELEASE))?;
        let pod = pods.get(&self.pod()?);
        let address = pod
            .and_then(|pod| pod.status.as_ref())
            .and_then(|status| status.pod_ip.as_deref())
            .and_then(|address| address.parse().ok());
        address.ok_or_else(|| Failure::wrong("the plugin's pod has no IPv4 address"))
    }

    /// The value of a series of metrics. None where there is no such metric.
    pub(crate) fn metric(self, metric: &str) -> Result<Option<u64>, Failure> {
        metric_of(self.kubernetes, &self.pod()?, metric)
    }

    /// Has its pod replaced by a new one, without waiting for that.
    pub(crate) fn replace(self) -> Result<String, Failure> {
        let old = self.pod()?;
        self.kubernetes
            .delete(RELEASE, &["pod", &old, "--wait=false"])?;
        Ok(old)
    }

    /// Waits until a pod of the plugin is ready that satisfies `is_wanted`, by its name.
    pub(crate) fn ready(
        self,
        limit: Duration,
        is_wanted: impl Fn(&Pod) -> bool,
    ) -> Result<(), Failure> {
        let what = format!("the plugin on {} to be ready", self.node.name());
        let ours = Scope::Namespace(RELEASE);
        self.kubernetes.wait(ours, &what, limit, |pods| {
            let pod = pods.get(&plugin_on(pods, self.node)?)?;
            (is_wanted(pod) && runs(pod)).then_some(())
        })
    }
}

/// The value of a metric that has one series.
fn value(metrics: &str, metric: &str) -> Option<u64> {
    let mut series = metrics.lines().filter_map(|line| line.strip_prefix(metric));
    let line = series.find(|rest| rest.starts_with(['{', ' ']))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# TYPE devices gauge\ndevices_all{node=\"a b\"} 7\ndevices{node=\"a b\"} 2\n";
        assert_eq!(value(page, "devices"), Some(2));
        assert_eq!(value("devices 3\n", "devices"), Some(3));
        assert_eq!(value(page, "device"), None);
        let lost = "gpus{state=\"lost\"}";
        assert_eq!(value("gpus{state=\"lost\"} 1\n", lost), Some(1));
    }
}
