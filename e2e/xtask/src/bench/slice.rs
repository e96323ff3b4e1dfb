//! From a plugin's first moments to its slice, on a node that has none.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_scenarios::Failure;
use tessera_scenarios::gpus::DRIVER;
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope};

use super::{plugin, plugin_log};

/// What a plugin may take from its pod's creation to its slice.
const LIMIT: Duration = Duration::from_mins(1);

/// The label that the chart asks of a node with GPUs.
const GPU_NODE: &str = "nvidia.com/gpu.present";

/// How one start went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// From the sockets being served to the kubelet's `NotifyRegistrationStatus`.
    pub(super) served_to_registered: Duration,
    /// From `NotifyRegistrationStatus` to the slice being seen by a watch.
    pub(super) registered_to_slice: Duration,
}

/// Takes the plugin and its slices from the node, lets a new one come and times it.
pub(super) fn restart(kubernetes: Kubernetes<'_>) -> anyhow::Result<Start> {
    // The chart's own affinity takes the pod away and brings it back.
    label(kubernetes, false)?;
    plugin::gone(kubernetes)?;
    kubernetes.delete("default", &["resourceslices", "--all"])?;
    let seen = thread::scope(|scope| {
        let (armed, watching) = mpsc::channel();
        let watch = scope.spawn(move || first_slice(kubernetes, &armed));
        // Without a watch its sender is dropped, and the thread's own error says why.
        let watched = watching.recv_timeout(LIMIT);
        if watched.is_ok() {
            label(kubernetes, true)?;
        }
        let result = watch.join();
        result.unwrap_or_else(|_panic| bail!("watch the slices: a defect of the benchmark"))
    })?;
    start(&plugin::log(kubernetes)?, seen)
}

fn start(log: &str, seen: Timestamp) -> anyhow::Result<Start> {
    let moment = |message: &str| {
        let found = plugin_log::first(log, message);
        found.with_context(|| format!("find {message:?} in the plugin's log"))
    };
    let (served, registered) = (
        moment(plugin_log::SERVING)?,
        moment(plugin_log::REGISTERED)?,
    );
    let between = |from: Timestamp, to: Timestamp| {
        let passed = to.duration_since(from);
        Duration::try_from(passed).with_context(|| format!("{to} is before {from}"))
    };
    Ok(Start {
        served_to_registered: between(served, registered)?,
        registered_to_slice: between(registered, seen)?,
    })
}

/// Says when it watches, and returns the moment at which the first slice was seen.
fn first_slice(kubernetes: Kubernetes<'_>, armed: &mpsc::Sender<()>) -> anyhow::Result<Timestamp> {
    let mut watching = false;
    let what = "the plugin's slice";
    let seen = kubernetes.wait(
        Scope::Cluster,
        what,
        LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let now = Timestamp::now();
            if !watching {
                watching = true;
                // Nobody listens any more only if the other side has given up, and then nothing comes of this.
                let _ = armed.send(());
                return None;
            }
            let mut drivers = slices.values().map(|slice| &*slice.spec.driver);
            drivers.any(|driver| driver == DRIVER).then_some(now)
        },
    )?;
    Ok(seen)
}

fn label(kubernetes: Kubernetes<'_>, gpus: bool) -> anyhow::Result<()> {
    let node = plugin::node(kubernetes)?;
    let mut kubectl = kubernetes.cluster().kubectl();
    kubectl
        .args([
            "label",
            "node",
            node.name(),
            "--overwrite",
            "--request-timeout=30s",
        ])
        .arg(format!("{GPU_NODE}={gpus}"));
    let output = kubectl.output().context("run kubectl")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let line = format!("kubectl label node {}", node.name());
        return Err(Failure::Refused { line, said }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"timestamp":"2026-01-02T03:04:05.100000Z","message":"serving"}
{"timestamp":"2026-01-02T03:04:05.600000Z","message":"the kubelet registered the driver"}"#;

    #[test]
    fn a_start_is_timed_between_the_log_and_the_watch() {
        let seen = "2026-01-02T03:04:05.640000Z".parse().unwrap();
        let wanted = Start {
            served_to_registered: Duration::from_millis(500),
            registered_to_slice: Duration::from_millis(40),
        };
        assert_eq!(start(LOG, seen).unwrap(), wanted);
    }

    #[test]
    fn a_slice_from_before_the_registration_is_an_error_and_no_figure() {
        let seen = "2026-01-02T03:04:05.500000Z".parse().unwrap();
        assert!(start(LOG, seen).is_err());
        let silent = start("", seen).unwrap_err().to_string();
        assert!(silent.contains("serving"), "{silent}");
    }
}
