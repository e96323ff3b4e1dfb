//! How a node lets claims share its devices: the reference driver's value `consumableShares`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use tessera_device::Bytes;
use thiserror::Error;

use crate::account::Capacity;

/// All of a device's time, as the capacity `computeShare` has it: percent.
pub const FULL_COMPUTE: u64 = 100;

/// How the devices of a node can be shared by claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumableShares {
    /// Not at all: a device is one claim's.
    #[default]
    Disabled,
    /// By memory. Who asks for none has all of it, and so the device alone.
    Memory,
    /// By whoever comes. Who asks for no memory is counted with none.
    Unlimited,
    /// By so many shares. Who asks for no number has one; who asks for no memory is counted with none.
    Number(NonZeroU32),
}

/// A text that says of no way how devices are shared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no way to share devices; write disabled, memory, unlimited or a number of shares"
)]
pub struct ConsumableSharesError(String);

impl ConsumableShares {
    /// Whether devices are shared.
    pub fn is_on(self) -> bool {
        self != Self::Disabled
    }

    /// How many shares a device has, where that is limited.
    pub fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number.get().into()),
            Self::Disabled | Self::Memory | Self::Unlimited => None,
        }
    }

    /// What a device with so much memory can give away.
    pub fn capacity(self, memory: Bytes) -> Capacity {
        Capacity {
            memory: shareable(memory),
            compute_share: FULL_COMPUTE,
            shares: self.number().unwrap_or(u64::MAX),
        }
    }
}

/// Memory is shared in whole MiB, as the reference driver has it. The API counts up to 2⁶³ - 1.
fn shareable(memory: Bytes) -> Bytes {
    Bytes::from_mib(memory.0.min(i64::MAX.unsigned_abs()) >> 20)
}

impl fmt::Display for ConsumableShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::Memory => f.write_str("memory"),
            Self::Unlimited => f.write_str("unlimited"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl FromStr for ConsumableShares {
    type Err = ConsumableSharesError;

    /// An empty text is that of nobody who wants devices to be shared.
    fn from_str(text: &str) -> Result<Self, ConsumableSharesError> {
        Ok(match text.trim() {
            "" | "disabled" => Self::Disabled,
            "memory" => Self::Memory,
            "unlimited" => Self::Unlimited,
            number => number
                .parse()
                .map(Self::Number)
                .map_err(|_| ConsumableSharesError(text.to_owned()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_reference_are_read_and_no_others() {
        for (text, expected, printed) in [
            ("", ConsumableShares::Disabled, "disabled"),
            (" disabled", ConsumableShares::Disabled, "disabled"),
            ("memory", ConsumableShares::Memory, "memory"),
            ("unlimited", ConsumableShares::Unlimited, "unlimited"),
            (
                "10",
                ConsumableShares::Number(NonZeroU32::new(10).unwrap()),
                "10",
            ),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text:?}");
            assert_eq!(expected.to_string(), printed);
        }
        for bad in ["0", "-1", "1.5", "all", "Memory", "99999999999"] {
            let error = bad.parse::<ConsumableShares>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn memory_that_is_shared_is_of_whole_mebibytes() {
        let capacity = ConsumableShares::Memory.capacity(Bytes((3 << 20) + 5));
        assert_eq!(capacity.memory, Bytes::from_mib(3));
        assert_eq!(capacity.shares, u64::MAX);
        let ten: ConsumableShares = "10".parse().unwrap();
        assert_eq!(ten.capacity(Bytes(0)).shares, 10);
    }
}
