//! On which cluster a scenario runs.

use tessera_cluster::{Drivers, Options, Release};

/// A kind of cluster. Each is brought up once, for all scenarios that run on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// Two nodes without an NVLink fabric between them: one has eight H100, one has four T4.
    Mixed,
    /// Four GB200 nodes with four GPUs each, in two racks: the two nodes of a rack are an NVLink clique.
    Racks,
    /// Two nodes, of which the second has a kubelet that is three releases older than the control plane.
    OldKubelet,
}

impl Ground {
    /// All of them, in the order in which they are used.
    pub const ALL: [Self; 3] = [Self::Mixed, Self::Racks, Self::OldKubelet];

    /// What a step on it is called.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Mixed => "two nodes of different GPUs",
            Self::Racks => "four GB200 nodes in two racks",
            Self::OldKubelet => "two nodes, one with a kubelet of 1.33",
        }
    }

    /// What is to be brought up.
    pub fn options(self, kubernetes: Release) -> Options {
        let (nodes, profiles, racks): (_, &[&str], _) = match self {
            Self::Mixed | Self::OldKubelet => (2, &["h100", "t4"], 1),
            Self::Racks => (4, &["gb200"], 2),
        };
        let profiles = profiles.iter().map(|profile| (*profile).to_owned());
        Options {
            nodes,
            drivers: Drivers::Profiles(profiles.collect()),
            kubernetes,
            last_kubelet: (self == Self::OldKubelet).then_some(Release::V1_33),
            racks,
            ..Options::default()
        }
    }

    /// Why scenarios on it run in their long form alone, if they do.
    pub fn only_long(self) -> Option<&'static str> {
        (self == Self::OldKubelet)
            .then_some("with --long alone: a kubelet of 1.33 takes two cores four minutes to build")
    }

    /// Whether its nodes have the image of MPI jobs.
    pub fn has_mpi(self) -> bool {
        self == Self::Racks
    }

    /// What the chart is installed with beyond what every installation here has.
    pub(crate) fn values(self) -> &'static [&'static str] {
        match self {
            Self::Mixed | Self::OldKubelet => &[],
            Self::Racks => &[
                // Nobody else labels these nodes: GPU Feature Discovery is not there.
                "kubeletPlugin.containers.computeDomains.gpuCliqueLabelEnabled=true",
                // Without a policy that says so nobody is ended.
                "resources.computeDomains.preemption.enabled=true",
            ],
        }
    }
}
