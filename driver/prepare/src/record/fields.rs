//! How fields of records are written whose types do not know serde.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tessera_api::Interval;
use tessera_device::Bytes;
use tessera_device::mig::{Part, Placement};

/// Serde by the text form of an identity, so that the device crate need not know serde.
pub(crate) mod text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serializer, de, fmt};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(d: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The same for one that may be missing.
pub(crate) mod optional_text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serialize, Serializer, de, fmt};

    #[expect(clippy::ref_option, reason = "serde passes the field")]
    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(s)
    }

    pub(crate) fn deserialize<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| text.parse().map_err(de::Error::custom))
            .transpose()
    }
}

/// Serde for an amount of memory: its bytes.
pub(crate) mod optional_bytes {
    use super::{Bytes, Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes the field")]
    pub(crate) fn serialize<S: Serializer>(bytes: &Option<Bytes>, s: S) -> Result<S::Ok, S::Error> {
        bytes.map(|Bytes(bytes)| bytes).serialize(s)
    }

    pub(crate) fn deserialize<'de, D>(d: D) -> Result<Option<Bytes>, D::Error>
    where
        D: Deserializer<'de>,
    {
        Ok(Option::<u64>::deserialize(d)?.map(Bytes))
    }
}

/// Serde for a time slice, by the name that users write.
pub(crate) mod optional_interval {
    use super::{Deserialize, Deserializer, Interval, Serialize, Serializer, de};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes the field"
    )]
    pub(crate) fn serialize<S: Serializer>(
        interval: &Option<Interval>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        interval.map(Interval::as_str).serialize(s)
    }

    pub(crate) fn deserialize<'de, D>(d: D) -> Result<Option<Interval>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let name = Option::<String>::deserialize(d)?;
        let known = |name: String| {
            let unknown = || de::Error::custom(format!("unknown time slice {name:?}"));
            Interval::named(&name).ok_or_else(unknown)
        };
        name.map(known).transpose()
    }
}

/// Serde for a part of a GPU, so that the device crate need not know serde.
pub(crate) mod placement {
    use super::{Deserialize, Deserializer, Placement, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Slices {
        start: u8,
        size: u8,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field")]
    pub(crate) fn serialize<S: Serializer>(place: &Placement, s: S) -> Result<S::Ok, S::Error> {
        let Placement { start, size } = *place;
        Slices { start, size }.serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Placement, D::Error> {
        let Slices { start, size } = Slices::deserialize(d)?;
        Ok(Placement { start, size })
    }
}

pub(crate) mod part {
    use super::{Deserialize, Deserializer, Part, Placement, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slices {
        start: u8,
        size: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compute_instance: Option<u8>,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field")]
    pub(crate) fn serialize<S: Serializer>(part: &Part, s: S) -> Result<S::Ok, S::Error> {
        let Part {
            placement: Placement { start, size },
            compute_instance,
        } = *part;
        let slices = Slices {
            start,
            size,
            compute_instance,
        };
        slices.serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Part, D::Error> {
        let Slices {
            start,
            size,
            compute_instance,
        } = Slices::deserialize(d)?;
        Ok(Part {
            placement: Placement { start, size },
            compute_instance,
        })
    }
}
