//! Manifests that several scenarios apply: claims and pods as users write them, and as the documentation shows them.

use std::fs;

use tessera_cluster::Node;
use tessera_cluster::paths::checkout;

use crate::failure::Failure;

/// A template for claims of one GPU.
const TEMPLATE: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: one-gpu
spec:
  spec:
    devices:
      requests:
      - name: gpu
        exactly:
          deviceClassName: gpu.nvidia.com
";

/// A claim `NAME` of one GPU. It ends with the list of its requests.
const CLAIM: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: NAME
spec:
  devices:
    requests:
    - name: gpu
      exactly:
        deviceClassName: gpu.nvidia.com
";

/// A pod `NAME` that has the claim that `REFERENCE` names. What it sees is in its log. Its shell ends when it is told to, which
/// `sleep` as the first process of a container does not: its end would take the grace period.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  resourceClaims:
  - name: gpu
    REFERENCE
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  terminationGracePeriodSeconds: 1
";

/// A pod `NAME` that has `COUNT` GPUs and ignores the signal to end.
const STUBBORN: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: gpus-of-NAME
spec:
  spec:
    devices:
      requests:
      - name: gpus
        exactly:
          deviceClassName: gpu.nvidia.com
          count: COUNT
---
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  resourceClaims:
  - name: gpus
    resourceClaimTemplateName: gpus-of-NAME
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, \"trap '' TERM; nvidia-smi -L; echo listed; while :; do sleep 1; done\"]
    resources:
      claims:
      - name: gpus
  terminationGracePeriodSeconds: 5
";

/// How many GPUs a node with the profile `h100` has.
const ALL: usize = 8;

/// A template for claims of one GPU, and a pod of this name that has such a claim.
pub(crate) fn one_gpu(pod: &str) -> String {
    let pod = POD
        .replace("NAME", pod)
        .replace("REFERENCE", "resourceClaimTemplateName: one-gpu");
    format!("{TEMPLATE}---{pod}")
}

/// [`one_gpu`], on this node.
pub(crate) fn one_gpu_on(node: &Node, pod: &str) -> String {
    on_node(&one_gpu(pod), node)
}

/// A claim of one GPU in its request `gpu`. More requests can follow, and then more of the claim.
pub(crate) fn claim(name: &str) -> String {
    CLAIM.replace("NAME", name)
}

/// A pod that has a claim of its namespace.
pub(crate) fn pod_of(pod: &str, claim: &str) -> String {
    let reference = format!("resourceClaimName: {claim}");
    POD.replace("NAME", pod).replace("REFERENCE", &reference)
}

/// A pod that has a claim of its own, made from this template.
pub(crate) fn pod_by_template(pod: &str, template: &str) -> String {
    let reference = format!("resourceClaimTemplateName: {template}");
    POD.replace("NAME", pod).replace("REFERENCE", &reference)
}

/// A pod on this node that has so many GPUs in its claim `gpus` and ignores the signal to end.
pub(crate) fn stubborn(pod: &str, node: &Node, count: usize) -> String {
    let manifests = STUBBORN
        .replace("NAME", pod)
        .replace("COUNT", &count.to_string());
    on_node(&manifests, node)
}

/// [`stubborn`] with all GPUs of a node of eight.
pub(crate) fn all_gpus(pod: &str, node: &Node) -> String {
    stubborn(pod, node, ALL)
}

/// The manifests, with their pods bound for this node. A pod without a claim is left as it is.
pub(crate) fn on_node(manifests: &str, node: &Node) -> String {
    let node = node.name();
    // Of two spaces: only a pod has the field right below its spec.
    let field = "\n  resourceClaims:\n";
    manifests.replace(
        field,
        &format!("\n  nodeSelector: {{kubernetes.io/hostname: {node}}}{field}"),
    )
}

/// The manifests of this name in the documentation.
pub(crate) fn example(name: &str) -> Result<String, Failure> {
    let path = checkout().join(format!("docs/examples/{name}.yaml"));
    fs::read_to_string(&path).map_err(|reason| Failure::File { path, reason })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_example_of_the_documentation_is_explained_in_it_and_applied_by_a_scenario() {
        let page = fs::read_to_string(checkout().join("docs/quickstart.md")).unwrap();
        let groups = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/groups");
        let scenarios: String = fs::read_dir(groups)
            .unwrap()
            .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        let examples = fs::read_dir(checkout().join("docs/examples")).unwrap();
        let mut count = 0;
        for example in examples {
            let path = example.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(page.contains(&format!("(examples/{name}.yaml)")), "{name}");
            assert!(scenarios.contains(&format!("example({name:?})")), "{name}");
            count += 1;
        }
        assert_eq!(count, page.matches("(examples/").count());
    }
}
