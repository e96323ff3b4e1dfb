//! What the plugin of a node may do at the API server: whoever takes over one node harms no other.
//!
//! The tokens are real ones, bound to the plugin's pod and so to its node; the attempts are real writes.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceSlice;
use serde_json::{Value, json};
use tessera_cluster::Node;

use super::manifests::one_gpu;
use crate::account::{Account, ServiceAccount};
use crate::context::{Context, claim_of};
use crate::failure::{Failure, same};
use crate::gpus::DRIVER;
use crate::kubernetes::{Kubernetes, Objects, Scope};
use crate::plugin_pod::Plugin;
use crate::release::RELEASE;

/// The name of every slice that is tried.
const TRIED: &str = "tried-by-a-plugin";

/// What the API server says where an account lacks a right.
const FORBIDDEN: &[&str] = &["is forbidden", "cannot"];

const CREATE: &[&str] = &["create", "--validate=false", "--filename=-"];

pub(crate) fn a_plugin_writes_slices_of_its_own_node_and_driver_only(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let outcome = tries(context);
    // Whatever was let through must not stay for the scenarios that follow.
    kubernetes.delete("default", &["resourceslice", TRIED])?;
    outcome
}

fn tries(context: &Context<'_>) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let (own, other) = (context.node_with("h100")?, context.node_with("t4")?);
    let plugin = account_of(kubernetes, own)?;
    let [here, there] = [own.name(), other.name()];

    let good = slice(DRIVER, "apart", &json!({"nodeName": here}));
    let dry = ["create", "--dry-run=server", "--filename=-"];
    plugin.kubectl(&dry, Some(&good))?;

    let not_here = format!("a kubelet plugin on node '{here}' may not write slices of");
    let theirs = format!("{not_here} '{there}'");
    let nobodys = format!("{not_here} 'other than one node'");
    let selector = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [here]}]}]});
    let places = [
        (json!({"nodeName": there}), &theirs),
        (json!({"allNodes": true}), &nobodys),
        (json!({"nodeSelector": selector}), &nobodys),
    ];
    for (place, reason) in places {
        let bad = slice(DRIVER, "apart", &place);
        plugin.refused(CREATE, Some(&bad), &[reason])?;
    }
    let foreign = slice("nic.example.com", "apart", &json!({"nodeName": here}));
    let reason = "may not write slices of driver 'nic.example.com'";
    plugin.refused(CREATE, Some(&foreign), &[reason])?;

    let (name, mut present) = present(kubernetes, other)?;
    plugin.refused(&["delete", "resourceslice", &name], None, &[&theirs])?;
    present["spec"]["devices"] = json!([]);
    let replace = ["replace", "--filename=-"];
    plugin.refused(&replace, Some(&present.to_string()), &[&theirs])?;

    let pod = Plugin::on(kubernetes, own).pod()?;
    let unbound = Account::nowhere(kubernetes, account_in(&pod)?)?;
    unbound.refused(CREATE, Some(&good), &["the token names no node"])
}

pub(crate) fn a_plugin_reads_and_changes_nothing_that_is_not_its_own(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    let own = context.node_with("h100")?;
    let plugin = account_of(kubernetes, own)?;
    let Scope::Namespace(ours) = context.scope() else {
        return Err(Failure::wrong("the scenario has no namespace"));
    };
    context.apply(&one_gpu("pod"))?;
    let pods = context.running(&["pod"])?;
    let claim = claim_of(&pods["pod"], "gpu")?;
    // That it may read a claim which the kubelet names is what makes the rest mean something.
    plugin.kubectl(&["get", "resourceclaim", &claim, "--namespace", ours], None)?;
    let others = "secrets pods configmaps serviceaccounts resourceclaims nodes events";
    for kind in others.split(' ') {
        plugin.refused(&["get", kind, "--all-namespaces"], None, FORBIDDEN)?;
    }
    changes_nothing(&plugin, own, (ours, &claim))?;

    let account = ServiceAccount {
        namespace: ours,
        name: "default",
    };
    let stranger = Account::in_pod(kubernetes, account, "pod")?;
    let own_slice = slice(DRIVER, "apart", &json!({"nodeName": own.name()}));
    stranger.refused(CREATE, Some(&own_slice), FORBIDDEN)?;
    let (name, _) = present(kubernetes, own)?;
    stranger.refused(&["delete", "resourceslice", &name], None, FORBIDDEN)
}

fn changes_nothing(
    plugin: &Account<'_>,
    node: &Node,
    (namespace, claim): (&str, &str),
) -> Result<(), Failure> {
    let within = format!("--namespace={namespace}");
    let annotation = r#"--patch={"metadata":{"annotations":{"tried":"yes"}}}"#;
    let merge = "--type=merge";
    let attempts: [&[&str]; 5] = [
        &["delete", "pod", "pod", &within],
        &["delete", "resourceclaim", claim, &within],
        &["patch", "resourceclaim", claim, &within, merge, annotation],
        &["patch", "node", node.name(), merge, annotation],
        &["create", "token", "default", &within],
    ];
    for attempt in attempts {
        plugin.refused(attempt, None, FORBIDDEN)?;
    }
    // kubectl reads a status before it patches it, which would be refused in place of the write.
    let version = plugin.resource_api();
    let status = format!(
        "/apis/resource.k8s.io/{version}/namespaces/{namespace}/resourceclaims/{claim}/status"
    );
    let replace = ["replace", "--raw", &status, "--filename=-"];
    plugin.refused(&replace, Some("{}"), FORBIDDEN)?;
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: tried}, \
               spec: {containers: [{name: a, image: docker.io/tessera/workload:1}]}}";
    plugin.refused(&["create", &within, "--filename=-"], Some(pod), FORBIDDEN)
}

fn account_in(pod: &Pod) -> Result<ServiceAccount<'_>, Failure> {
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|spec| spec.service_account_name.as_deref());
    let name = name.ok_or_else(|| Failure::wrong("the plugin's pod has no service account"))?;
    Ok(ServiceAccount {
        namespace: RELEASE,
        name,
    })
}

/// The plugin of this node, at the API server.
pub(super) fn account_of<'a>(
    kubernetes: Kubernetes<'a>,
    node: &Node,
) -> Result<Account<'a>, Failure> {
    let pod = Plugin::on(kubernetes, node).pod()?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    Account::in_pod(kubernetes, account_in(&pod)?, &name)
}

/// A slice [`TRIED`] of one GPU, in a pool of its own so that no plugin takes it for one of its slices.
fn slice(driver: &str, pool: &str, place: &Value) -> String {
    let mut slice = json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": TRIED},
        "spec": {
            "driver": driver,
            "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0"}],
        },
    });
    for (field, value) in place.as_object().into_iter().flatten() {
        slice["spec"][field] = value.clone();
    }
    slice.to_string()
}

/// A slice of the driver that this node has.
fn present(kubernetes: Kubernetes<'_>, node: &Node) -> Result<(String, Value), Failure> {
    let slices: Objects<ResourceSlice> = kubernetes.list(Scope::Cluster)?;
    let is_it = |slice: &&ResourceSlice| {
        slice.spec.driver == DRIVER && slice.spec.node_name.as_deref() == Some(node.name())
    };
    let found = slices.values().find(is_it);
    let slice = found.ok_or_else(|| Failure::wrong(format!("{} has no slice", node.name())))?;
    let name = slice.metadata.name.clone().unwrap_or_default();
    let read = |reason| Failure::Unreadable {
        line: format!("slice {name}"),
        reason,
    };
    let value = serde_json::to_value(slice).map_err(read)?;
    same(
        "the kind of a slice",
        &value["kind"],
        &json!("ResourceSlice"),
    )?;
    Ok((name, value))
}
