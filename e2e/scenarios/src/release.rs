//! The product on the cluster: its chart, installed and uninstalled by Helm as users do it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::resource::v1::ResourceSlice;
use tempfile::NamedTempFile;
use tessera_cluster::images::TesseraImage;
use tessera_cluster::paths::checkout;

use crate::failure::Failure;
use crate::gpus::offered;
use crate::ground::Ground;
use crate::kubernetes::{Kubernetes, Objects, Scope, run};

/// The release and its namespace.
pub const RELEASE: &str = "tessera";

/// What Helm itself may take; it does not wait for pods.
const HELM_LIMIT: &str = "--timeout=60s";

/// From installation to the first slice on every node, with images there.
const SERVING_LIMIT: Duration = Duration::from_mins(1);

/// Installs the chart, or changes the installation to it, and returns when every node offers its GPUs.
pub fn install(kubernetes: Kubernetes<'_>, image: &TesseraImage) -> Result<(), Failure> {
    install_on(Ground::Mixed, kubernetes, image)
}

/// The same with what a kind of cluster needs.
pub fn install_on(
    ground: Ground,
    kubernetes: Kubernetes<'_>,
    image: &TesseraImage,
) -> Result<(), Failure> {
    let mut helm = kubernetes.cluster().helm();
    helm.args(["upgrade", "--install", RELEASE])
        .arg(chart())
        .args(["--namespace", RELEASE, "--create-namespace", HELM_LIMIT]);
    for value in values(&image.name) {
        helm.args(["--set", &value]);
    }
    for value in ground.values() {
        helm.args(["--set", value]);
    }
    run(&mut helm, None)?;
    serving(kubernetes)
}

/// Changes values of the installation, and returns when what it then consists of is ready.
pub fn change(kubernetes: Kubernetes<'_>, values: &[String]) -> Result<(), Failure> {
    let mut helm = kubernetes.cluster().helm();
    helm.args(["upgrade", RELEASE]).arg(chart()).args([
        "--namespace",
        RELEASE,
        "--reuse-values",
        HELM_LIMIT,
    ]);
    for value in values {
        helm.args(["--set", value]);
    }
    run(&mut helm, None)?;
    serving(kubernetes)
}

/// Our chart.
pub(crate) fn chart() -> PathBuf {
    checkout().join("charts/tessera")
}

/// The values that the release was given, as a file that Helm takes.
pub(crate) fn given(kubernetes: Kubernetes<'_>) -> Result<NamedTempFile, Failure> {
    let mut helm = kubernetes.cluster().helm();
    helm.args(["get", "values", RELEASE, "--namespace", RELEASE])
        .args(["--output", "yaml"]);
    let values = run(&mut helm, None)?;
    let kept = NamedTempFile::new().and_then(|mut file| {
        file.write_all(values.as_bytes())?;
        Ok(file)
    });
    kept.map_err(|error| Failure::wrong(format!("keep the values of the release: {error}")))
}

/// Makes the release one of this chart with the values of these files, of which later ones win, and returns when Helm
/// says that it is done.
pub(crate) fn put(
    kubernetes: Kubernetes<'_>,
    chart: &Path,
    values: &[&Path],
) -> Result<(), Failure> {
    let mut helm = kubernetes.cluster().helm();
    helm.args(["upgrade", "--install", RELEASE])
        .arg(chart)
        .args(["--namespace", RELEASE, "--create-namespace", HELM_LIMIT]);
    for file in values {
        helm.arg("--values").arg(file);
    }
    run(&mut helm, None).map(drop)
}

/// Uninstalls the chart and returns when Helm says that it is done.
pub fn uninstall(kubernetes: Kubernetes<'_>) -> Result<(), Failure> {
    let mut helm = kubernetes.cluster().helm();
    helm.args([
        "uninstall",
        RELEASE,
        "--namespace",
        RELEASE,
        "--wait",
        HELM_LIMIT,
    ]);
    run(&mut helm, None).map(drop)
}

/// Variables of the plugin's containers.
const VARIABLES: [(&str, &str); 5] = [
    // The simulated GPUs are in the kernel's sysfs and procfs no more than their driver in its list of devices.
    ("SYSFS_ROOT", "/driver-root/sys"),
    ("PROC_ROOT", "/driver-root/proc"),
    ("ALT_PROC_DEVICES_PATH", "/driver-root/proc/devices"),
    // A scenario waits for what happens after minutes by default. The grace is longer than the wait of a
    // claim that users are told of.
    ("LEFTOVER_GRACE", "12s"),
    ("RECONCILE_INTERVAL", "5s"),
];

fn values(image: &str) -> Vec<String> {
    let (repository, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let mut values = vec![
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
        "image.pullPolicy=Never".to_owned(),
        // Where a driver container installs it, and where the simulated one is.
        "nvidiaDriverRoot=/run/nvidia/driver".to_owned(),
        "gpuResourcesEnabledOverride=true".to_owned(),
    ];
    for container in ["gpus", "computeDomains"] {
        let env = format!("kubeletPlugin.containers.{container}.env");
        for (at, (name, value)) in VARIABLES.iter().enumerate() {
            values.push(format!("{env}[{at}].name={name}"));
            values.push(format!("{env}[{at}].value={value}"));
        }
    }
    values
}

/// Returns when what the release consists of is ready and every node offers its GPUs.
pub(crate) fn serving(kubernetes: Kubernetes<'_>) -> Result<(), Failure> {
    let nodes = kubernetes.cluster().nodes();
    let ours = Scope::Namespace(RELEASE);
    let count = i32::try_from(nodes.len()).unwrap_or(i32::MAX);
    let what = "the plugin to be ready on every node";
    kubernetes.wait(ours, what, SERVING_LIMIT, |sets| {
        all_ready(sets, count).then_some(())
    })?;
    let what = "the controller, and what else is deployed, to be ready";
    kubernetes.wait(ours, what, SERVING_LIMIT, |deployments| {
        all_available(deployments).then_some(())
    })?;
    let what = "a slice of every node";
    kubernetes.wait(Scope::Cluster, what, SERVING_LIMIT, |slices| {
        let pools = pools(slices);
        let offers = |node: &str| pools.iter().any(|pool| pool == node);
        nodes.iter().all(|node| offers(node.name())).then_some(())
    })
}

/// Whether every node has a pod of each set's newest state, and it is ready. Of a set that is updated only when
/// somebody deletes its pods, an older state will do.
pub(crate) fn all_ready(sets: &Objects<DaemonSet>, nodes: i32) -> bool {
    let current = |set: &DaemonSet| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && status.number_ready == nodes
            && (on_delete(set) || status.updated_number_scheduled == Some(nodes))
    };
    !sets.is_empty() && sets.values().all(current)
}

fn on_delete(set: &DaemonSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete")
}

fn all_available(deployments: &Objects<Deployment>) -> bool {
    deployments.values().all(|deployment| {
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = deployment.spec.replicas;
        status.observed_generation == deployment.metadata.generation
            && status.ready_replicas.unwrap_or(0) == wanted.unwrap_or(1)
    })
}

fn pools(slices: &Objects<ResourceSlice>) -> Vec<String> {
    let gpus = offered(slices).into_iter();
    gpus.map(|gpu| gpu.place.pool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_set_in_its_two_parts() {
        let values = values("docker.io/tessera/tessera:0.1.0");
        assert!(values.contains(&"image.repository=docker.io/tessera/tessera".to_owned()));
        assert!(values.contains(&"image.tag=0.1.0".to_owned()));
    }

    #[test]
    fn no_daemon_set_is_not_ready() {
        assert!(!all_ready(&Objects::new(), 0));
    }

    #[test]
    fn a_daemon_set_is_ready_when_every_pod_of_its_newest_state_is() {
        let set = |observed: i64, ready: i32| -> DaemonSet {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet",
                "metadata": {"name": "plugin", "generation": 2},
                "status": {"observedGeneration": observed, "numberReady": ready,
                           "updatedNumberScheduled": 2, "desiredNumberScheduled": 2,
                           "currentNumberScheduled": 2, "numberMisscheduled": 0},
            }))
            .unwrap()
        };
        for (observed, ready, wanted) in [(2, 2, true), (1, 2, false), (2, 1, false)] {
            let sets = Objects::from([("plugin".to_owned(), set(observed, ready))]);
            assert_eq!(all_ready(&sets, 2), wanted);
        }
    }
}
