//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use jiff::SignedDuration;
use tessera_kubelet_plugin::directories::Directories;
use tessera_kubelet_plugin::driver_root::DriverRoot;
use tessera_shell::args::{LogArgs, PageArgs};

/// Whose records it reads.
const DRIVER: &str = "gpu.nvidia.com";

/// The times between two ticks that can be chosen: a shorter one costs more than it brings, and with a longer one programs
/// that grow fail although there is room.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Moves the memory limits of shares that are in use on one node.
///
/// Runs beside the kubelet plugin on nodes whose NVIDIA driver takes memory limits of cgroups (R615 and later). A share
/// that may grow above its guarantee is let grow while there is room, and its limit is lowered when others need that.
/// Without the agent limits stay as they are. On a node without shares it only waits.
///
/// Every flag can be given by the environment variable that stands beside it.
#[derive(Clone, Debug, Parser)]
#[command(name = "tessera-agent", version, max_term_width = 100)]
pub struct Args {
    /// Time between two ticks while something moves, 100ms to 10s. While nothing does it is twice as long, but no longer
    /// than a second unless this is.
    #[arg(long, env = "MEMORY_AGENT_INTERVAL", default_value = "500ms", value_parser = interval)]
    pub interval: Duration,

    /// Directory on a tmpfs of the host in which the kubelet plugin keeps records, notes and lock files. It is only read.
    #[arg(long, env = "STATE_DIRECTORY_PATH", default_value = "/run/tessera")]
    pub state_directory_path: PathBuf,

    /// Root of the NVIDIA driver installation on the host, for messages.
    #[arg(long, env = "NVIDIA_DRIVER_ROOT", default_value = "/")]
    pub nvidia_driver_root: PathBuf,

    /// The same root as this process sees it.
    #[arg(long, env = "DRIVER_ROOT_CTR_PATH", default_value = "/driver-root")]
    pub container_driver_root: PathBuf,

    /// The root of the host's hierarchy of cgroups (version 2).
    #[arg(long, env = "CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,

    /// Where pages are served.
    #[command(flatten)]
    pub pages: PageArgs,

    /// How it logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Args {
    /// The directories of the plugin whose records are read.
    pub fn directories(&self) -> Directories {
        Directories::of(DRIVER, &PathBuf::new(), &self.state_directory_path)
    }

    /// Where the driver is.
    pub fn driver_root(&self) -> DriverRoot {
        DriverRoot::new(&self.container_driver_root, &self.nvidia_driver_root)
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let time: SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; try 500ms or 1s"))?;
    Duration::try_from(time)
        .ok()
        .filter(|time| (SHORTEST..=LONGEST).contains(time))
        .ok_or_else(|| "it is not from 100ms to 10s".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_an_environment_name() {
        Args::command().debug_assert();
        for arg in Args::command().get_arguments() {
            let id = arg.get_id().as_str();
            assert!(
                arg.get_env().is_some() || matches!(id, "help" | "version"),
                "{id}"
            );
        }
    }

    #[test]
    fn an_interval_is_one_that_makes_sense() {
        for (text, taken) in [
            ("100ms", true),
            ("500ms", true),
            ("10s", true),
            ("99ms", false),
            ("11s", false),
            ("-1s", false),
            ("often", false),
        ] {
            assert_eq!(interval(text).is_ok(), taken, "{text}");
        }
    }
}
