//! On which cluster a scenario runs.

use tessera_cluster::{Drivers, Options, Release};

/// A kind of cluster. Each is brought up once, for all scenarios that run on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// Two nodes without an NVLink fabric between them: one has eight H100, one has four T4.
    Mixed,
    /// Four GB200 nodes with four GPUs each, in two racks: the two nodes of a rack are an NVLink clique.
    Racks,
}

impl Ground {
    /// All of them, in the order in which they are used.
    pub const ALL: [Self; 2] = [Self::Mixed, Self::Racks];

    /// What a step on it is called.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Mixed => "two nodes of different GPUs",
            Self::Racks => "four GB200 nodes in two racks",
        }
    }

    /// What is to be brought up.
    pub fn options(self, kubernetes: Release) -> Options {
        let (nodes, profiles, racks): (_, &[&str], _) = match self {
            Self::Mixed => (2, &["h100", "t4"], 1),
            Self::Racks => (4, &["gb200"], 2),
        };
        let profiles = profiles.iter().map(|profile| (*profile).to_owned());
        Options {
            nodes,
            drivers: Drivers::Profiles(profiles.collect()),
            kubernetes,
            racks,
            ..Options::default()
        }
    }

    /// Whether its nodes have the image of MPI jobs.
    pub fn has_mpi(self) -> bool {
        self == Self::Racks
    }

    /// What the chart is installed with beyond what every installation here has.
    pub(crate) fn values(self) -> &'static [&'static str] {
        match self {
            Self::Mixed => &[],
            Self::Racks => &[
                // Nobody else labels these nodes: GPU Feature Discovery is not there.
                "kubeletPlugin.containers.computeDomains.gpuCliqueLabelEnabled=true",
                // Without a policy that says so nobody is ended.
                "resources.computeDomains.preemption.enabled=true",
            ],
        }
    }
}
