//! What one share of a device may have of it: memory, time, and whether it may be swapped out.
//!
//! The kind is of our own group. The guarantee of a share is not in it: that is what the scheduler
//! counted for the claim (`consumedCapacity` of its allocation). Here is what the scheduler does not
//! need to know, as with the requests and limits of CPU and memory.

use serde_json::Value;

use crate::error::ConfigError;
use crate::fields::Fields;

mod compute;
mod memory;
mod swap;

pub use compute::{ComputeConfig, ComputeMode};
pub use memory::{Enforcement, MemoryConfig, MemoryLimit, MinimumTier, Pressure};
pub use swap::{SwapConfig, Willingness};

/// Configuration of a share of a GPU or of a MIG device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareConfig {
    /// Its memory.
    pub memory: MemoryConfig,
    /// Its part of the GPU's time.
    pub compute: ComputeConfig,
    /// How it may be swapped out to the host's memory. `None`: it may not.
    pub swap: Option<SwapConfig>,
}

impl ShareConfig {
    pub(crate) const FIELDS: &'static [&'static str] =
        &["apiVersion", "kind", "memory", "compute", "swap"];

    pub(crate) fn decode(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let swap = fields.get("swap").map(swap::decode).transpose()?.flatten();
        let memory = fields
            .get("memory")
            .map(|memory| MemoryConfig::decode(memory, swap.is_some()));
        let compute = fields.get("compute").map(ComputeConfig::decode);
        Ok(Self {
            memory: memory.transpose()?.unwrap_or_default(),
            compute: compute.transpose()?.unwrap_or_default(),
            swap,
        })
    }

    /// The sections by their names, every default written out.
    pub(crate) fn encode(&self) -> [(&'static str, Value); 3] {
        [
            ("memory", self.memory.encode()),
            ("compute", self.compute.encode()),
            ("swap", swap::encode(self.swap)),
        ]
    }
}

#[cfg(test)]
mod tests;
