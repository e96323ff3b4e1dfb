//! How things are around a failure. What cannot be looked at says so instead.

use std::fmt::Write as _;
use std::fs;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use tessera_cluster::Cluster;

use crate::failure::Failure;
use crate::kubernetes::{Kubernetes, Object, Scope, states};
use crate::release::RELEASE;

/// How many lines of a log are shown.
const TAIL: usize = 15;

/// The objects of a namespace, its events, the plugin's pods and the ends of the logs that are likeliest to tell.
pub(crate) fn diagnosis(cluster: &Cluster, namespace: &str) -> String {
    let kubernetes = Kubernetes::of(cluster);
    let (theirs, ours) = (Scope::Namespace(namespace), Scope::Namespace(RELEASE));
    let mut text = String::new();
    section(&mut text, "pods", of::<Pod>(kubernetes, theirs));
    section(&mut text, "claims", of::<ResourceClaim>(kubernetes, theirs));
    section(&mut text, "events", of::<Event>(kubernetes, theirs));
    let slices = of::<ResourceSlice>(kubernetes, Scope::Cluster);
    section(&mut text, "slices", slices);
    section(&mut text, "the product's pods", of::<Pod>(kubernetes, ours));
    for pod in kubernetes.list::<Pod>(ours).unwrap_or_default().keys() {
        let tail = format!("--tail={TAIL}");
        let log = kubernetes.log(RELEASE, pod, &["--all-containers", &tail]);
        section(&mut text, &format!("end of the log of {pod}"), log);
    }
    for node in cluster.nodes() {
        let path = node.log("kubelet");
        let log = fs::read_to_string(&path).map_err(|reason| Failure::File { path, reason });
        let about = format!("end of the kubelet's log on {}", node.name());
        section(&mut text, &about, log.map(|log| tail(&log, namespace)));
    }
    text
}

fn of<K: Object>(kubernetes: Kubernetes<'_>, scope: Scope<'_>) -> Result<String, Failure> {
    kubernetes.list::<K>(scope).map(|objects| states(&objects))
}

fn section(text: &mut String, about: &str, content: Result<String, Failure>) {
    let content = content.unwrap_or_else(|failure| format!("  {failure}"));
    writeln!(text, "--- {about} ---\n{}", content.trim_end())
        .expect("writing to a string cannot fail");
}

/// The last lines that are warnings or errors, or about this namespace.
fn tail(log: &str, namespace: &str) -> String {
    let tells = |line: &&str| line.starts_with(['E', 'W']) || line.contains(namespace);
    let lines: Vec<_> = log.lines().filter(tells).collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_kubelets_log_only_trouble_and_what_is_about_the_namespace_is_shown() {
        let log = "I1 idle\nE1 broken\nI1 pod=\"ours/pod\"\nI1 pod=\"theirs/pod\"\nW1 odd\n";
        let wanted = "E1 broken\nI1 pod=\"ours/pod\"\nW1 odd";
        assert_eq!(tail(log, "ours"), wanted);
    }
}
