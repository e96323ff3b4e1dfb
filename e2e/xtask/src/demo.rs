//! `cargo xtask demo`: from nothing to a pod that sees its GPU, on the screen, and back to nothing.

mod view;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use tessera_cluster::paths::checkout;
use tessera_cluster::progress::{Screen, step};
use tessera_cluster::{Cluster, Drivers, Options};
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope, runs};
use tessera_scenarios::{Failure, release};

use crate::failure::told;
use crate::image;
use crate::profile::ImageProfile;

/// What is applied, as users find it in the documentation.
const EXAMPLE: &str = "docs/examples/one-gpu.yaml";
/// The pod in it.
const POD: &str = "one-gpu";
/// The pod's container.
const CONTAINER: &str = "main";
/// Where it is applied.
const NAMESPACE: &str = "default";

const START_LIMIT: Duration = Duration::from_mins(1);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything running, to go on with kubectl.
    #[arg(long)]
    keep: bool,
    /// The simulated hardware: a100-40g, gb200, h100, h200 or t4.
    #[arg(long, value_name = "NAME", default_value = "h100")]
    profile: String,
    /// How the product is compiled: quick to build, or as shipped.
    #[arg(long, value_enum, default_value_t = ImageProfile::Dev)]
    image_profile: ImageProfile,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Before minutes are spent on building.
    Cluster::refuse_kept()?;
    let began = Instant::now();
    let image = image::build(arguments.image_profile.into(), None, &Screen)?;
    let options = Options {
        nodes: 1,
        drivers: Drivers::Profiles(vec![arguments.profile.clone()]),
        ..Options::default()
    };
    let cluster = Cluster::up(&options, &Screen)?;
    step(&Screen, "give the node the product's image", || {
        cluster.import_image(&image.archive)
    })?;
    let kubernetes = Kubernetes::of(&cluster);
    step(&Screen, "install the chart with Helm", || {
        release::install(kubernetes, &image)
    })
    .map_err(told)?;
    show(kubernetes)?;
    if arguments.keep {
        cluster.keep()?;
        print!("{HOW_TO_GO_ON}");
    } else {
        step(&Screen, "take everything down", || cluster.down())?;
    }
    println!("done in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

const HOW_TO_GO_ON: &str = r#"The cluster is left running. In a shell:

  eval "$(cargo xtask cluster env)"      # kubectl and helm for this cluster
  kubectl get resourceslices
  kubectl get resourceclaims,pods
  kubectl exec one-gpu -- nvidia-smi
  kubectl -n tessera logs daemonset/tessera-kubelet-plugin
  cargo xtask cluster logs               # every part of the cluster has a log

  cargo xtask cluster down               # ends it and leaves nothing

"#;

/// Runs the example and shows what came of it.
fn show(kubernetes: Kubernetes<'_>) -> anyhow::Result<()> {
    let path = checkout().join(EXAMPLE);
    let yaml =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    println!("\nThis is what a user applies ({EXAMPLE}):\n");
    println!("{}", view::indented(&yaml));
    let what = format!("kubectl apply --filename {EXAMPLE}, and wait for the pod");
    step(&Screen, &what, || {
        kubernetes.apply(NAMESPACE, &yaml)?;
        kubernetes.wait(
            Scope::Namespace(NAMESPACE),
            "the pod to run",
            START_LIMIT,
            |pods: &Objects<Pod>| pods.get(POD).filter(|pod| runs(pod)).map(drop),
        )
    })
    .map_err(told)?;
    print!("{}", outcome(kubernetes).map_err(told)?);
    Ok(())
}

fn outcome(kubernetes: Kubernetes<'_>) -> Result<String, Failure> {
    let any = |lines: &[String]| !lines.is_empty();
    let what = "a GPU";
    let log = kubernetes.lines(NAMESPACE, (POD, CONTAINER), what, START_LIMIT, any)?;
    let slices: Objects<ResourceSlice> = kubernetes.list(Scope::Cluster)?;
    let claims: Objects<ResourceClaim> = kubernetes.list(Scope::Namespace(NAMESPACE))?;
    Ok(format!(
        "\nThe pod's log, which is its `nvidia-smi -L`:\n\n{}\n\
         The ResourceSlice of the node, from which the scheduler chose:\n\n{}\n\
         The ResourceClaim of the pod:\n\n{}\n",
        view::indented(&log.join("\n")),
        view::indented(&view::devices(&slices, &claims)),
        view::indented(&view::claims(&claims)),
    ))
}
