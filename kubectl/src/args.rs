//! The command line.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use tessera_domain::{Levels, LevelsError, Rules};

/// Shows where compute domains go, and why not. Nothing is changed.
///
/// The cluster is read by way of kubectl, with the rights of whoever asks: to list compute domains, policies,
/// cliques, nodes, pods, claims and slices of all namespaces.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kubectl-tessera",
    bin_name = "kubectl tessera",
    version,
    max_term_width = 100
)]
pub struct Args {
    /// What to show.
    #[command(subcommand)]
    pub command: Command,
}

/// What to show.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Where a domain would go now, and what else would fit.
    Plan {
        /// The domain, if it is in the cluster.
        #[arg(required_unless_present = "filename", conflicts_with = "filename")]
        name: Option<String>,

        /// A file with a ComputeDomain that is not in the cluster, and with its policy, pods and workloads if they are
        /// to be looked at; - for standard input.
        #[arg(short, long)]
        filename: Option<PathBuf>,

        /// How to ask.
        #[command(flatten)]
        asking: Asking,
    },
    /// Why a domain of the cluster stands as it does: its condition, its nodes, and who holds which clique.
    Explain {
        /// The domain.
        name: String,

        /// How to ask.
        #[command(flatten)]
        asking: Asking,
    },
}

/// How to ask.
#[derive(Clone, Debug, Group)]
pub struct Asking {
    /// Namespace of the domain; without it, that of the context.
    #[arg(short, long)]
    pub namespace: Option<String>,

    /// How the answer is written.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,

    /// GPUs that pods use on each node, where no pod is there to tell; without it, all of the largest node.
    #[arg(long)]
    pub gpus: Option<u32>,

    /// Whose node labels tell where in the network nodes are: as the chart's resources.computeDomains.topology.preset.
    #[arg(long, default_value = "zones")]
    pub topology_preset: String,

    /// Node labels in place of those of the preset, from broad to narrow, with commas between them.
    #[arg(long, value_delimiter = ',')]
    pub topology_levels: Vec<String>,

    /// Whether domains of lower priority are ended for others: as the chart's
    /// resources.computeDomains.preemption.enabled.
    #[arg(long)]
    pub preemption: bool,

    /// The kubeconfig file, as kubectl has it.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig, as kubectl has it.
    #[arg(long)]
    pub context: Option<String>,

    /// The kubectl by which the cluster is read.
    #[arg(long, default_value = "kubectl")]
    pub kubectl: PathBuf,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Command {
    /// How to ask.
    pub fn asking(&self) -> &Asking {
        match self {
            Self::Plan { asking, .. } | Self::Explain { asking, .. } => asking,
        }
    }
}

impl Asking {
    /// What the cluster's administrator says, as whoever asks has it. Whose sessions are is known of the cluster.
    pub fn rules(&self) -> Result<Rules, LevelsError> {
        Ok(Rules {
            levels: Levels::chosen(&self.topology_preset, &self.topology_levels)?,
            preemption: self.preemption,
            ..Rules::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_plan_is_of_a_domain_or_of_a_file() {
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        for (line, taken) in [
            ("kubectl-tessera plan train", true),
            ("kubectl-tessera plan -f domain.yaml -n team -o json", true),
            ("kubectl-tessera plan", false),
            ("kubectl-tessera plan train -f domain.yaml", false),
            ("kubectl-tessera explain train", true),
            ("kubectl-tessera explain", false),
            ("kubectl-tessera plan train -o yaml", false),
        ] {
            assert_eq!(parse(line).is_ok(), taken, "{line}");
        }
    }
}
