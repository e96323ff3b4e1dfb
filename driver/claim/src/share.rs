//! Which share of a device a claim has, and what the scheduler counted for it (KEP 5075).

use k8s_openapi::api::resource::v1::DeviceRequestAllocationResult;
use tessera_device::{Bytes, quantity};
use thiserror::Error;

/// Capacity of a shareable device: its memory.
pub const MEMORY: &str = "memory";

/// Capacity of a shareable device: its time, in percent.
pub const COMPUTE_SHARE: &str = "computeShare";

/// Capacity of a shareable device: how many shares there can be.
pub const SHARES: &str = "shares";

/// The longest id: that of a label of DNS. The scheduler's ids are UUIDs, of 36 characters.
const ID_BYTES: usize = 63;

/// Of what is wrong, so much is shown.
const SHOWN: usize = 60;

/// What a share takes of its device (`consumedCapacity`), as the scheduler rounded and counted it.
///
/// A capacity that is not among them is `None`: the device did not have it when it was allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    /// `memory`.
    pub memory: Option<Bytes>,
    /// `computeShare`, in percent.
    pub compute_share: Option<u64>,
    /// `shares`.
    pub shares: Option<u64>,
}

/// A share of a device that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ShareError {
    /// An id that the scheduler does not make.
    #[error("its shareID {0:?} is not of letters, digits and '-'")]
    Id(String),
    /// One share of a device twice.
    #[error("another request of the claim has the same share {0} of the device")]
    Twice(String),
    /// A consumed capacity that is none.
    #[error("its consumedCapacity {name} is {found:?}, which is not an amount")]
    Amount {
        /// The capacity.
        name: &'static str,
        /// What it says.
        found: String,
    },
}

impl Consumed {
    /// What is consumed, by name. Names without a domain are those of the driver; with its domain they
    /// mean the same. A capacity that this version does not know is of a newer one.
    pub fn of<'c>(
        consumed: impl IntoIterator<Item = (&'c str, &'c str)>,
        driver: &str,
    ) -> Result<Self, ShareError> {
        let mut read = Self::default();
        for (name, text) in consumed {
            let own = name.strip_prefix(driver);
            let name = own.and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
            match name {
                MEMORY => read.memory = Some(Bytes(amount(MEMORY, text)?)),
                COMPUTE_SHARE => read.compute_share = Some(amount(COMPUTE_SHARE, text)?),
                SHARES => read.shares = Some(amount(SHARES, text)?),
                _ => {}
            }
        }
        Ok(read)
    }
}

/// A whole amount, rounded up.
fn amount(name: &'static str, text: &str) -> Result<u64, ShareError> {
    let whole = quantity::nanos(text).map(|nanos| {
        nanos.div_euclid(quantity::ONE) + i128::from(nanos.rem_euclid(quantity::ONE) > 0)
    });
    whole
        .and_then(|whole| u64::try_from(whole).ok())
        .ok_or_else(|| ShareError::Amount {
            name,
            found: shown(text),
        })
}

/// The id of the share and what it consumes. `None`: the device is not shared.
///
/// The id becomes part of names, so nothing else than what the scheduler's ids are made of is taken.
pub(crate) fn share(
    result: &DeviceRequestAllocationResult,
    driver: &str,
) -> Result<(Option<String>, Consumed), ShareError> {
    let Some(id) = &result.share_id else {
        return Ok((None, Consumed::default()));
    };
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let ends_well = !id.starts_with('-') && !id.ends_with('-');
    if id.is_empty() || id.len() > ID_BYTES || !id.bytes().all(is_word) || !ends_well {
        return Err(ShareError::Id(shown(id)));
    }
    let consumed = result.consumed_capacity.iter().flatten();
    let consumed = consumed.map(|(name, amount)| (name.as_str(), amount.0.as_str()));
    Ok((Some(id.clone()), Consumed::of(consumed, driver)?))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const DRIVER: &str = "gpu.nvidia.com";
    const ID: &str = "a671734a-e8e5-11e4-8fde-42010af09327";

    fn of(consumed: &[(&str, &str)]) -> Result<Consumed, ShareError> {
        Consumed::of(consumed.iter().copied(), DRIVER)
    }

    #[test]
    fn amounts_are_read_by_name_and_what_is_not_named_is_not_there() {
        assert_eq!(of(&[]), Ok(Consumed::default()));
        let some = of(&[("memory", "20Gi"), ("computeShare", "25"), ("shares", "1")]).unwrap();
        let expected = Consumed {
            memory: Some(Bytes::from_mib(20 << 10)),
            compute_share: Some(25),
            shares: Some(1),
        };
        assert_eq!(some, expected);
        let newer = of(&[
            ("gpu.nvidia.com/memory", "1500m"),
            ("example.com/shares", "all"),
            ("bandwidth", "all"),
        ]);
        let expected = Consumed {
            memory: Some(Bytes(2)),
            ..Consumed::default()
        };
        assert_eq!(newer, Ok(expected));
    }

    #[test]
    fn an_amount_that_is_none_is_named() {
        for bad in ["", "all", "-1Gi", "9223372036854775807Ei x"] {
            let error = of(&[("memory", bad)]).unwrap_err().to_string();
            assert!(error.contains("consumedCapacity memory"), "{error}");
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn an_id_is_of_letters_digits_and_dashes() {
        let read = |id: &str| {
            let result = json!({
                "request": "a", "driver": DRIVER, "pool": "node0", "device": "gpu-0", "shareID": id,
            });
            share(&serde_json::from_value(result).unwrap(), DRIVER)
        };
        assert_eq!(read(ID), Ok((Some(ID.to_owned()), Consumed::default())));
        let long = "a".repeat(64);
        for bad in ["", "-", "a-", "../a", "a_b", "a b", "ä", "a=b,", &long] {
            assert!(matches!(read(bad), Err(ShareError::Id(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_consumed_capacity_panics_the_reader(name: String, text: String) {
            let _ = of(&[(&name, &text), ("memory", &text)]);
        }
    }
}
