//! Claims that want a certain GPU get that one, wherever it is.

use crate::context::{Context, uuids};
use crate::failure::{Failure, same};

/// Two pods: one wants a T4, the other an H100.
const BY_PRODUCT: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: t4
spec:
  devices:
    requests:
    - name: gpu
      exactly:
        deviceClassName: gpu.nvidia.com
        selectors:
        - cel:
            expression: device.attributes['gpu.nvidia.com'].productName == 'Tesla T4'
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: h100
spec:
  devices:
    requests:
    - name: gpu
      exactly:
        deviceClassName: gpu.nvidia.com
        selectors:
        - cel:
            expression: device.attributes['gpu.nvidia.com'].productName.contains('H100')
---
apiVersion: v1
kind: Pod
metadata:
  name: wants-t4
spec:
  resourceClaims:
  - name: gpu
    resourceClaimName: t4
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  terminationGracePeriodSeconds: 1
---
apiVersion: v1
kind: Pod
metadata:
  name: wants-h100
spec:
  resourceClaims:
  - name: gpu
    resourceClaimName: h100
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, nvidia-smi -L; echo listed; trap exit TERM; sleep 3600 & wait]
    resources:
      claims:
      - name: gpu
  terminationGracePeriodSeconds: 1
";

pub(crate) fn a_selector_by_product_name_lands_on_the_node_that_has_it(
    context: &Context<'_>,
) -> Result<(), Failure> {
    context.apply(BY_PRODUCT)?;
    let pods = context.running(&["wants-t4", "wants-h100"])?;
    for (claim, product) in [("t4", "Tesla T4"), ("h100", "NVIDIA H100 80GB HBM3")] {
        let pod = format!("wants-{claim}");
        let node = context.node_with(claim)?.name();
        let placed = pods[&pod]
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref());
        same(&format!("the node of {pod}"), &placed, &Some(node))?;
        let held = context.held(claim)?;
        let products: Vec<_> = held.iter().map(|gpu| gpu.product.as_str()).collect();
        same(
            &format!("the product of claim {claim}"),
            &products,
            &vec![product],
        )?;
        let seen = context.seen(&pod, "main")?;
        same(&format!("the GPUs in {pod}"), &seen, &uuids(&held))?;
    }
    Ok(())
}
