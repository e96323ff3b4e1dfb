//! The scenarios, one file per group. Each is a function that fails with the first thing that is not as stated.
//!
//! They are meant to be read: the manifests in them are what a user writes.

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
pub(crate) mod selection;
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
