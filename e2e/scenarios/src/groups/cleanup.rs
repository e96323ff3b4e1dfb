//! Nothing is left of a claim when it is over, and nothing of it is lost before.

use super::manifests::one_gpu;
use crate::context::{Context, claim_of, uuids};
use crate::failure::{Failure, same};
use crate::kubernetes::{restarts, runs, uid};
use crate::leftovers::left_on;

pub(crate) fn deleted_pods_leave_no_record_no_cdi_file_and_no_claim(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let names = ["first", "second", "third"];
    context.apply(&names.map(one_gpu).join("\n---\n"))?;
    context.running(&names)?;
    same(
        "records and CDI files of three pods",
        &left(context)?,
        &(3, 3),
    )?;
    context.delete_pods(&names)?;
    context.nothing_left()?;
    context.no_claims()
}

/// The container ends once, after it has listed its GPUs, and is started again by the kubelet.
const ENDS_ONCE: &str = "
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
    command: [sh, -c, nvidia-smi -L; echo listed; mkdir /kept/ended 2>/dev/null && exit 1; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
    volumeMounts:
    - name: kept
      mountPath: /kept
  volumes:
  - name: kept
    emptyDir: {}
  terminationGracePeriodSeconds: 1
";

pub(crate) fn a_restarted_container_sees_its_gpu_again_and_leaves_nothing(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(ENDS_ONCE)?;
    let pod = context.pods("the container to run again", |pods| {
        let pod = pods.get("pod")?;
        (runs(pod) && restarts(pod) == 1).then(|| pod.clone())
    })?;
    let held = uuids(&context.held(&claim_of(&pod, "gpu")?)?);
    let seen = context.seen("pod", "main")?;
    same("the GPUs after the restart", &seen, &held)?;
    same("records and CDI files of one pod", &left(context)?, &(1, 1))?;
    context.delete_pods(&["pod"])?;
    context.nothing_left()?;
    context.no_claims()
}

pub(crate) fn a_pod_recreated_under_its_name_has_a_claim_of_its_own(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let mut claims = Vec::new();
    for _ in 0..2 {
        context.apply(&one_gpu("pod"))?;
        let pods = context.running(&["pod"])?;
        let name = claim_of(&pods["pod"], "gpu")?;
        let held = uuids(&context.held(&name)?);
        same("the GPUs in the pod", &context.seen("pod", "main")?, &held)?;
        same("records and CDI files of one pod", &left(context)?, &(1, 1))?;
        claims.extend(context.claims()?.get(&name).map(uid));
        context.delete_pods(&["pod"])?;
    }
    same("the number of claims", &claims.len(), &2)?;
    if claims[0] == claims[1] {
        return Err(Failure::wrong("the second pod had the claim of the first"));
    }
    context.nothing_left()?;
    context.no_claims()
}

/// How many records and CDI files all nodes have.
fn left(context: &Context<'_>) -> Result<(usize, usize), Failure> {
    let mut count = (0, 0);
    for node in context.nodes() {
        let (records, specs) = left_on(node)?;
        count.0 += records;
        count.1 += specs;
    }
    Ok(count)
}
