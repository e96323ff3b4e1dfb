//! A share's part of the GPU's time.

use serde_json::{Map, Value};

use crate::error::ConfigError;
use crate::fields::Field;

/// A share's part of the GPU's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComputeConfig {
    /// How all shares of the device take turns. `None`: as the others want it.
    pub mode: Option<ComputeMode>,
    /// Weight among the shares, 1 to 1000, with [`ComputeMode::TimeWindows`]. `None`: in proportion to
    /// the consumed capacity `computeShare`.
    pub weight: Option<u16>,
}

/// How the shares of a device take turns. It is a setting of the device as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ComputeMode {
    /// As the NVIDIA driver slices time.
    TimeSlicing,
    /// In windows of time that are in proportion to the weights.
    TimeWindows,
    /// At the same time, through an MPS daemon.
    Mps,
}

impl ComputeMode {
    const ALL: [Self; 3] = [Self::TimeSlicing, Self::TimeWindows, Self::Mps];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimeSlicing => "TimeSlicing",
            Self::TimeWindows => "TimeWindows",
            Self::Mps => "MPS",
        }
    }
}

impl ComputeConfig {
    pub(super) fn decode(compute: Field<'_>) -> Result<Self, ConfigError> {
        let fields = compute.fields()?.only(&["mode", "weight"])?;
        let mode = match fields.get("mode") {
            None => None,
            Some(field) => {
                Some(field.one_of("compute mode", &ComputeMode::ALL, ComputeMode::as_str)?)
            }
        };
        let Some(field) = fields.get("weight") else {
            return Ok(Self { mode, weight: None });
        };
        let weight = field.whole("the weight", 1, 1000)?;
        if mode != Some(ComputeMode::TimeWindows) {
            return Err(ConfigError::Excluded {
                at: field.at,
                found: weight.to_string(),
                by: "any compute.mode but TimeWindows",
                remedy: "remove it, or write compute.mode: TimeWindows",
            });
        }
        Ok(Self {
            mode,
            weight: Some(weight),
        })
    }

    pub(super) fn encode(self) -> Value {
        let mut fields = Map::new();
        if let Some(mode) = self.mode {
            fields.insert("mode".to_owned(), mode.as_str().into());
        }
        if let Some(weight) = self.weight {
            fields.insert("weight".to_owned(), weight.into());
        }
        Value::Object(fields)
    }
}
