//! `cargo xtask simulate`: what the placement of gangs is worth, on simulated clusters.
//!
//! Only the planner is the product's; everything else is a model, which docs/placement.md describes.

mod sections;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::value_parser;
use tessera_cluster::paths::checkout;
use tessera_cluster::progress::{Screen, step};

use crate::document;
use crate::machine::{self, Machine};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Nodes of the cluster. May be repeated.
    #[arg(long, value_name = "N", default_values_t = [1_008, 10_008, 100_008], value_parser = value_parser!(u32).range(100..=200_000))]
    nodes: Vec<u32>,
    /// Nodes of a clique.
    #[arg(long, value_name = "N", default_value_t = 18, value_parser = value_parser!(u32).range(1..=1_000))]
    clique: u32,
    /// Gangs that arrive in each run.
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = value_parser!(u64).range(1_000..=10_000_000))]
    arrivals: u64,
    /// Where chance begins: the same seed shows the same.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Events of the run with faults.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(u64).range(1_000..=100_000_000))]
    events: u64,
    /// Write figures and plots to docs/placement.md, beside printing them.
    #[arg(long)]
    record: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let machine = Machine::here();
    let loss = step(&Screen, "gangs that are placed at once or leave", || {
        Ok::<_, anyhow::Error>(sections::loss(arguments))
    })?;
    let waiting = step(&Screen, "gangs that wait", || {
        Ok::<_, anyhow::Error>(sections::waiting(arguments))
    })?;
    let small = step(&Screen, "small cases, where everything is tried", || {
        Ok::<_, anyhow::Error>(sections::small(arguments.seed))
    })?;
    let faults = step(&Screen, "the control plane under faults", || {
        sections::faults(arguments)
    })?;
    let load = machine::load();
    let text = format!(
        "- `{}`\n{machine}\n- load average after: {load}\n\n{}\n{}\n{small}\n{faults}",
        command(arguments),
        loss.text,
        waiting.text
    );
    println!("\n{text}");
    let folder = if arguments.record {
        checkout().join("docs/placement")
    } else {
        checkout().join("target/simulate")
    };
    write(&folder, loss.plots.iter().chain(&waiting.plots))?;
    if arguments.record {
        document::update(
            &checkout().join("docs/placement.md"),
            "cargo xtask simulate --record",
            &text,
        )?;
    }
    println!("plots are in {}", folder.display());
    Ok(())
}

fn write<'a>(
    folder: &PathBuf,
    plots: impl Iterator<Item = &'a (String, String)>,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for (name, svg) in plots {
        let path = folder.join(name);
        fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn command(arguments: &Arguments) -> String {
    let Arguments {
        clique,
        arrivals,
        seed,
        events,
        ..
    } = arguments;
    let nodes = arguments
        .nodes
        .iter()
        .map(|nodes| format!(" --nodes {nodes}"));
    let nodes: String = nodes.collect();
    format!(
        "cargo xtask simulate{nodes} --clique {clique} --arrivals {arrivals} --seed {seed} --events {events}"
    )
}
