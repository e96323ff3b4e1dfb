//! Features that a cluster's administrator switches on or off, in the words of the reference driver.

use std::convert::Infallible;
use std::str::FromStr;

use tracing::{info, warn};

/// Gates of the reference driver that are of no effect here: what they switch is always on, or is not
/// there.
const WITHOUT_EFFECT: [&str; 14] = [
    "MPSSupport",
    "IMEXDaemonsWithDNSNames",
    "PassthroughSupport",
    "NVMLDeviceHealthCheck",
    "ComputeDomainCliques",
    "CrashOnNVLinkFabricErrors",
    "DeviceMetadata",
    "HostManagedIMEXDaemon",
    "FabricManagerPartitioning",
    "ConsumableShares",
    "DRAListTypeAttributes",
    "NodeLocalFabricIPC",
    "NodeAllocatableResources",
    "PerNodeGPUConfig",
];

/// What is switched on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// GPUs are cut when claims need it.
    pub dynamic_mig: bool,
    /// Claims may ask for a time slice of their GPUs.
    pub time_slicing_settings: bool,
    /// Gates of the reference driver that are switched on and without effect here.
    without_effect: Vec<&'static str>,
    /// What was given that is not a gate with a value, or not a gate of anybody.
    unknown: Vec<String>,
}

impl FeatureGates {
    /// Says in the log what has no effect.
    pub fn tell_what_has_no_effect(&self) {
        for gate in &self.without_effect {
            info!(
                gate,
                "this feature gate has no effect: nothing is behind it here"
            );
        }
        for gate in &self.unknown {
            warn!(
                gate,
                "no feature gate of this driver, or no value of it: true or false; left out of account"
            );
        }
    }
}

/// From `DynamicMIG=true,Other=false`. What is not understood keeps no node from serving.
impl FromStr for FeatureGates {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut gates = Self::default();
        for entry in text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            let name = name.trim();
            match (value.trim().parse::<bool>(), without_effect(name)) {
                (Ok(value), _) if name == "DynamicMIG" => gates.dynamic_mig = value,
                (Ok(value), _) if name == "TimeSlicingSettings" => {
                    gates.time_slicing_settings = value;
                }
                (Ok(value), Some(known)) => gates.without_effect.extend(value.then_some(known)),
                (Ok(_), None) | (Err(_), _) => gates.unknown.push(entry.to_owned()),
            }
        }
        Ok(gates)
    }
}

fn without_effect(name: &str) -> Option<&'static str> {
    WITHOUT_EFFECT.into_iter().find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(text: &str) -> FeatureGates {
        text.parse().unwrap()
    }

    #[test]
    fn dynamic_mig_is_off_unless_it_is_switched_on_and_the_last_word_counts() {
        for (text, is_on) in [
            ("", false),
            ("DynamicMIG=true", true),
            ("MPSSupport=false, DynamicMIG=true", true),
            ("DynamicMIG=true,DynamicMIG=false", false),
        ] {
            assert_eq!(gates(text).dynamic_mig, is_on, "{text:?}");
            assert!(gates(text).unknown.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn time_slices_are_a_gate_of_their_own_and_off_by_default() {
        assert!(!gates("DynamicMIG=true").time_slicing_settings);
        let both = gates("TimeSlicingSettings=true,DynamicMIG=false");
        assert!(both.time_slicing_settings && !both.dynamic_mig);
        assert_eq!(both.without_effect, [""; 0]);
    }

    #[test]
    fn gates_of_the_reference_without_effect_are_known_as_such() {
        let text = WITHOUT_EFFECT.map(|gate| format!("{gate}=true")).join(",");
        assert_eq!(gates(&text).without_effect, WITHOUT_EFFECT);
        assert!(gates(&text).unknown.is_empty());
    }

    #[test]
    fn what_is_no_gate_or_no_value_is_kept_to_be_told() {
        for text in ["DynamicMIG=yes", "DynamicMIG", "dynamicMIG=true", "X=true"] {
            assert_eq!(gates(text).unknown, [text]);
            assert!(!gates(text).dynamic_mig);
        }
    }
}
