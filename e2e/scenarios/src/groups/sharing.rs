//! Several users of one claim: all see the same GPU.

use super::manifests::{claim, pod_of};
use crate::context::{Context, uuids};
use crate::failure::{Failure, same};

/// The pod of the claim `shared`, with two containers that name it.
const TWO_CONTAINERS: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: pod
spec:
  resourceClaims:
  - name: gpu
    resourceClaimName: shared
  containers:
  - name: first
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  - name: second
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  terminationGracePeriodSeconds: 1
";

pub(crate) fn two_containers_of_a_pod_share_the_gpu_of_one_claim(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(&format!("{}---{TWO_CONTAINERS}", claim("shared")))?;
    context.running(&["pod"])?;
    let held = uuids(&context.held("shared")?);
    same("the number of GPUs of the claim", &held.len(), &1)?;
    for container in ["first", "second"] {
        let seen = context.seen("pod", container)?;
        same(&format!("the GPUs in container {container}"), &seen, &held)?;
    }
    Ok(())
}

pub(crate) fn two_pods_share_the_gpu_of_one_claim(context: &Context<'_>) -> Result<(), Failure> {
    let pods = ["first", "second"].map(|pod| pod_of(pod, "shared"));
    context.apply(&format!("{}---{}", claim("shared"), pods.join("---")))?;
    context.running(&["first", "second"])?;
    let held = uuids(&context.held("shared")?);
    same("the number of GPUs of the claim", &held.len(), &1)?;
    for pod in ["first", "second"] {
        let seen = context.seen(pod, "main")?;
        same(&format!("the GPUs in pod {pod}"), &seen, &held)?;
    }
    // The claim stays prepared for the one that goes on.
    context.delete_pods(&["first"])?;
    let still = context.execute("second", "main", &["nvidia-smi", "-L"])?;
    same(
        "the number of GPUs in the pod that goes on",
        &still.lines().count(),
        &1,
    )
}
