//! The product goes without a trace.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};

use super::manifests::one_gpu;
use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, nothing};
use crate::gpus::DRIVER;
use crate::kubernetes::{Objects, Scope};
use crate::leftovers::everything;
use crate::release::{self, RELEASE};

/// The kubelet deletes the slices of a driver 30 seconds after its last connection has closed.
const SLICES_LIMIT: Duration = Duration::from_mins(1);

pub(crate) fn helm_uninstall_leaves_no_slice_class_file_or_socket(
    context: &Context<'_>,
) -> Result<(), Failure> {
    // With something to clean up: the driver has worked.
    context.apply(&one_gpu("pod"))?;
    context.running(&["pod"])?;
    context.delete_pods(&["pod"])?;

    let kubernetes = context.kubernetes();
    release::uninstall(kubernetes)?;
    // Helm has deleted the DaemonSet; its pods end a moment later.
    let ours = Scope::Namespace(RELEASE);
    let what = "the product's pods to be gone";
    kubernetes.wait(ours, what, START_LIMIT, |pods: &Objects<Pod>| {
        pods.is_empty().then_some(())
    })?;
    for node in context.nodes() {
        nothing(&format!("left on {}", node.name()), &everything(node)?)?;
    }
    let classes: Objects<DeviceClass> = kubernetes.list(Scope::Cluster)?;
    let ours = classes
        .keys()
        .filter(|class| class.ends_with(".nvidia.com"));
    nothing("device classes are left", &ours.collect::<Vec<_>>())?;
    let what = "no slice to be left";
    kubernetes.wait(
        Scope::Cluster,
        what,
        SLICES_LIMIT,
        |slices: &Objects<ResourceSlice>| {
            let ours = slices.values().filter(|slice| slice.spec.driver == DRIVER);
            (ours.count() == 0).then_some(())
        },
    )
}
