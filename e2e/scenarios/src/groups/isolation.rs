//! A container sees the GPUs of its claims and no other, whatever its image asks for.

use crate::context::{Context, claim_of, uuids};
use crate::failure::{Failure, same};

const ASKS_FOR_ALL: &str = "
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
  name: pod
spec:
  resourceClaims:
  - name: gpu
    resourceClaimTemplateName: one-gpu
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    env:
    - name: NVIDIA_VISIBLE_DEVICES
      value: all
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  - name: by-image
    # NVIDIA_VISIBLE_DEVICES=all stands in the image, as in most images for GPUs.
    image: docker.io/tessera/workload-all-gpus:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  terminationGracePeriodSeconds: 1
";

pub(crate) fn a_container_that_asks_for_all_gpus_sees_only_the_claimed_one(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(ASKS_FOR_ALL)?;
    let pods = context.running(&["pod"])?;
    let held = uuids(&context.held(&claim_of(&pods["pod"], "gpu")?)?);
    same("the number of GPUs of the claim", &held.len(), &1)?;
    for container in ["main", "by-image"] {
        let seen = context.seen("pod", container)?;
        same(&format!("the GPUs in {container}"), &seen, &held)?;
    }
    Ok(())
}

const ONE_WITH_ONE_WITHOUT: &str = "
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
  name: pod
spec:
  resourceClaims:
  - name: gpu
    resourceClaimTemplateName: one-gpu
  containers:
  - name: with
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  - name: without
    image: docker.io/tessera/workload:1
    env:
    - name: NVIDIA_VISIBLE_DEVICES
      value: all
    command: [sh, -c, 'exec 2>&1; ls -d /dev/nvidia*; command -v nvidia-smi; echo listed; trap exit TERM; sleep 3600 & wait']
  terminationGracePeriodSeconds: 1
";

pub(crate) fn a_container_without_a_claim_sees_no_gpu(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(ONE_WITH_ONE_WITHOUT)?;
    context.running(&["pod"])?;
    same(
        "the number of GPUs with the claim",
        &context.seen("pod", "with")?.len(),
        &1,
    )?;
    let found = context.written("pod", "without")?;
    let none = "ls: /dev/nvidia*: No such file or directory";
    same(
        "what is found without the claim",
        &found,
        &vec![none.to_owned()],
    )
}
