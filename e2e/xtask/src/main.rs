//! The project's commands: `cargo xtask cluster`, `cargo xtask image`, …

mod bench;
mod cluster;
mod demo;
mod document;
mod failure;
mod image;
mod machine;
mod profile;
mod shipped;
mod simulate;
mod table;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tessera_cluster::{ClusterError, interrupt};

/// Commands of the Tessera project.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_version_flag = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A real Kubernetes on this machine, with simulated GPU nodes.
    Cluster(cluster::Arguments),
    /// Build the product's image as an archive, without Docker.
    Image(image::Arguments),
    /// See it work: a cluster, the product, and a pod that sees its GPU. Minutes, and nothing is left.
    Demo(demo::Arguments),
    /// Test everything: format, lints, unit tests, manifests, crashes, scenarios on a cluster.
    Test(test::Arguments),
    /// Measure what the driver costs, on a real cluster with simulated GPUs.
    Bench(bench::Arguments),
    /// See what the placement of gangs is worth, on simulated clusters of any size.
    Simulate(simulate::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match interrupt::catch()
        .map_err(anyhow::Error::from)
        .and_then(|()| run(&arguments.command))
    {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            let interrupted = matches!(error.downcast_ref(), Some(ClusterError::Interrupted));
            if interrupted {
                ExitCode::from(interrupt::EXIT_STATUS)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Cluster(arguments) => cluster::run(arguments)?,
        Command::Image(arguments) => image::run(arguments)?,
        Command::Demo(arguments) => demo::run(arguments)?,
        Command::Bench(arguments) => bench::run(arguments)?,
        Command::Simulate(arguments) => simulate::run(arguments)?,
        Command::Test(arguments) => return test::run(arguments),
    }
    Ok(ExitCode::SUCCESS)
}
