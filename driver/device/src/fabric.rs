//! The NVLink fabric that a node's GPUs are part of.
//!
//! GPUs of one *clique* can share memory over NVLink, on whichever nodes they are. A clique is named by
//! the UUID of the fabric and a number within it, because an administrator may part a fabric. What a
//! GPU says of its fabric is [`GpuFabric`]; [`NodeFabric::of`] makes one answer of those of a node.
//!
//! # Assumption
//! A GPU is in one clique. `nvmlDeviceGetGpuFabricInfo_v4` can name several; the first of them is the
//! one that the older calls give, which are asked here.

use std::fmt;
use std::str::FromStr;

use crate::{Gpu, GpuUuid, IdError};

/// The UUID of a fabric (`clusterUuid` of `nvmlGpuFabricInfo_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterUuid([u8; 16]);

impl ClusterUuid {
    /// The UUID of these bytes. All zero is none: so NVML says that no other machine is reached, as on
    /// an HGX board whose switches serve its own GPUs.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }
}

impl fmt::Display for ClusterUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) {
                "-"
            } else {
                ""
            };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// Which clique: `<cluster UUID>.<clique id>`, as the label `nvidia.com/gpu.clique` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Clique {
    /// The fabric.
    pub cluster: ClusterUuid,
    /// The part of it.
    pub id: u32,
}

impl fmt::Display for Clique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.cluster, self.id)
    }
}

impl FromStr for Clique {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        parse_clique(text).ok_or_else(|| IdError::Clique(text.to_owned()))
    }
}

fn parse_clique(text: &str) -> Option<Clique> {
    let (uuid, id) = text.split_once('.')?;
    let digits: Vec<&str> = uuid.split('-').collect();
    let well_formed = digits.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && uuid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    let number = u128::from_str_radix(&digits.concat(), 16).ok();
    let is_plain = id.bytes().all(|b| b.is_ascii_digit());
    Some(Clique {
        cluster: ClusterUuid::new(number.filter(|_| well_formed)?.to_be_bytes())?,
        id: id.parse().ok().filter(|_| is_plain)?,
    })
}

/// How a GPU's part of its fabric is. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FabricHealth {
    /// Everything works.
    Healthy,
    /// The driver does not say.
    Unknown,
    /// It works with less bandwidth, or is being repaired.
    LimitedCapacity,
    /// Routes are broken, or the fabric is configured wrongly.
    Unhealthy,
}

impl FabricHealth {
    /// The value of the `fabricHealth` attribute.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unknown => "Unknown",
            Self::LimitedCapacity => "LimitedCapacity",
            Self::Unhealthy => "Unhealthy",
        }
    }
}

/// What a GPU says of its fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GpuFabric {
    /// It is part of none that reaches beyond this machine.
    #[default]
    None,
    /// It is joining one, or waits to be asked to.
    Joining,
    /// It tried to join and could not.
    Failed {
        /// NVML's return code (`status` of `nvmlGpuFabricInfo_t`).
        status: u32,
    },
    /// It does not answer the question.
    Silent {
        /// What NVML says instead.
        why: String,
    },
    /// It is in a clique.
    Member {
        /// Which.
        clique: Clique,
        /// How its part is.
        health: FabricHealth,
    },
}

/// What a node's GPUs together say of their fabric.
///
/// Its text is for the log and for conditions: what is, and what to do where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeFabric {
    /// No GPU is part of a fabric that reaches beyond this machine: the node is a clique of its own.
    None,
    /// At least one GPU has not joined yet.
    Joining {
        /// It.
        gpu: GpuUuid,
    },
    /// At least one GPU could not join, or does not say.
    Failed {
        /// It.
        gpu: GpuUuid,
        /// Why.
        why: String,
    },
    /// The GPUs are not all in the same clique, so the node is in none.
    Disagreeing {
        /// A GPU, and where it is.
        first: (GpuUuid, Option<Clique>),
        /// Another, and where it is.
        other: (GpuUuid, Option<Clique>),
    },
    /// All GPUs are in one clique.
    Member {
        /// Which.
        clique: Clique,
        /// How the worst part is.
        health: FabricHealth,
    },
}

impl NodeFabric {
    /// What these GPUs say together. What is wrong with one of them comes before what the others say.
    pub fn of(gpus: &[Gpu]) -> Self {
        failure(gpus)
            .or_else(|| joining(gpus))
            .or_else(|| disagreement(gpus))
            .or_else(|| membership(gpus))
            .unwrap_or(Self::None)
    }

    /// The clique that the node is in, if it is known.
    pub fn clique(&self) -> Option<Clique> {
        match self {
            Self::Member { clique, .. } => Some(*clique),
            Self::None | Self::Joining { .. } | Self::Failed { .. } | Self::Disagreeing { .. } => {
                None
            }
        }
    }

    /// The value of the `fabricState` attribute.
    pub fn state(&self) -> &'static str {
        match self {
            Self::None => "NotSupported",
            Self::Joining { .. } => "InProgress",
            Self::Failed { .. } => "Failed",
            Self::Disagreeing { .. } => "Inconsistent",
            Self::Member { .. } => "Completed",
        }
    }

    /// Whether somebody should act.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Disagreeing { .. } => true,
            Self::Member { health, .. } => *health >= FabricHealth::LimitedCapacity,
            Self::None | Self::Joining { .. } => false,
        }
    }
}

fn failure(gpus: &[Gpu]) -> Option<NodeFabric> {
    gpus.iter().find_map(|gpu| {
        let why = match &gpu.fabric {
            GpuFabric::Failed { status } => format!("joining it ended with NVML code {status}"),
            GpuFabric::Silent { why } => format!("NVML does not say: {why}"),
            GpuFabric::None | GpuFabric::Joining | GpuFabric::Member { .. } => return None,
        };
        let gpu = gpu.uuid.clone();
        Some(NodeFabric::Failed { gpu, why })
    })
}

fn joining(gpus: &[Gpu]) -> Option<NodeFabric> {
    let gpu = gpus.iter().find(|gpu| gpu.fabric == GpuFabric::Joining)?;
    let gpu = gpu.uuid.clone();
    Some(NodeFabric::Joining { gpu })
}

fn disagreement(gpus: &[Gpu]) -> Option<NodeFabric> {
    let place = |gpu: &Gpu| (gpu.uuid.clone(), member(gpu).map(|(clique, _)| clique));
    let first = place(gpus.first()?);
    let other = gpus.iter().map(place).find(|other| other.1 != first.1)?;
    Some(NodeFabric::Disagreeing { first, other })
}

fn membership(gpus: &[Gpu]) -> Option<NodeFabric> {
    let (clique, _) = member(gpus.first()?)?;
    let health = gpus.iter().filter_map(member).map(|(_, health)| health);
    let health = health.max()?;
    Some(NodeFabric::Member { clique, health })
}

fn member(gpu: &Gpu) -> Option<(Clique, FabricHealth)> {
    match &gpu.fabric {
        GpuFabric::Member { clique, health } => Some((*clique, *health)),
        GpuFabric::None
        | GpuFabric::Joining
        | GpuFabric::Failed { .. }
        | GpuFabric::Silent { .. } => None,
    }
}

impl fmt::Display for NodeFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no GPU is part of an NVLink fabric between nodes"),
            Self::Joining { gpu } => write!(f, "GPU {gpu} has not joined its NVLink fabric yet"),
            Self::Failed { gpu, why } => write!(
                f,
                "GPU {gpu} is not in its NVLink fabric: {why}; `nvidia-smi -q` shows its fabric, and \
                 the fabric manager's log tells more"
            ),
            Self::Disagreeing {
                first: (first, its),
                other: (other, others),
            } => {
                let name = |clique: &Option<Clique>| {
                    clique.map_or("no clique".to_owned(), |clique| format!("clique {clique}"))
                };
                write!(
                    f,
                    "GPU {first} is in {}, GPU {other} in {}: the node counts as in none until all \
                     are in the same; look at the partitions of the fabric manager",
                    name(its),
                    name(others)
                )
            }
            Self::Member { clique, health } => {
                write!(
                    f,
                    "all GPUs are in NVLink clique {clique}, health {}",
                    health.as_str()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{clique, gpu, gpu_uuid};

    fn member(number: u32, health: FabricHealth) -> GpuFabric {
        GpuFabric::Member {
            clique: clique(number),
            health,
        }
    }

    fn node(fabrics: &[GpuFabric]) -> NodeFabric {
        let gpus: Vec<Gpu> = (0..)
            .zip(fabrics)
            .map(|(minor, fabric)| Gpu {
                fabric: fabric.clone(),
                ..gpu(minor)
            })
            .collect();
        NodeFabric::of(&gpus)
    }

    #[test]
    fn a_clique_is_written_as_the_label_has_it() {
        let bytes = *b"\x9c\x6f\x5a\xf3\x53\xbf\x49\xb5\xa4\x36\xb6\x67\x66\xc4\x13\xc3";
        let clique = Clique {
            cluster: ClusterUuid::new(bytes).unwrap(),
            id: 4026,
        };
        assert_eq!(
            clique.to_string(),
            "9c6f5af3-53bf-49b5-a436-b66766c413c3.4026"
        );
        assert_eq!(ClusterUuid::new([0; 16]), None);
        for bad in [
            "",
            "9c6f5af3-53bf-49b5-a436-b66766c413c3",
            "9c6f5af353bf-49b5-a436-b66766c413c3.1",
            "9c6f5af3-53bf-49b5-a436-b66766c413c3.+1",
            "9c6f5af3-53bf-49b5-a436-b66766c413c3.4294967296",
            "00000000-0000-0000-0000-000000000000.0",
        ] {
            assert!(bad.parse::<Clique>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_is_in_a_clique_when_all_of_its_gpus_are() {
        use FabricHealth::{Healthy, LimitedCapacity, Unhealthy};
        let of = |fabrics: &[GpuFabric]| {
            let node = node(fabrics);
            (node.state(), node.clique())
        };
        let joined = Some(clique(1));
        for (fabrics, expected) in [
            (vec![], ("NotSupported", None)),
            (
                vec![GpuFabric::None, GpuFabric::None],
                ("NotSupported", None),
            ),
            (
                vec![member(1, Healthy), member(1, Unhealthy)],
                ("Completed", joined),
            ),
            (
                vec![member(1, Healthy), GpuFabric::Joining],
                ("InProgress", None),
            ),
            (
                vec![GpuFabric::Joining, GpuFabric::Failed { status: 3 }],
                ("Failed", None),
            ),
            (
                vec![member(1, Healthy), member(2, Healthy)],
                ("Inconsistent", None),
            ),
            (
                vec![GpuFabric::None, member(1, Healthy)],
                ("Inconsistent", None),
            ),
        ] {
            assert_eq!(of(&fabrics), expected, "{fabrics:?}");
        }
        let NodeFabric::Member { health, .. } =
            node(&[member(1, Healthy), member(1, LimitedCapacity)])
        else {
            panic!("both are members");
        };
        assert_eq!(health, LimitedCapacity);
    }

    #[test]
    fn what_is_wrong_names_the_gpus_and_where_they_are() {
        let text = node(&[
            member(1, FabricHealth::Healthy),
            member(2, FabricHealth::Healthy),
        ])
        .to_string();
        for part in [
            gpu_uuid(0).to_string(),
            gpu_uuid(1).to_string(),
            clique(1).to_string(),
            clique(2).to_string(),
        ] {
            assert!(text.contains(&part), "{part} in {text}");
        }
    }

    proptest! {
        #[test]
        fn a_clique_survives_its_own_text(bytes: [u8; 16], id: u32) {
            prop_assume!(bytes != [0; 16]);
            let clique = Clique { cluster: ClusterUuid::new(bytes).unwrap(), id };
            prop_assert_eq!(clique.to_string().parse::<Clique>(), Ok(clique));
        }

        #[test]
        fn no_text_panics_the_parser(text: String) {
            let _ = text.parse::<Clique>();
        }
    }
}
