//! The plugin comes to a node on which the reference driver has prepared claims.
//!
//! The reference driver itself is not here. What it leaves on a node (its checkpoint, its CDI specs, its lock files) is made
//! from what is known of its formats, out of claims that our plugin has prepared: the plugin is killed, its records
//! are removed, and the files of the other driver are put in their place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tessera_cluster::Node;

use super::manifests::{claim, on_node, pod_of, stubborn};
use crate::context::{COLLECT_LIMIT, Context, START_LIMIT, claim_of, uuids};
use crate::failure::{Failure, nothing, same};
use crate::gpus::{DRIVER, Offered};
use crate::kubelet_log::{KubeletLog, Said};
use crate::kubernetes::{Scope, containers, uid};
use crate::plugin_pod::Plugin;

/// The node's directory of the driver, where both drivers have their files.
fn plugin_dir(node: &Node) -> PathBuf {
    node.kubelet_dir().join("plugins").join(DRIVER)
}

pub(crate) fn the_claims_of_the_reference_driver_are_taken_over_with_their_running_pods(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(&claim("shared"))?;
    context.apply(&on_node(&pod_of("first", "shared"), node))?;
    context.apply(&stubborn("former", node, 2))?;
    let pods = context.running(&["first", "former"])?;
    let started = containers(&pods["former"]);
    let owned = claim_of(&pods["former"], "gpus")?;
    let held = uuids(&context.held(&owned)?);
    let log = KubeletLog::of(context.kubernetes(), node)?;
    leave_as_the_reference_does(context, node, &["shared", &owned])?;
    // A pod that comes before waits for more than a minute.
    log.wait(&[Said::Registered], START_LIMIT)?;

    let what = "the event of the takeover";
    let event = context.event(Scope::Namespace("default"), what, |event| {
        event.reason.as_deref() == Some("ClaimsTakenOver")
            && event.involved_object.name.as_deref() == Some(node.name())
    })?;
    let told = event.message.unwrap_or_default();
    if !told.starts_with("2 claims of the reference driver were taken over, taken_over 2;") {
        return Err(Failure::wrong(format!("the event says {told:?}")));
    }
    let plugin = Plugin::on(context.kubernetes(), node);
    let counted = plugin.metric("tessera_takeover_claims_total{fate=\"taken_over\"}")?;
    same("the claims in the metric", &counted, &2)?;

    // A container that is started now is made by the spec of the reference driver.
    context.apply(&pod_of("second", "shared"))?;
    context.running(&["second"])?;
    let seen = context.seen("second", "main")?;
    same(
        "the GPU of the claim that two pods share",
        &seen,
        &uuids(&context.held("shared")?),
    )?;
    let pods = context.pods("the pods of before", |pods| Some(pods.clone()))?;
    same(
        "the container that ran before",
        &containers(&pods["former"]),
        &started,
    )?;
    same("the GPUs in it", &context.lists("former", "main")?, &held)?;

    // The claim is gone at once and its GPUs allocated anew; its process is not gone.
    context.delete_pods(&["former", "--force", "--grace-period=0"])?;
    context.apply(&stubborn("next", node, 7))?;
    context.running(&["next"])?;
    let next = context.seen("next", "main")?;
    let missing: Vec<_> = held.iter().filter(|gpu| !next.contains(gpu)).collect();
    nothing("the next pod lacks GPUs of the former one", &missing)?;
    nothing("preparations have failed", &context.failed_preparations()?)?;

    context.delete_pods(&["first", "second", "next"])?;
    context.nothing_left_within(COLLECT_LIMIT)?;
    // It is kept for people, and in the way of the other scenarios.
    for file in ["checkpoint.json.taken-over", "pu.lock", "cp.lock"] {
        let path = plugin_dir(node).join(file);
        fs::remove_file(&path).map_err(failed(&path))?;
    }
    Ok(())
}

/// Makes a node that runs these claims one of the reference driver, and has the plugin start on it.
fn leave_as_the_reference_does(
    context: &Context<'_>,
    node: &Node,
    names: &[&str],
) -> Result<(), Failure> {
    let plugin = Plugin::on(context.kubernetes(), node);
    let keeper = plugin.keeper()?;
    let mut processes = vec![keeper];
    processes.extend(plugin.processes());
    // Nobody repairs what is done here.
    let _stopped = node.stop(processes);
    let claims = context.claims()?;
    let mut entries = serde_json::Map::new();
    for name in names {
        let uid = uid(&claims[*name]);
        let status = serde_json::to_value(&claims[*name].status).unwrap_or_default();
        replace_spec(node, &uid)?;
        let records = node.run_dir().join(DRIVER).join("claims");
        for directory in [records.join("copies"), records] {
            let path = directory.join(format!("{uid}.record"));
            fs::remove_file(&path).map_err(failed(&path))?;
        }
        let entry = entry(&uid, &status, &context.held(name)?);
        entries.insert(uid, entry);
    }
    write_checkpoint(node, &Value::Object(entries))?;
    // With its first process the whole container ends, and the kubelet starts it anew.
    node.kill(&[keeper]);
    Ok(())
}

/// What the checkpoint has of a prepared claim.
fn entry(uid: &str, status: &Value, gpus: &[Offered]) -> Value {
    let device = |gpu: &Offered| {
        let name = &gpu.place.device;
        json!({
            "gpu": {
                "info": {"uuid": gpu.uuid},
                "device": {
                    "Requests": [status["allocation"]["devices"]["results"][0]["request"]],
                    "PoolName": gpu.place.pool,
                    "DeviceName": name,
                    "CDIDeviceIDs": [format!("k8s.gpu.nvidia.com/claim={uid}-{name}")],
                },
            },
            "mig": null,
        })
    };
    let devices: Vec<Value> = gpus.iter().map(device).collect();
    json!({
        "checkpointState": "PrepareCompleted",
        "status": status,
        "preparedDevices": [{
            "devices": devices,
            "configState": {"mpsControlDaemonID": "", "timeSliceApplied": null},
        }],
    })
}

fn write_checkpoint(node: &Node, claims: &Value) -> Result<(), Failure> {
    let boot = Path::new("/proc/sys/kernel/random/boot_id");
    let boot = fs::read_to_string(boot).map_err(failed(boot))?;
    let checkpoint = json!({
        "version": "v2",
        "checksum": 1,
        "v1": {"preparedClaims": claims},
        "v2": {"checksum": 2, "preparedClaims": claims, "nodeBootID": boot.trim()},
    });
    for (file, contents) in [
        ("pu.lock", String::new()),
        ("cp.lock", String::new()),
        ("checkpoint.json", checkpoint.to_string()),
    ] {
        let path = plugin_dir(node).join(file);
        fs::write(&path, contents).map_err(failed(&path))?;
    }
    Ok(())
}

/// Puts the spec under the name and in the format in which the reference driver writes it.
fn replace_spec(node: &Node, uid: &str) -> Result<(), Failure> {
    let path = |ending: &str| {
        let name = format!("k8s.gpu.nvidia.com-claim_{uid}.{ending}");
        node.cdi_dir().join(name)
    };
    let (ours, theirs) = (path("json"), path("yaml"));
    let spec = fs::read(&ours).map_err(failed(&ours))?;
    let spec: Value = serde_json::from_slice(&spec).map_err(|reason| Failure::Unreadable {
        line: ours.display().to_string(),
        reason,
    })?;
    fs::write(&theirs, yaml(&spec, 0)).map_err(failed(&theirs))?;
    fs::remove_file(&ours).map_err(failed(&ours))
}

/// The value as YAML in block style: one field a line, fields in the order of their names.
fn yaml(value: &Value, depth: usize) -> String {
    let margin = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match value {
                Value::Object(_) => format!("{margin}{name}:\n{}", yaml(value, depth + 1)),
                Value::Array(_) => format!("{margin}{name}:\n{}", yaml(value, depth)),
                plain => format!("{margin}{name}: {plain}\n"),
            };
            fields.iter().map(field).collect()
        }
        Value::Array(entries) => {
            let entry = |value: &Value| match value {
                plain @ (Value::String(_) | Value::Number(_)) => format!("{margin}- {plain}\n"),
                nested => {
                    let nested = yaml(nested, depth + 1);
                    format!("{margin}- {}", nested.trim_start())
                }
            };
            entries.iter().map(entry).collect()
        }
        plain => format!("{margin}{plain}\n"),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |reason| Failure::File { path, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_written_as_the_reference_driver_does() {
        let spec = json!({
            "kind": "k8s.gpu.nvidia.com/claim",
            "devices": [{"name": "a-gpu-0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}}],
            "containerEdits": {"env": ["A=b"], "hooks": [{"args": ["hook", "x"], "timeout": 5}]},
        });
        let expected = "containerEdits:\n  env:\n  - \"A=b\"\n  hooks:\n  - args:\n    - \"hook\"\n    - \"x\"\n    \
                        timeout: 5\ndevices:\n- containerEdits:\n    deviceNodes:\n    - path: \"/dev/nvidia0\"\n  \
                        name: \"a-gpu-0\"\nkind: \"k8s.gpu.nvidia.com/claim\"\n";
        assert_eq!(yaml(&spec, 0), expected);
    }
}
