//! `cargo xtask cluster`: a Kubernetes on this machine, up, down and looked at.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use tessera_cluster::progress::Screen;
use tessera_cluster::{Cluster, Drivers, Gates, Options, Release, logs};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring a cluster up and leave it running.
    Up(Up),
    /// Take the cluster down, whatever state it is in.
    Down,
    /// Print what a shell needs to use it: eval "$(cargo xtask cluster env)".
    Env,
    /// Give every node the image in an archive.
    LoadImage {
        /// An OCI archive.
        archive: PathBuf,
    },
    /// Print the log of a part, or list the parts. Logs of the last cluster stay until the next one.
    Logs {
        /// For example kube-apiserver or node0-kubelet.
        part: Option<String>,
    },
    /// Show how every part is.
    Status,
}

/// What kind of cluster.
#[derive(clap::Args)]
pub(crate) struct Up {
    /// How many nodes.
    #[arg(long, default_value_t = 1)]
    nodes: u8,
    /// Simulated hardware of the nodes, one profile per node; the last one repeats.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME",
        default_value = "h100"
    )]
    profile: Vec<String>,
    /// Which Kubernetes: 1.33, 1.34 or 1.36. Another than the last is built when it is first wanted.
    #[arg(long, default_value_t = Release::default())]
    kubernetes: Release,
    /// Another release of the last node's kubelet: nodes are upgraded after the control plane.
    #[arg(long, value_name = "RELEASE")]
    last_kubelet: Option<Release>,
    /// Kubernetes feature gates for every component: Name=true,Other=false.
    #[arg(long, default_value = "")]
    gates: Gates,
    /// Into how many racks the nodes are divided, in order: nodes of one rack share an NVLink fabric,
    /// where their profile has one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    racks: u8,
    /// Nodes without any GPU driver.
    #[arg(long, conflicts_with = "profile")]
    no_driver: bool,
}

impl Up {
    fn options(&self) -> Options {
        let drivers = if self.no_driver {
            Drivers::None
        } else {
            Drivers::Profiles(self.profile.clone())
        };
        Options {
            nodes: self.nodes,
            drivers,
            kubernetes: self.kubernetes,
            last_kubelet: self.last_kubelet,
            gates: self.gates.clone(),
            racks: self.racks,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.verb {
        Verb::Up(up) => bring_up(&up.options()),
        Verb::Down => Ok(tessera_cluster::down()?),
        Verb::Env => print_environment(),
        Verb::LoadImage { archive } => Ok(Cluster::attach()?.import_image(archive)?),
        Verb::Logs { part } => print_logs(part.as_deref()),
        Verb::Status => print_status(),
    }
}

fn bring_up(options: &Options) -> anyhow::Result<()> {
    let began = Instant::now();
    let cluster = Cluster::up(options, &Screen)?;
    for node in cluster.nodes() {
        println!(
            "{} at {}: {}",
            node.name(),
            node.address(),
            node.profile().unwrap_or("no driver")
        );
    }
    cluster.keep()?;
    println!(
        "up in {:.1} s; use it with: eval \"$(cargo xtask cluster env)\"",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn print_environment() -> anyhow::Result<()> {
    let cluster = Cluster::attach()?;
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("export PATH={}:$PATH", cluster.bin_dir().display());
    Ok(())
}

fn print_logs(part: Option<&str>) -> anyhow::Result<()> {
    let names = logs::names();
    let Some(part) = part else {
        for name in names {
            println!("{name}");
        }
        return Ok(());
    };
    if !names.iter().any(|name| name == part) {
        bail!("no log of {part}; there are: {}", names.join(", "));
    }
    let log = logs::path(part);
    let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    print!("{}", String::from_utf8_lossy(&text));
    Ok(())
}

fn print_status() -> anyhow::Result<()> {
    let cluster = Cluster::attach()?;
    print!("{}", cluster.report());
    let status = cluster
        .kubectl()
        .args(["get", "nodes", "--output=wide"])
        .status()
        .context("run kubectl")?;
    if !status.success() {
        bail!("the API server does not answer; see `cargo xtask cluster logs kube-apiserver`");
    }
    Ok(())
}
