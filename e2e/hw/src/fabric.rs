//! The NVLink fabric that a GPU is part of, as its driver has found it.
//!
//! GPUs with the same cluster UUID hang on the same NVLink switches; those of them with the same
//! clique id may share memory. A GPU without a fabric has nothing here.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{facts::ParseError, state::Node};

/// How far the GPU has come in joining its fabric (`NVML_GPU_FABRIC_STATE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FabricState {
    /// The GPU takes part in none.
    NotSupported,
    /// Nobody has asked it to join yet.
    NotStarted,
    /// It is joining.
    InProgress,
    /// It has joined, or failed to: the status tells.
    Completed,
}

/// How the GPU's part of the fabric is (`NVML_GPU_FABRIC_HEALTH_SUMMARY_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FabricHealth {
    /// The driver does not say, as drivers before R575 do not.
    NotSupported,
    /// Everything works.
    Healthy,
    /// Routes are broken.
    Unhealthy,
    /// It works with less bandwidth.
    LimitedCapacity,
}

/// A GPU's part of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// The fabric's UUID. All zero where the switches serve this machine alone.
    pub cluster_uuid: Uuid,
    /// The partition of the fabric that the GPU is in.
    pub clique_id: u32,
    /// How far it has come.
    #[serde(default = "completed")]
    pub state: FabricState,
    /// The NVML return code that joining ended with: 0 for success.
    #[serde(default)]
    pub status: u32,
    /// How its part is.
    #[serde(default = "healthy")]
    pub health: FabricHealth,
}

fn completed() -> FabricState {
    FabricState::Completed
}

fn healthy() -> FabricHealth {
    FabricHealth::Healthy
}

/// A UUID: 16 bytes, written in five groups of hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uuid(pub [u8; 16]);

impl std::str::FromStr for Uuid {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.replace('-', "");
        let number = (text.len() == 36 && digits.len() == 32)
            .then(|| u128::from_str_radix(&digits, 16).ok())
            .flatten();
        number
            .map(|number| Self(number.to_be_bytes()))
            .ok_or_else(|| {
                ParseError::new(text, "a UUID like `9c6f5af3-53bf-49b5-a436-b66766c413c3`")
            })
    }
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Uuid {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Uuid> for String {
    fn from(uuid: Uuid) -> Self {
        uuid.to_string()
    }
}

/// Derives the UUID of a rack's fabric, so that the nodes of one rack share it and no two racks do.
pub fn cluster_uuid_of_rack(rack: &str) -> Uuid {
    let digest: [u8; 32] = Sha256::digest(format!("simulated fabric of rack {rack}")).into();
    let bytes = digest
        .first_chunk()
        .expect("a SHA-256 digest is longer than a UUID");
    Uuid(*bytes)
}

/// What becomes of the fabric of some GPUs. What is not named stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FabricChange {
    /// The fabric's UUID.
    pub cluster_uuid: Option<Uuid>,
    /// The partition.
    pub clique_id: Option<u32>,
    /// How far joining has come.
    pub state: Option<FabricState>,
    /// The return code that joining ended with.
    pub status: Option<u32>,
    /// How the GPU's part is.
    pub health: Option<FabricHealth>,
}

impl FabricChange {
    /// Changes one GPU's part.
    pub fn apply(&self, fabric: &mut Fabric) {
        fabric.cluster_uuid = self.cluster_uuid.unwrap_or(fabric.cluster_uuid);
        fabric.clique_id = self.clique_id.unwrap_or(fabric.clique_id);
        fabric.state = self.state.unwrap_or(fabric.state);
        fabric.status = self.status.unwrap_or(fabric.status);
        fabric.health = self.health.unwrap_or(fabric.health);
    }
}

/// What GPU Feature Discovery calls a partition of a rack's fabric: `<cluster UUID>.<clique>`.
pub fn clique_of_rack(rack: &str, clique_id: u32) -> String {
    format!("{}.{clique_id}", cluster_uuid_of_rack(rack))
}

impl Fabric {
    /// The fabric of a rack, as one finds it that has joined.
    pub fn of_rack(rack: &str, clique_id: u32) -> Self {
        Self {
            cluster_uuid: cluster_uuid_of_rack(rack),
            clique_id,
            state: completed(),
            status: 0,
            health: healthy(),
        }
    }

    /// Whether other machines hang on the same switches.
    pub fn spans_nodes(&self) -> bool {
        self.cluster_uuid.0 != [0; 16]
    }
}

impl Node {
    /// Puts the node into a rack: its GPUs take the UUID of the rack's fabric. GPUs whose fabric
    /// ends at their own machine are as they were.
    pub fn join_rack(&mut self, rack: &str) {
        let cluster_uuid = cluster_uuid_of_rack(rack);
        let fabrics = self.gpus.iter_mut().filter_map(|gpu| gpu.fabric.as_mut());
        for fabric in fabrics.filter(|fabric| fabric.spans_nodes()) {
            fabric.cluster_uuid = cluster_uuid;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn a_uuid_survives_its_own_text_and_other_texts_are_none() {
        let text = "9c6f5af3-53bf-49b5-a436-b66766c413c3";
        assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        for bad in [
            "",
            "9c6f5af3",
            "9c6f5af3-53bf-49b5-a436-b66766c413cx",
            "+c6f5af3-53bf-49b5-a436-b66766c413c",
        ] {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_of_a_rack_share_its_fabric_and_machines_of_their_own_stay_alone() {
        let fabric_of = |profile, rack: &str| {
            let mut node = Profile::load(profile).unwrap().instantiate("node-1");
            node.join_rack(rack);
            node.gpus[0].fabric.clone()
        };
        assert_eq!(fabric_of("gb200", "a"), fabric_of("gb200", "a"));
        assert_ne!(fabric_of("gb200", "a"), fabric_of("gb200", "b"));
        assert!(fabric_of("gb200", "a").unwrap().spans_nodes());
        assert!(!fabric_of("h100", "a").unwrap().spans_nodes());
        assert_eq!(fabric_of("t4", "a"), None);
    }
}
