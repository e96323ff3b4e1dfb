//! Older versions of the resource API, on an API server that has them beside the newest.

use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::Node;

use super::manifests::one_gpu;
use super::setting;
use crate::context::{Context, START_LIMIT, claim_of, uuids};
use crate::failure::{Failure, same};
use crate::kubernetes::{Objects, Scope};

/// The variable by which the plugin is told which version to speak.
const VERSION: &str = "RESOURCE_API_VERSION";

pub(crate) fn pods_get_their_gpus_whichever_version_of_the_resource_api_the_plugin_speaks(
    context: &Context<'_>,
) -> Result<(), Failure> {
    for version in ["v1beta1", "v1beta2"] {
        setting::with(context, VERSION, version, || {
            written_anew(context, version)?;
            let pod = format!("pod-{version}");
            context.apply(&one_gpu(&pod))?;
            let pods = context.running(&[&pod])?;
            let held = uuids(&context.held(&claim_of(&pods[&pod], "gpu")?)?);
            same(
                &format!("the GPU in a pod under {version}"),
                &context.seen(&pod, "main")?,
                &held,
            )?;
            context.delete_pods(&[&pod])?;
            context.nothing_left()
        })?;
    }
    Ok(())
}

/// Deletes all slices, and returns when every node has offered its GPUs again in this version.
fn written_anew(context: &Context<'_>, version: &str) -> Result<(), Failure> {
    let kubernetes = context.kubernetes();
    kubernetes.delete("default", &["resourceslices", "--all"])?;
    let version = format!("resource.k8s.io/{version}");
    let what = format!("a slice of every node, written as {version}");
    // Where the server has no v1, the version that it has is read as v1, also where it is named.
    let version = kubernetes.version().read(&version);
    let limit = START_LIMIT;
    kubernetes.wait(
        Scope::Cluster,
        &what,
        limit,
        |slices: &Objects<ResourceSlice>| {
            let of = |node: &Node| {
                let mut slices = slices.values();
                slices.any(|slice| {
                    slice.spec.node_name.as_deref() == Some(node.name())
                        && slice
                            .spec
                            .devices
                            .as_ref()
                            .is_some_and(|devices| !devices.is_empty())
                        && is_written_as(slice, &version)
                })
            };
            context.nodes().iter().all(of).then_some(())
        },
    )
}

/// Whether whoever wrote the object did so in this version.
fn is_written_as(slice: &ResourceSlice, version: &str) -> bool {
    let mut writers = slice.metadata.managed_fields.iter().flatten();
    writers.any(|writer| writer.api_version.as_deref() == Some(version))
}
