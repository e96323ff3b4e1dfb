//! The scenarios, one file per group. Each is a function that fails with the first thing that is not as stated.
//!
//! They are meant to be read: the manifests in them are what a user writes.

use std::fs;

use tessera_cluster::paths::checkout;

use crate::failure::Failure;

pub(crate) mod api_away;
pub(crate) mod cleanup;
pub(crate) mod configuration;
pub(crate) mod damage;
pub(crate) mod driver;
pub(crate) mod events;
pub(crate) mod hostile;
pub(crate) mod isolation;
pub(crate) mod kubelet;
pub(crate) mod odd_claims;
pub(crate) mod plugin;
pub(crate) mod reboot;
pub(crate) mod rights;
pub(crate) mod selection;
pub(crate) mod shapes;
pub(crate) mod sharing;
pub(crate) mod survival;
pub(crate) mod uninstall;
pub(crate) mod upgrade;
pub(crate) mod whole_gpus;

/// A template for claims of one GPU, and a pod `NAME` that has such a claim. What it sees is in its log.
pub(crate) const ONE_GPU: &str = "
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
---
apiVersion: v1
kind: Pod
metadata:
  name: NAME
spec:
  resourceClaims:
  - name: gpu
    resourceClaimTemplateName: one-gpu
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; exec sleep 3600]
    resources:
      claims:
      - name: gpu
  terminationGracePeriodSeconds: 1
";

/// [`ONE_GPU`] with the pod's name.
pub(crate) fn one_gpu(pod: &str) -> String {
    ONE_GPU.replace("NAME", pod)
}

/// The manifests of this name in the documentation.
pub(crate) fn example(name: &str) -> Result<String, Failure> {
    let path = checkout().join(format!("docs/examples/{name}.yaml"));
    fs::read_to_string(&path).map_err(|reason| Failure::File { path, reason })
}

#[cfg(test)]
mod tests {
    use std::fs;
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
