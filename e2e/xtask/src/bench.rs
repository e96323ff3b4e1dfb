//! `cargo xtask bench`: what the driver costs, measured on a real cluster with simulated GPUs.
//!
//! It reports and never fails on a slow machine: whether a figure is good is for whoever reads it beside its budget.

mod against;
mod claims;
mod cpu;
mod domains;
mod exposition;
mod idle;
mod memory;
mod parts;
mod plugin;
mod plugin_log;
mod pods;
mod report;
mod serving;
mod slice;
mod socket;
mod standalone;
mod summary;
mod throughput;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::value_parser;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::images::TesseraImage;
use tessera_cluster::paths::checkout;
use tessera_cluster::progress::{Screen, step};
use tessera_cluster::{Cluster, Options, Profile};
use tessera_scenarios::gpus::{DRIVER, Place, offered};
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope, uid};
use tessera_scenarios::release;

use crate::document;
use crate::failure::told;
use crate::image;
use crate::machine;
use crate::profile::ImageProfile;
use crate::shipped;

/// How many claims are prepared at once, each with a GPU of its own.
const WIDTH: usize = 8;
/// How often the plugin is taken from the node and comes back.
const RESTARTS: usize = 5;
/// How often the plugin's program is started on its own.
const STARTS: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How the product is compiled. Figures of `dev` are printed and not kept.
    #[arg(long, value_enum, default_value_t = ImageProfile::Release)]
    image_profile: ImageProfile,
    /// How long each load is: so many pods one after the other, a sixth of it in rounds of 8 pods,
    /// so many rounds of 8 claims, a fifth of it in rounds of 64 pods for the scheduler.
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = value_parser!(u16).range(1..))]
    rounds: u16,
    /// How many claims are prepared and unprepared one after the other, with a look at the plugin's
    /// memory after half of them and after all.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u16).range(2..))]
    claims: u16,
    /// For how long writes of the idle driver are counted.
    #[arg(long, value_name = "MINUTES", default_value_t = 1, value_parser = value_parser!(u16).range(1..))]
    idle_minutes: u16,
    /// Measure nothing but how this version compares with another, call by call: the archive of that version's image.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Measure nothing but what compute domains cost, on two simulated GB200 nodes of one rack: `--rounds` times two pods
    /// without a domain and with one, and `--claims` claims for a slot.
    #[arg(long, conflicts_with = "against")]
    domains: bool,
    /// Leave the cluster running.
    #[arg(long)]
    keep: bool,
}

/// Everything that was measured.
struct Figures {
    served: Vec<Duration>,
    starts: Vec<slice::Start>,
    idle_minutes: u16,
    writes: idle::Writes,
    idle: memory::Memory,
    loaded: socket::Loaded,
    one_claim: socket::Timings,
    eight_claims: socket::Timings,
    worked: Duration,
    one_pod: pods::Load,
    eight_pods: pods::Load,
    one_part: socket::Timings,
    eight_parts: socket::Timings,
    throughput: throughput::Rates,
    sizes: shipped::Sizes,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let machine = machine::Machine::here();
    let profile = Profile::from(arguments.image_profile);
    // Not where the other commands put theirs: one of them may be using it.
    let archive = checkout().join("target/images/tessera-bench.tar");
    let image = image::build(profile, Some(archive), &Screen)?;
    let options = if arguments.domains {
        domains::options()
    } else {
        Options::default()
    };
    let cluster = Cluster::up(&options, &Screen)?;
    let told = |error: anyhow::Error| error.downcast().map_or_else(|other| other, told);
    if let Some(other) = &arguments.against {
        let comparison = compare(Kubernetes::of(&cluster), &image, other, arguments);
        println!(
            "\n{machine}\n\n{}",
            against::render(&comparison.map_err(told)?)
        );
        return end(cluster, arguments.keep);
    }
    let kubernetes = Kubernetes::of(&cluster);
    let (section_of, rows) = if arguments.domains {
        let figures = domains::measure(kubernetes, &image, arguments).map_err(told)?;
        ("cargo xtask bench --domains", domains::rows(&figures))
    } else {
        let figures = measure(kubernetes, &image, arguments).map_err(told)?;
        ("cargo xtask bench", report::rows(&figures))
    };
    let table = report::render(&rows);
    let command = command(arguments);
    // With what else the machine did meanwhile, the figures can be judged.
    let load = machine::load();
    let section = format!("- `{command}`\n{machine}\n- load average after: {load}\n\n{table}");
    println!("\n{section}");
    if profile == Profile::Release {
        document::update(&checkout().join("docs/benchmarks.md"), section_of, &section)?;
    }
    end(cluster, arguments.keep)
}

fn end(cluster: Cluster, keep: bool) -> anyhow::Result<()> {
    if keep {
        cluster.keep()?;
        println!("the cluster runs; use it with: eval \"$(cargo xtask cluster env)\"");
        return Ok(());
    }
    Ok(cluster.down()?)
}

fn command(arguments: &Arguments) -> String {
    let Arguments {
        rounds,
        claims,
        idle_minutes,
        domains,
        image_profile,
        ..
    } = arguments;
    let quick = match image_profile {
        ImageProfile::Dev => " --image-profile dev",
        ImageProfile::Release => "",
    };
    if *domains {
        return format!("cargo xtask bench --domains --rounds {rounds} --claims {claims}{quick}");
    }
    format!(
        "cargo xtask bench --rounds {rounds} --claims {claims} --idle-minutes {idle_minutes}{quick}"
    )
}

/// The order matters: memory is looked at in a plugin that has just started, then in one that has had its claims.
fn measure(
    kubernetes: Kubernetes<'_>,
    image: &TesseraImage,
    arguments: &Arguments,
) -> anyhow::Result<Figures> {
    let rounds = usize::from(arguments.rounds);
    let cluster = kubernetes.cluster();
    let node = plugin::node(kubernetes)?;
    step(&Screen, "install the driver", || {
        cluster.import_image(&image.archive)?;
        release::install(kubernetes, image)
    })?;
    let programs = tempfile::tempdir().context("make a directory for the programs")?;
    let sizes = shipped::unpack(&image.archive, programs.path())?;
    let served = step(&Screen, "start the plugin's program", || {
        serving::time(programs.path(), node, &cluster.kubeconfig(), STARTS)
    })?;
    let starts = step(&Screen, "restart the plugin on its node", || {
        let starts = (0..RESTARTS).map(|_| slice::restart(kubernetes));
        starts.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let idle_time = Duration::from_mins(u64::from(arguments.idle_minutes));
    let writes = step(&Screen, "wait while nothing happens", || {
        // The start has its own writes, and events about it come late.
        idle::wait(Duration::from_secs(10))?;
        idle::writes(kubernetes, idle_time)
    })?;
    let idle = memory::of(plugin::worker(kubernetes)?)?;
    let socket = measure_socket(kubernetes, rounds, usize::from(arguments.claims))?;
    namespace(kubernetes, PODS)?;
    let one_pod = step(&Screen, "run pods one after the other", || {
        pods::run(kubernetes, PODS, rounds, 1)
    })?;
    let eight_pods = step(&Screen, "run 8 pods at once", || {
        pods::run(kubernetes, PODS, rounds.div_ceil(6), WIDTH)
    })?;
    let whole = parts::of_gpus(&kubernetes.list(Scope::Cluster)?);
    let views = step(&Screen, "offer GPUs in parts", || parts::offer(kubernetes))?;
    let (one_part, eight_parts) = step(&Screen, "prepare claims of MIG devices", || {
        parts::time(kubernetes, rounds)
    })?;
    let what = "have pods scheduled on 8 imagined nodes";
    let throughput = step(&Screen, what, || {
        throughput::measure(kubernetes, &whole, &views, rounds.div_ceil(5))
    })?;
    Ok(Figures {
        served,
        starts,
        idle_minutes: arguments.idle_minutes,
        writes,
        idle,
        loaded: socket.loaded,
        one_claim: socket.one,
        eight_claims: socket.eight,
        worked: socket.worked,
        one_pod,
        eight_pods,
        one_part,
        eight_parts,
        throughput,
        sizes,
    })
}

/// Starts both versions beside the one that is installed, and calls them in turn.
fn compare(
    kubernetes: Kubernetes<'_>,
    image: &TesseraImage,
    other: &Path,
    arguments: &Arguments,
) -> anyhow::Result<against::Comparison> {
    let cluster = kubernetes.cluster();
    step(&Screen, "install the driver", || {
        cluster.import_image(&image.archive)?;
        release::install(kubernetes, image)
    })?;
    let programs = tempfile::tempdir().context("make a directory for the programs")?;
    let (this, that) = (programs.path().join("this"), programs.path().join("other"));
    for (archive, into) in [(image.archive.as_path(), &this), (other, &that)] {
        std::fs::create_dir(into).with_context(|| format!("create {}", into.display()))?;
        shipped::unpack(archive, into)?;
    }
    let gpus = gpus(kubernetes)?;
    namespace(kubernetes, CLAIMS)?;
    let claims = step(&Screen, "make claims", || {
        claims::make(
            kubernetes,
            CLAIMS,
            &claims::Asked::gpu(),
            &gpus,
            arguments.claims.into(),
        )
    })?;
    let node = plugin::node(kubernetes)?;
    step(&Screen, "prepare claims by both versions in turn", || {
        against::compare([&this, &that], node, &cluster.kubeconfig(), &claims, WIDTH)
    })
}

const PODS: &str = "bench-pods";
const CLAIMS: &str = "bench-claims";

struct OnSocket {
    one: socket::Timings,
    eight: socket::Timings,
    loaded: socket::Loaded,
    /// Processor time of the plugin for one Prepare and one Unprepare, in the mean.
    worked: Duration,
}

fn measure_socket(
    kubernetes: Kubernetes<'_>,
    rounds: usize,
    count: usize,
) -> anyhow::Result<OnSocket> {
    let gpus = gpus(kubernetes)?;
    namespace(kubernetes, CLAIMS)?;
    let made = step(&Screen, "make claims", || {
        claims::make(
            kubernetes,
            CLAIMS,
            &claims::Asked::gpu(),
            &gpus,
            count.max(rounds * WIDTH),
        )
    })?;
    let (_, pod) = plugin::pod(kubernetes)?;
    let socket = socket::Socket::open(plugin::node(kubernetes)?, DRIVER, &uid(&pod))?;
    let what = "prepare claims one after the other";
    let pid = plugin::worker(kubernetes)?;
    let before = cpu::of(pid)?;
    let (one, loaded) = step(&Screen, what, || {
        let resident = || memory::of(plugin::worker(kubernetes)?);
        socket.load(&made[..count], resident)
    })?;
    let worked = cpu::of(pid)?.saturating_sub(before) / u32::try_from(count)?;
    let eight = step(&Screen, "prepare 8 claims at once", || {
        socket.time(&made[..rounds * WIDTH], WIDTH)
    })?;
    // What is allocated is taken, so the scheduler would find no GPU for a pod.
    claims::delete(kubernetes, CLAIMS)?;
    Ok(OnSocket {
        one,
        eight,
        loaded,
        worked,
    })
}

fn gpus(kubernetes: Kubernetes<'_>) -> anyhow::Result<Vec<Place>> {
    let slices: Objects<ResourceSlice> = kubernetes.list(Scope::Cluster)?;
    let gpus: Vec<_> = offered(&slices).into_iter().map(|gpu| gpu.place).collect();
    ensure!(
        gpus.len() >= WIDTH,
        "find {WIDTH} GPUs for as many claims at once: the slices offer {}",
        gpus.len()
    );
    Ok(gpus)
}

/// Makes a namespace that takes pods.
fn namespace(kubernetes: Kubernetes<'_>, name: &str) -> anyhow::Result<()> {
    let object = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
    kubernetes.apply("default", &object)?;
    let what = "the service account of the namespace";
    let limit = Duration::from_secs(30);
    kubernetes.wait(
        Scope::Namespace(name),
        what,
        limit,
        |accounts: &Objects<ServiceAccount>| accounts.contains_key("default").then_some(()),
    )?;
    Ok(())
}
