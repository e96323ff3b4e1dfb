//! The memory of a share: how far it may grow, what keeps it there, and what may be done to it.

use serde_json::{Map, Value};
use tessera_device::Bytes;

use crate::error::ConfigError;
use crate::fields::{Field, Fields};

/// The memory of a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryConfig {
    /// How far the share may grow above its guarantee. `None`: not at all.
    pub limit: Option<MemoryLimit>,
    /// What must keep it there.
    pub enforcement: Enforcement,
    /// What may be done to it while it has more than its guarantee and another share needs the room.
    pub on_pressure: Pressure,
}

/// A ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// So much.
    Amount(Bytes),
    /// So many hundredths of the device's capacity `memory`, 1 to 100: for claims that do not know
    /// which GPU they get.
    Percent(u8),
}

/// What must keep a share within its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// A mechanism at least as strong, or the claim is refused.
    Required(MinimumTier),
    /// The strongest mechanism that there is, and none if there is none.
    BestEffort,
}

/// The weakest mechanism that is strong enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinimumTier {
    /// The kernel's driver.
    Native,
    /// An MPS server.
    Mps,
    /// A library in the process.
    #[default]
    Shim,
}

/// What may be done to a share under pressure: each value allows those before it as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// It gets no more memory.
    #[default]
    OutOfMemory,
    /// It is told to give back what it keeps in reserve.
    Trim,
    /// It is swapped out.
    Swap,
    /// Its pod is evicted.
    Evict,
}

impl Default for Enforcement {
    fn default() -> Self {
        Self::Required(MinimumTier::default())
    }
}

impl MinimumTier {
    const ALL: [Self; 3] = [Self::Native, Self::Mps, Self::Shim];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "Native",
            Self::Mps => "MPS",
            Self::Shim => "Shim",
        }
    }
}

impl Pressure {
    const ALL: [Self; 4] = [Self::OutOfMemory, Self::Trim, Self::Swap, Self::Evict];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfMemory => "OutOfMemory",
            Self::Trim => "Trim",
            Self::Swap => "Swap",
            Self::Evict => "Evict",
        }
    }
}

impl std::fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Amount(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

const REQUIRED: &str = "Required";
const BEST_EFFORT: &str = "BestEffort";

fn enforcement(fields: &Fields<'_>) -> Result<Enforcement, ConfigError> {
    let chosen = match fields.get("enforcement") {
        None => REQUIRED,
        Some(field) => field.one_of("enforcement", &[REQUIRED, BEST_EFFORT], |name| name)?,
    };
    let Some(field) = fields.get("minimumTier") else {
        return Ok(if chosen == BEST_EFFORT {
            Enforcement::BestEffort
        } else {
            Enforcement::default()
        });
    };
    let tier = field.one_of("tier", &MinimumTier::ALL, MinimumTier::as_str)?;
    if chosen == BEST_EFFORT {
        return Err(ConfigError::Excluded {
            at: field.at,
            found: tier.as_str().to_owned(),
            by: "memory.enforcement: BestEffort",
            remedy: "remove it, or write memory.enforcement: Required",
        });
    }
    Ok(Enforcement::Required(tier))
}

/// An amount of at least `1Mi`, or a whole percentage from `1%` to `100%`.
fn limit(field: &Field<'_>) -> Result<MemoryLimit, ConfigError> {
    let Some(number) = field.value.text().and_then(|text| text.strip_suffix('%')) else {
        return Ok(MemoryLimit::Amount(Bytes::from_mib(field.mebibytes()?)));
    };
    let whole = number.bytes().all(|byte| byte.is_ascii_digit());
    let percent = number
        .parse()
        .ok()
        .filter(|percent| whole && (1..=100).contains(percent));
    percent
        .map(MemoryLimit::Percent)
        .ok_or_else(|| ConfigError::Percentage {
            at: field.at.clone(),
            found: field.value.to_string(),
        })
}

impl MemoryConfig {
    /// `swappable`: whether the share may be swapped out at all.
    pub(super) fn decode(memory: Field<'_>, swappable: bool) -> Result<Self, ConfigError> {
        let fields =
            memory
                .fields()?
                .only(&["limit", "enforcement", "minimumTier", "onPressure"])?;
        let pressure = fields.get("onPressure");
        let on_pressure = match &pressure {
            None => Pressure::default(),
            Some(field) => field.one_of("answer to pressure", &Pressure::ALL, Pressure::as_str)?,
        };
        if let Some(Field { at, .. }) = pressure
            && on_pressure == Pressure::Swap
            && !swappable
        {
            return Err(ConfigError::Excluded {
                at,
                found: on_pressure.as_str().to_owned(),
                by: "swap.policy: Never",
                remedy: "write swap.policy: Allow, or memory.onPressure: Trim",
            });
        }
        Ok(Self {
            limit: fields.get("limit").map(|field| limit(&field)).transpose()?,
            enforcement: enforcement(&fields)?,
            on_pressure,
        })
    }

    pub(super) fn encode(self) -> Value {
        let mut fields = Map::new();
        let mut set = |name: &str, value: String| fields.insert(name.to_owned(), value.into());
        if let Some(limit) = self.limit {
            set("limit", limit.to_string());
        }
        match self.enforcement {
            Enforcement::BestEffort => {
                set("enforcement", BEST_EFFORT.to_owned());
            }
            Enforcement::Required(tier) => {
                set("enforcement", REQUIRED.to_owned());
                set("minimumTier", tier.as_str().to_owned());
            }
        }
        set("onPressure", self.on_pressure.as_str().to_owned());
        Value::Object(fields)
    }
}
