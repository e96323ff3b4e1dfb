//! Topology levels: which node labels tell how near nodes are, from broad to narrow.
//!
//! Kubernetes has standard labels only for region and zone (KEP-4962, for the network below, was
//! closed), so the list is a setting, with presets. The NVLink clique is not among them: it comes from NVML.

use std::collections::BTreeMap;

use thiserror::Error;

/// Most levels that a list may have.
pub const MOST_LEVELS: usize = 16;

/// Region and zone, which every provider's list begins with.
const COMMON: [&str; 2] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// The lists of providers: name, and the labels below region and zone, from broad to narrow.
///
/// Sources: EC2's and EKS' network topology labels, GKE's compact placement labels, OCI's host
/// topology, the label lists of `CoreWeave` and Crusoe, and Topograph's output.
const PRESETS: [(&str, &[&str]); 7] = [
    (
        "aws",
        &[
            "topology.k8s.aws/network-node-layer-1",
            "topology.k8s.aws/network-node-layer-2",
            "topology.k8s.aws/network-node-layer-3",
            "topology.k8s.aws/network-node-layer-4",
        ],
    ),
    (
        "gke",
        &[
            "cloud.google.com/gce-topology-block",
            "cloud.google.com/gce-topology-subblock",
        ],
    ),
    (
        "oci",
        &[
            "oci.oraclecloud.com/host.network_block_id",
            "oci.oraclecloud.com/host.rack_id",
        ],
    ),
    (
        "coreweave",
        &[
            "ib.coreweave.cloud/superpod",
            "backend.coreweave.cloud/fabric",
            "backend.coreweave.cloud/leafgroup",
            "node.coreweave.cloud/rack",
        ],
    ),
    ("crusoe", &["crusoe.ai/ib.partition.id", "crusoe.ai/pod.id"]),
    (
        "topograph",
        &[
            "network.topology.nvidia.com/core",
            "network.topology.nvidia.com/spine",
            "network.topology.nvidia.com/leaf",
        ],
    ),
    ("zones", &[]),
];

/// Labels that name topology levels, from broad to narrow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels(Vec<String>);

/// A list of levels that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LevelsError {
    /// No preset of that name.
    #[error("topology preset {name:?} is unknown; write one of {}", Levels::preset_names().join(", "))]
    Preset {
        /// The name.
        name: String,
    },
    /// A label twice.
    #[error("topology level {0:?} is listed twice; list each label once, from broad to narrow")]
    Twice(String),
    /// An empty label.
    #[error("a topology level is empty; write the key of a node label")]
    Empty,
    /// More labels than [`MOST_LEVELS`].
    #[error("{0} topology levels are listed; at most {MOST_LEVELS} are kept apart")]
    TooMany(usize),
}

impl Levels {
    /// Levels in this order, from broad to narrow.
    pub fn new(keys: impl IntoIterator<Item = String>) -> Result<Self, LevelsError> {
        let keys: Vec<String> = keys.into_iter().collect();
        if keys.len() > MOST_LEVELS {
            return Err(LevelsError::TooMany(keys.len()));
        }
        for (at, key) in keys.iter().enumerate() {
            if key.is_empty() {
                return Err(LevelsError::Empty);
            }
            if keys[..at].contains(key) {
                return Err(LevelsError::Twice(key.clone()));
            }
        }
        Ok(Self(keys))
    }

    /// A provider's list.
    pub fn preset(name: &str) -> Result<Self, LevelsError> {
        let found = PRESETS.iter().find(|(preset, _)| *preset == name);
        let (_, keys) = found.ok_or_else(|| LevelsError::Preset {
            name: name.to_owned(),
        })?;
        let all = COMMON.iter().chain(keys.iter());
        Ok(Self(all.map(ToString::to_string).collect()))
    }

    /// What somebody has set: a list of their own, or else a preset. A list of one empty word is no list, as a
    /// variable that is empty is one that is not set.
    pub fn chosen(preset: &str, own: &[String]) -> Result<Self, LevelsError> {
        let own: Vec<String> = own.iter().map(|level| level.trim().to_owned()).collect();
        match &own[..] {
            [] => Self::preset(preset),
            [only] if only.is_empty() => Self::preset(preset),
            _ => Self::new(own),
        }
    }

    /// The names of the presets.
    pub fn preset_names() -> Vec<&'static str> {
        PRESETS.iter().map(|(name, _)| *name).collect()
    }

    /// The preset that a node's labels belong to: the first of which the node has a level below the
    /// zone, else `zones`.
    pub fn detect(labels: &BTreeMap<String, String>) -> &'static str {
        PRESETS
            .iter()
            .find(|(_, keys)| keys.iter().any(|key| labels.contains_key(*key)))
            .map_or("zones", |(name, _)| name)
    }

    /// The labels, from broad to narrow.
    pub fn keys(&self) -> &[String] {
        &self.0
    }

    /// Which level a label is: 0 is the broadest.
    pub(crate) fn position(&self, key: &str) -> Option<usize> {
        self.0.iter().position(|known| known == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_lists_without_repetition_and_found_by_their_labels() {
        for name in Levels::preset_names() {
            let levels = Levels::preset(name).unwrap();
            assert_eq!(Levels::new(levels.keys().to_vec()), Ok(levels.clone()));
            let narrowest = levels.keys().last().unwrap().clone();
            let labels = BTreeMap::from([(narrowest, "x".to_owned())]);
            assert_eq!(Levels::detect(&labels), name);
        }
    }

    #[test]
    fn lists_that_cannot_be_meant_are_refused_with_the_label() {
        let list = |keys: &[&str]| Levels::new(keys.iter().map(ToString::to_string));
        assert_eq!(
            list(&["a", "b", "a"]),
            Err(LevelsError::Twice("a".to_owned()))
        );
        assert_eq!(list(&["a", ""]), Err(LevelsError::Empty));
        let many: Vec<String> = (0..=MOST_LEVELS).map(|at| at.to_string()).collect();
        assert_eq!(
            Levels::new(many),
            Err(LevelsError::TooMany(MOST_LEVELS + 1))
        );
        let unknown = Levels::preset("moon").unwrap_err().to_string();
        assert!(
            unknown.contains("moon") && unknown.contains("aws, gke"),
            "{unknown}"
        );
    }
}
