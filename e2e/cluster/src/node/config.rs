//! The texts of a node's configuration files.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::RUNTIME_SOCKET;
use crate::gates::Gates;
use crate::images::PAUSE;
use crate::names::{CLUSTER_DOMAIN, DNS_ADDRESS, NodeIndex};
use crate::paths::StateDir;

/// containerd, configuration version 3. CDI needs no switch since containerd 2.
pub(super) fn containerd(home: &Path, bin: &Path) -> String {
    let (home, bin) = (home.display(), bin.display());
    format!(
        r#"version = 3
root = "{home}/containerd"
state = "/run/containerd"

[grpc]
  address = "{RUNTIME_SOCKET}"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "{PAUSE}"

[plugins.'io.containerd.cri.v1.runtime']
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
  # Without CAP_SYS_RESOURCE no process may lower its oom_score_adj.
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{bin}"]
    conf_dir = "{home}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{bin}/runc"
      SystemdCgroup = false
"#
    )
}

/// The kubelet's configuration, as JSON.
pub(super) fn kubelet(dir: &StateDir, node: NodeIndex, gates: &Gates) -> String {
    let name = node.name();
    let gates: Map<String, Value> = gates
        .iter()
        .map(|(gate, on)| (gate.to_owned(), on.into()))
        .collect();
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": dir.pki("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node.cgroup()),
        // Machines with the first version of cgroups still count.
        "failCgroupV1": false,
        // Nodes share the machine, so none may limit what it calls its own.
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "containerRuntimeEndpoint": format!("unix://{RUNTIME_SOCKET}"),
        "tlsCertFile": dir.pki(&format!("{name}.crt")),
        "tlsPrivateKeyFile": dir.pki(&format!("{name}.key")),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": dir.of(&name).join("resolv.conf"),
        "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
        // Imported images cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": false,
        "maxPods": 250,
        // Some machines have swap; what a pod may use of it is not this cluster's question.
        "failSwapOn": false,
        "featureGates": gates,
    });
    serde_json::to_string_pretty(&config).expect("a JSON value always serialises")
}

/// The network plugins: a bridge per node, addresses from the node's range.
pub(super) fn network(home: &Path, node: NodeIndex) -> String {
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "tessera",
        "plugins": [{
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{ "subnet": node.pod_range() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
                "dataDir": home.join("cni-addresses"),
            },
        }],
    });
    serde_json::to_string_pretty(&config).expect("a JSON value always serialises")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeIndex {
        NodeIndex::first(2).unwrap()[1]
    }

    #[test]
    fn containerd_gets_its_own_root_our_runc_our_sandbox_and_both_cdi_directories() {
        let text = containerd(Path::new("/state/node1"), Path::new("/state/bin"));
        for line in [
            "version = 3",
            "root = \"/state/node1/containerd\"",
            "    sandbox = \"docker.io/tessera/pause:1\"",
            "  cdi_spec_dirs = [\"/etc/cdi\", \"/var/run/cdi\"]",
            "  restrict_oom_score_adj = true",
            "      BinaryName = \"/state/bin/runc\"",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn the_kubelet_gets_its_cgroup_its_certificate_and_the_gates() {
        let dir = StateDir::at(Path::new("/state"));
        let text = kubelet(&dir, node(), &"A=false,B=true".parse().unwrap());
        let config: Value = serde_json::from_str(&text).unwrap();
        for (key, value) in [
            ("cgroupRoot", json!("/tess-node1")),
            ("failCgroupV1", json!(false)),
            ("enforceNodeAllocatable", json!([])),
            ("tlsCertFile", json!("/state/pki/node1.crt")),
            (
                "containerRuntimeEndpoint",
                json!("unix:///run/containerd/containerd.sock"),
            ),
            ("featureGates", json!({ "A": false, "B": true })),
        ] {
            assert_eq!(config[key], value, "{key}");
        }
    }

    #[test]
    fn pods_get_addresses_of_their_nodes_range() {
        let text = network(Path::new("/state/node1"), node());
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            config["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.244.1.0/24"
        );
        assert_eq!(
            config["plugins"][0]["ipam"]["dataDir"],
            "/state/node1/cni-addresses"
        );
    }
}
