//! Claims of MIG devices that are made when they are prepared: what that costs the plugin beside what the driver takes.
//!
//! The simulated driver takes no time of its own for a mode or an instance; a real one takes up to seconds.

use std::time::Duration;

use anyhow::ensure;
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_scenarios::gpus::{DRIVER, Place, offered};
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope, uid};
use tessera_scenarios::release;

use super::{WIDTH, claims, namespace, plugin, socket};

const NAMESPACE: &str = "bench-parts";

/// What ends the name of one MIG device of each GPU: one of seven, at the end of the GPU.
const SMALL: &str = "-mig-1g10gb-19-6";

/// Until the slices say it.
const LIMIT: Duration = Duration::from_mins(1);

/// Has GPUs offered as all that they can be, and returns the slices that do so.
pub(super) fn offer(kubernetes: Kubernetes<'_>) -> anyhow::Result<Vec<ResourceSlice>> {
    release::change(kubernetes, &["featureGates.DynamicMIG=true".to_owned()])?;
    let what = "every GPU to be offered in parts";
    let slices = kubernetes.wait(
        Scope::Cluster,
        what,
        LIMIT,
        |slices: &Objects<ResourceSlice>| (places(slices).len() == WIDTH).then(|| of_gpus(slices)),
    )?;
    Ok(slices)
}

/// The slices of GPUs.
pub(super) fn of_gpus(slices: &Objects<ResourceSlice>) -> Vec<ResourceSlice> {
    let ours = slices.values().filter(|slice| slice.spec.driver == DRIVER);
    ours.cloned().collect()
}

/// Times claims of a MIG device each, one after the other and eight at once on as many GPUs.
pub(super) fn time(
    kubernetes: Kubernetes<'_>,
    rounds: usize,
) -> anyhow::Result<(socket::Timings, socket::Timings)> {
    let slices: Objects<ResourceSlice> = kubernetes.list(Scope::Cluster)?;
    let places = places(&slices);
    ensure!(
        places.len() == WIDTH,
        "find {WIDTH} GPUs in parts: {places:?}"
    );
    namespace(kubernetes, NAMESPACE)?;
    let made = claims::make(
        kubernetes,
        NAMESPACE,
        &claims::Asked::gpu(),
        &places,
        rounds * WIDTH,
    )?;
    let (_, pod) = plugin::pod(kubernetes)?;
    let socket = socket::Socket::open(plugin::node(kubernetes)?, DRIVER, &uid(&pod))?;
    // Each GPU is put into MIG mode by its first claim, which is not what is measured.
    socket.time(&made[..WIDTH], WIDTH)?;
    let one = socket.time(&made, 1)?;
    let eight = socket.time(&made, WIDTH)?;
    claims::delete(kubernetes, NAMESPACE)?;
    Ok((one, eight))
}

fn places(slices: &Objects<ResourceSlice>) -> Vec<Place> {
    let places = offered(slices).into_iter().map(|offer| offer.place);
    places
        .filter(|place| place.device.ends_with(SMALL))
        .collect()
}
