//! Channels of compute domains: a pod gets that of its own domain and no other.
//!
//! The slots are written by hand here, as the controller would write them, and no domain is behind them.

use tessera_cluster::Node;

use crate::context::Context;
use crate::failure::{Failure, nothing, same};
use crate::leftovers;

/// The UIDs of two domains that nobody made.
const DOMAIN: &str = "5f0ad2f0-6a3a-4d2c-9f0e-1c8f6f0d0001";
const OTHER: &str = "5f0ad2f0-6a3a-4d2c-9f0e-1c8f6f0d0002";

/// The major number of the simulated driver's channels, as `stat` writes it: 234.
const MAJOR: &str = "ea";

/// A class of whatever the driver has.
const CLASS: &str = "
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata:
  name: slots-by-hand
spec:
  selectors:
  - cel:
      expression: device.driver == 'compute-domain.nvidia.com'
";

/// Slots of a domain of this namespace on this node.
fn slots(domain: &str, namespace: &str, channel: u32, node: &Node) -> String {
    let node = node.name();
    let slot = |number: u32| {
        format!(
            "
  - name: slot-{number}
    attributes:
      type: {{string: channel}}
      id: {{int: 0}}
      domain: {{string: {domain}}}
      namespace: {{string: {namespace}}}
      channel: {{int: {channel}}}"
        )
    };
    format!(
        "
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata:
  name: domain-{domain}-0
spec:
  driver: compute-domain.nvidia.com
  pool: {{name: domain-{domain}, generation: 1, resourceSliceCount: 1}}
  nodeSelector:
    nodeSelectorTerms:
    - matchExpressions:
      - {{key: kubernetes.io/hostname, operator: In, values: [{node}]}}
  devices:{}{}
---
",
        slot(0),
        slot(1)
    )
}

/// A pod with a claim for a slot of `of`, whose configuration names `named`.
fn pod(name: &str, of: &str, named: &str) -> String {
    format!(
        "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata:
  name: {name}
spec:
  devices:
    requests:
    - name: channel
      exactly:
        deviceClassName: slots-by-hand
        selectors:
        - cel:
            expression: >-
              'domain' in device.attributes['compute-domain.nvidia.com'] &&
              device.attributes['compute-domain.nvidia.com'].domain == '{of}'
    config:
    - requests: [channel]
      opaque:
        driver: compute-domain.nvidia.com
        parameters:
          apiVersion: resource.nvidia.com/v1beta1
          kind: ComputeDomainChannelConfig
          domainID: {named}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  resourceClaims:
  - name: channel
    resourceClaimName: {name}
  containers:
  - name: main
    image: docker.io/tessera/workload:1
    command: [sh, -c, 'stat -c \"%n %t %T %a\" /dev/nvidia-caps-imex-channels/*; echo listed; exec sleep 3600']
    resources:
      claims:
      - name: channel
  terminationGracePeriodSeconds: 1
---
"
    )
}

fn channel(number: u32) -> Vec<String> {
    let path = format!("/dev/nvidia-caps-imex-channels/channel{number}");
    vec![format!("{path} {MAJOR} {number:x} 666")]
}

pub(crate) fn a_pod_gets_the_channel_of_its_domain_and_no_other(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let outcome = gets_its_channel(context);
    clean_up(context)?;
    outcome
}

/// Removes what belongs to no namespace and must not stay for the scenarios that follow.
fn clean_up(context: &Context<'_>) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    for domain in [DOMAIN, OTHER] {
        let slice = format!("domain-{domain}-0");
        kubernetes.delete("default", &["resourceslice", &slice])?;
    }
    kubernetes.delete("default", &["deviceclass", "slots-by-hand"])
}

fn gets_its_channel(context: &Context<'_>) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    let namespace = context.namespace();
    context.apply(CLASS)?;
    context.apply(&slots(DOMAIN, namespace, 5, node))?;
    context.apply(&slots(OTHER, namespace, 6, node))?;
    context.apply(&(pod("one", DOMAIN, DOMAIN) + &pod("two", DOMAIN, DOMAIN)))?;
    context.apply(&pod("other", OTHER, OTHER))?;
    context.running(&["one", "two", "other"])?;
    for (pod, number) in [("one", 5), ("two", 5), ("other", 6)] {
        let seen = context.written(pod, "main")?;
        same(&format!("the channels in {pod}"), &seen, &channel(number))?;
    }
    context.delete_pods(&["one", "two", "other"])?;
    nothing(
        "CDI files of channels are left",
        &leftovers::channels(node)?,
    )
}

pub(crate) fn a_claim_that_names_another_domain_than_its_slot_is_refused(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let outcome = refuses(context);
    clean_up(context)?;
    outcome
}

fn refuses(context: &Context<'_>) -> Result<(), Failure> {
    let node = context.node_with("h100")?;
    context.apply(CLASS)?;
    context.apply(&slots(DOMAIN, context.namespace(), 5, node))?;
    context.apply(&slots(OTHER, "somewhere-else", 6, node))?;
    context.apply(&pod("forged", DOMAIN, OTHER))?;
    context.apply(&pod("foreign", OTHER, OTHER))?;
    for name in ["forged", "foreign"] {
        let what = format!("an event that refuses {name}");
        context.event(context.scope(), &what, |event| {
            let about = event.involved_object.name.as_deref() == Some(name);
            about && event.reason.as_deref() == Some("DomainMismatch")
        })?;
    }
    nothing(
        "CDI files of channels are there",
        &leftovers::channels(node)?,
    )
}
