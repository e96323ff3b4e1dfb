//! What the reference driver is on a node and in a release, as far as its successor meets it.
//!
//! The reference driver itself is not here. What it leaves on a node (its checkpoint, its CDI specs, its lock files) is
//! made from what is known of its formats, out of claims that our plugin has prepared. Its release is one of a chart that
//! has the objects of its chart under their names, made with its values; their containers do nothing but hold the lock
//! that tells of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tessera_cluster::Node;

use super::mig::attribute;
use crate::context::Context;
use crate::failure::Failure;
use crate::gpus::{DRIVER, Offered};
use crate::kubernetes::uid;

/// The node's directory of the driver, where both drivers have their files.
fn plugin_dir(node: &Node) -> PathBuf {
    node.kubelet_dir().join("plugins").join(DRIVER)
}

/// What the reference driver would know of claims on a node.
pub(super) struct Known<'a> {
    node: &'a Node,
    /// What its checkpoint has of each claim, by UID.
    claims: serde_json::Map<String, Value>,
}

impl<'a> Known<'a> {
    /// Of the claims of these names, which are prepared.
    pub(super) fn of(
        context: &Context<'_>,
        node: &'a Node,
        names: &[&str],
    ) -> Result<Self, Failure> {
        let objects = context.claims()?;
        let mut claims = serde_json::Map::new();
        for name in names {
            let uid = uid(&objects[*name]);
            let status = serde_json::to_value(&objects[*name].status).unwrap_or_default();
            let held = context.held(name)?;
            let devices = held
                .iter()
                .map(|device| entry(context, &uid, &status, device));
            let devices: Vec<Value> = devices.collect::<Result<_, _>>()?;
            let claim = json!({
                "checkpointState": "PrepareCompleted",
                "status": status,
                "preparedDevices": [{
                    "devices": devices,
                    "configState": {"mpsControlDaemonID": "", "timeSliceApplied": null},
                }],
            });
            claims.insert(uid, claim);
        }
        Ok(Self { node, claims })
    }

    /// Puts the files of the reference driver into the place of ours. Our plugin must not look meanwhile.
    pub(super) fn leave(self) -> Result<(), Failure> {
        let records = self.node.run_dir().join(DRIVER).join("claims");
        for uid in self.claims.keys() {
            replace_spec(self.node, uid)?;
            for directory in [records.join("copies"), records.clone()] {
                let path = directory.join(format!("{uid}.record"));
                fs::remove_file(&path).map_err(failed(&path))?;
            }
        }
        write_checkpoint(self.node, &Value::Object(self.claims))
    }
}

/// Removes what is kept for people of the reference driver, and is in the way of other scenarios.
pub(super) fn clear(node: &Node) -> Result<(), Failure> {
    for file in ["checkpoint.json.taken-over", "pu.lock", "cp.lock"] {
        let path = plugin_dir(node).join(file);
        match fs::remove_file(&path) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path)(reason));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the checkpoint has of a prepared device.
fn entry(
    context: &Context<'_>,
    uid: &str,
    status: &Value,
    device: &Offered,
) -> Result<Value, Failure> {
    let name = &device.place.device;
    let prepared = json!({
        "Requests": [status["allocation"]["devices"]["results"][0]["request"]],
        "PoolName": device.place.pool,
        "DeviceName": name,
        "CDIDeviceIDs": [format!("k8s.gpu.nvidia.com/claim={uid}-{name}")],
    });
    if !name.contains("-mig-") {
        return Ok(json!({
            "gpu": {"info": {"uuid": device.uuid}, "device": prepared},
            "mig": null,
        }));
    }
    // The numbers of its instances are the business of the driver that made it.
    let concrete = json!({
        "parentMinor": 0, "giId": 0, "ciId": 0, "migUUID": device.uuid,
        "parentUUID": attribute(context, &device.place, "parentUUID")?,
    });
    Ok(json!({"gpu": null, "mig": {"concrete": concrete, "device": prepared}}))
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
    let directory = plugin_dir(node);
    fs::create_dir_all(&directory).map_err(failed(&directory))?;
    for (file, contents) in [
        ("pu.lock", String::new()),
        ("cp.lock", String::new()),
        ("checkpoint.json", checkpoint.to_string()),
    ] {
        let path = directory.join(file);
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

/// The label by which the reference chart knows the pods of its parts.
pub(super) const COMPONENT: &str = "dra-driver-nvidia-gpu-component";

const CHART: &str = "\
apiVersion: v2
name: dra-driver-nvidia-gpu
description: A stand-in with the objects of the reference driver's chart.
version: 0.4.0
appVersion: 0.4.0
";

/// Classes and programs. Each plugin holds the lock by which a successor knows that it is there.
const OBJECTS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .Release.Name }}-dra-driver-nvidia-gpu-service-account-kubeletplugin
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: dra-driver-nvidia-gpu-kubelet-plugin
spec:
  selector: {matchLabels: {dra-driver-nvidia-gpu-component: kubelet-plugin}}
  updateStrategy: {{ toJson .Values.kubeletPlugin.updateStrategy }}
  template:
    metadata: {labels: {dra-driver-nvidia-gpu-component: kubelet-plugin}}
    spec:
      priorityClassName: {{ .Values.kubeletPlugin.priorityClassName }}
      serviceAccountName: {{ .Release.Name }}-dra-driver-nvidia-gpu-service-account-kubeletplugin
      affinity: {{ toJson .Values.kubeletPlugin.affinity }}
      tolerations: {{ toJson .Values.kubeletPlugin.tolerations }}
      terminationGracePeriodSeconds: 1
      containers:
      - name: gpus
        image: docker.io/tessera/pause:1
        args: [/plugin/pu.lock]
        securityContext: {{ toJson .Values.kubeletPlugin.containers.gpus.securityContext }}
        volumeMounts: [{name: plugin, mountPath: /plugin}]
      volumes:
      - name: plugin
        hostPath:
          path: {{ .Values.kubeletPlugin.kubeletPluginsDirectoryPath }}/gpu.nvidia.com
          type: DirectoryOrCreate
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: dra-driver-nvidia-gpu-controller
spec:
  replicas: {{ .Values.controller.replicas }}
  selector: {matchLabels: {dra-driver-nvidia-gpu-component: controller}}
  template:
    metadata: {labels: {dra-driver-nvidia-gpu-component: controller}}
    spec:
      priorityClassName: {{ .Values.controller.priorityClassName }}
      tolerations: {{ toJson .Values.controller.tolerations }}
      terminationGracePeriodSeconds: 1
      containers:
      - name: compute-domain
        image: docker.io/tessera/pause:1
{{- $version := "" }}
{{- range list "v1beta1" "v1beta2" "v1" }}
{{- if $.Capabilities.APIVersions.Has (printf "resource.k8s.io/%s" .) }}
{{- $version = . }}
{{- end }}
{{- end }}
{{- range $class, $of := dict "gpu.nvidia.com" "gpu" "mig.nvidia.com" "mig" }}
---
apiVersion: resource.k8s.io/{{ $version }}
kind: DeviceClass
metadata:
  name: {{ $class }}
spec:
  selectors:
  - cel:
      expression: device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].type == "{{ $of }}"
{{- end }}
"#;

/// Writes the chart that stands for the reference driver's.
pub(super) fn chart() -> Result<TempDir, Failure> {
    let directory = tempfile::tempdir()
        .map_err(|error| Failure::wrong(format!("make a temporary directory: {error}")))?;
    let templates = directory.path().join("templates");
    fs::create_dir(&templates).map_err(failed(&templates))?;
    for (path, text) in [
        (directory.path().join("Chart.yaml"), CHART),
        (templates.join("objects.yaml"), OBJECTS),
    ] {
        fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(directory)
}

/// A values file with every key that the reference chart's own values have.
pub(super) fn values() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/reference-values.yaml")
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
