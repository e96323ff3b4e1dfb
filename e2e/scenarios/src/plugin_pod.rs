//! The plugin's pod on a node: which it is, what it counts, its process.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::Node;
use tessera_proto::SocketPaths;

use crate::failure::Failure;
use crate::gpus::DRIVER;
use crate::kubernetes::{Kubernetes, Objects, Scope, name, runs, uid};
use crate::release::RELEASE;

/// The file name of the plugin's program, and the name of its process that does the work.
pub(crate) const PROGRAM: &str = "tessera-kubelet-plugin";

/// How its command line says which driver it runs as.
const RUNS_AS: &str = "--drivers=gpu";

/// The name of the process that keeps the sockets, the first of the plugin's container.
const KEEPER: &str = "tessera-keeper";

/// The DaemonSet of the plugin.
pub(crate) const DAEMON_SET: &str = "tessera-kubelet-plugin";

/// Whether a pod of the release is one of the plugin's.
pub(crate) fn is_plugin(pod: &Pod) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == "DaemonSet" && owner.name == DAEMON_SET)
}

/// The plugin's pod on this node.
pub(crate) fn plugin_on(pods: &Objects<Pod>, node: &Node) -> Option<String> {
    let is_it = |pod: &&Pod| {
        let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        is_plugin(pod) && on == Some(node.name())
    };
    pods.values().find(is_it).map(name)
}

/// The metrics page of a pod of the plugin.
fn metrics(kubernetes: Kubernetes<'_>, pod: &str) -> Result<String, Failure> {
    kubernetes.raw(&format!(
        "/api/v1/namespaces/{RELEASE}/pods/{pod}:8080/proxy/metrics"
    ))
}

/// A socket by a path that is short enough to connect to: a node's files have long ones for a process
/// of the machine, and a socket's path has a limit (unix(7)).
#[derive(Debug)]
pub(crate) struct NearSocket {
    pub(crate) path: PathBuf,
    // The path leads through it.
    _directory: File,
}

impl NearSocket {
    /// The socket at this path.
    pub(crate) fn at(path: &Path) -> Result<Self, Failure> {
        let directory = path.parent().unwrap_or(path);
        let name = path.file_name().unwrap_or_default();
        let opened = File::open(directory).map_err(|reason| Failure::File {
            path: directory.to_owned(),
            reason,
        })?;
        let near = format!("/proc/self/fd/{}", opened.as_raw_fd());
        Ok(Self {
            path: Path::new(&near).join(name),
            _directory: opened,
        })
    }
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

    /// Its pod.
    pub(crate) fn pod(self) -> Result<Pod, Failure> {
        let mut pods = self.kubernetes.list(Scope::Namespace(RELEASE))?;
        let found = plugin_on(&pods, self.node).and_then(|name| pods.remove(&name));
        found.ok_or_else(|| {
            Failure::wrong(format!("no pod of the plugin is on {}", self.node.name()))
        })
    }

    /// The name of its pod.
    pub(crate) fn pod_name(self) -> Result<String, Failure> {
        self.pod().map(|pod| name(&pod))
    }

    /// The first process of the plugin's container, as the machine counts processes.
    pub(crate) fn keeper(self) -> Result<u32, Failure> {
        let keepers = self.named(|name| name == KEEPER);
        keepers
            .first()
            .copied()
            .ok_or_else(|| Failure::wrong(format!("no {KEEPER} is on {}", self.node.name())))
    }

    /// The socket that the kubelet calls.
    pub(crate) fn dra_socket(self) -> Result<NearSocket, Failure> {
        let uid = uid(&self.pod()?);
        let (registrar, plugins) = (Path::new("/registrar"), Path::new("/plugins"));
        let paths = SocketPaths::new(registrar, plugins, DRIVER, Some(&uid))
            .map_err(|error| Failure::wrong(format!("name the plugin's sockets: {error}")))?;
        let name = paths.dra.as_path().file_name().unwrap_or_default();
        NearSocket::at(
            &self
                .node
                .kubelet_dir()
                .join("plugins")
                .join(DRIVER)
                .join(name),
        )
    }

    /// The processes of the plugin that do the work, as the machine counts them.
    pub(crate) fn processes(self) -> Vec<u32> {
        self.named(|name| name != KEEPER)
    }

    /// Those of its processes whose name is as wanted: all run one program. The processes of the other
    /// driver in the same pod are not among them.
    fn named(self, is_wanted: impl Fn(&str) -> bool) -> Vec<u32> {
        let mut processes = self.node.contained(PROGRAM);
        processes.retain(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            name.is_ok_and(|name| is_wanted(name.trim_end()))
                && line.is_ok_and(|line| line.split('\0').any(|word| word == RUNS_AS))
        });
        processes
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
        let status = self.pod()?.status.unwrap_or_default();
        let address = status.pod_ip.and_then(|address| address.parse().ok());
        address.ok_or_else(|| Failure::wrong("the plugin's pod has no IPv4 address"))
    }

    /// The value of a series on its metrics page: its name, with its labels if it has some. It must be there.
    pub(crate) fn metric(self, series: &str) -> Result<u64, Failure> {
        let found = self.metric_if_any(series)?;
        found.ok_or_else(|| {
            let node = self.node.name();
            Failure::wrong(format!(
                "the metrics of the plugin on {node} have no {series}"
            ))
        })
    }

    /// The same of a series that is there only once there is something to count.
    pub(crate) fn metric_if_any(self, series: &str) -> Result<Option<u64>, Failure> {
        Ok(value(&metrics(self.kubernetes, &self.pod_name()?)?, series))
    }

    /// Has its pod replaced by a new one, without waiting for that, and returns the name of the former.
    pub(crate) fn replace(self) -> Result<String, Failure> {
        let old = self.pod_name()?;
        self.kubernetes
            .delete(RELEASE, &["pod", &old, "--wait=false"])?;
        Ok(old)
    }

    /// Waits until a pod of the plugin is ready that satisfies `is_wanted`.
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

/// The counters of failed claims of a pod of the plugin that are not zero, as the page writes them.
pub(crate) fn errors_of(kubernetes: Kubernetes<'_>, pod: &str) -> Result<Vec<String>, Failure> {
    Ok(errors(&metrics(kubernetes, pod)?))
}

fn errors(metrics: &str) -> Vec<String> {
    let counters = [
        "nvidia_dra_node_prepare_errors_total",
        "nvidia_dra_node_unprepare_errors_total",
    ];
    let failed = |line: &&str| {
        counters.iter().any(|counter| line.starts_with(counter)) && !line.ends_with(" 0")
    };
    metrics.lines().filter(failed).map(str::to_owned).collect()
}

/// The value of a series: of the only one of its metric, or of the one with these labels.
fn value(metrics: &str, metric: &str) -> Option<u64> {
    let mut series = metrics.lines().filter_map(|line| line.strip_prefix(metric));
    let line = series.find(|rest| rest.starts_with(['{', ' ']))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counters_of_failures_that_are_not_zero_are_errors() {
        let failed = "nvidia_dra_node_prepare_errors_total{error_type=\"a\"} 2";
        let none = "nvidia_dra_node_prepare_errors_total{error_type=\"b\"} 0";
        let page = format!("{failed}\n{none}\nother_errors_total 3\n");
        assert_eq!(errors(&page), [failed]);
    }

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
