//! How a share may be swapped out.

use serde_json::{Value, json};
use tessera_device::Bytes;

use crate::error::ConfigError;
use crate::fields::Field;

/// Longest time that a setting takes, in seconds: a day.
const LONGEST: u32 = 86_400;

/// How a share may be swapped out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwapConfig {
    /// Whether that is only possible, or wanted.
    pub willingness: Willingness,
    /// How long it must have been idle before. `None`: as the node has it.
    pub idle_seconds: Option<u32>,
    /// How long it stays once it is back. `None`: as the node has it.
    pub min_residency_seconds: Option<u32>,
    /// How long its return may take. `None`: as long as it takes.
    pub max_wake_seconds: Option<u32>,
    /// How much of the host's memory it may take. `None`: as the node has it.
    pub host_limit: Option<Bytes>,
    /// Its user vouches that it shares no memory with other processes, which a node without a library
    /// in the process cannot see.
    pub assume_unshared: bool,
}

/// Whether swapping a share out is only possible, or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Willingness {
    /// Where others need the room.
    Allow,
    /// Whenever it is idle.
    Prefer,
}

const NEVER: &str = "Never";
const ALLOW: &str = "Allow";
const PREFER: &str = "Prefer";
const SWAP_FIELDS: &[&str] = &[
    "policy",
    "idleSeconds",
    "minResidencySeconds",
    "maxWakeSeconds",
    "hostLimit",
    "assumeUnshared",
];

/// `None`: the share may not be swapped out.
pub(super) fn decode(swap: Field<'_>) -> Result<Option<SwapConfig>, ConfigError> {
    let fields = swap.fields()?.only(SWAP_FIELDS)?;
    let policy = match fields.get("policy") {
        None => NEVER,
        Some(field) => field.one_of("swap policy", &[NEVER, ALLOW, PREFER], |name| name)?,
    };
    if policy == NEVER {
        let setting = SWAP_FIELDS[1..].iter().find_map(|name| fields.get(name));
        return setting.map_or(Ok(None), |Field { at, value }| {
            Err(ConfigError::Excluded {
                at,
                found: value.to_string(),
                by: "swap.policy: Never",
                remedy: "remove it, or write swap.policy: Allow or swap.policy: Prefer",
            })
        });
    }
    let seconds = |name, what| {
        let field = fields.get(name);
        field.map(|field| field.whole(what, 1, LONGEST)).transpose()
    };
    let host_limit = fields.get("hostLimit").map(|field| field.mebibytes());
    let unshared = fields.get("assumeUnshared").map(|field| field.boolean());
    Ok(Some(SwapConfig {
        willingness: if policy == PREFER {
            Willingness::Prefer
        } else {
            Willingness::Allow
        },
        idle_seconds: seconds("idleSeconds", "the idle time")?,
        min_residency_seconds: seconds("minResidencySeconds", "the residency")?,
        max_wake_seconds: seconds("maxWakeSeconds", "the time to wake")?,
        host_limit: host_limit.transpose()?.map(Bytes::from_mib),
        assume_unshared: unshared.transpose()?.unwrap_or_default(),
    }))
}

/// The section, whether the share may be swapped out or not.
pub(super) fn encode(config: Option<SwapConfig>) -> Value {
    config.map_or_else(|| json!({"policy": NEVER}), SwapConfig::encode)
}

impl SwapConfig {
    fn encode(self) -> Value {
        let policy = match self.willingness {
            Willingness::Allow => ALLOW,
            Willingness::Prefer => PREFER,
        };
        let mut swap = json!({"policy": policy, "assumeUnshared": self.assume_unshared});
        for (name, seconds) in [
            ("idleSeconds", self.idle_seconds),
            ("minResidencySeconds", self.min_residency_seconds),
            ("maxWakeSeconds", self.max_wake_seconds),
        ] {
            if let Some(seconds) = seconds {
                swap[name] = seconds.into();
            }
        }
        if let Some(limit) = self.host_limit {
            swap["hostLimit"] = limit.to_string().into();
        }
        swap
    }
}
