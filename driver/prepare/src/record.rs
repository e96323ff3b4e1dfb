//! What the journal keeps of one claim, and its bytes.
//!
//! # Guarantees
//! A record decodes to exactly what was encoded, or to an error that says what is wrong with it;
//! it never decodes to something else. Fields that a newer version added within one format number
//! are kept through a rewrite by this one. Which file a record lies in is not its business.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use tessera_claim::ClaimRef;
use tessera_device::mig::{Part, Placement};
use tessera_device::{DeviceName, GpuUuid, MigUuid};
use thiserror::Error;

use crate::cdi::{self, CdiKind};
use crate::share::Share;
use crate::step::{Done, Effect, MigDevice, MigIdentity, Step};

/// The newest format of records that this version reads and writes.
///
/// A field that old versions may ignore needs no new format: they keep it. The number rises when
/// an old version that ignored something would do harm. Each record is written in the lowest format
/// that says all of it, so that versions which know nothing of a feature read the records that do not
/// use it.
pub const FORMAT: u32 = VIEWS_FORMAT;

/// Format of records of whole GPUs.
const FIRST_FORMAT: u32 = 1;

/// Format of records with MIG devices: a version that took their view for that of a GPU would give the
/// rest of the GPU to nobody, or all of it to somebody.
const MIG_FORMAT: u32 = 2;

/// Format of records with shares, or with MIG devices that the driver has made: a version that knew nothing
/// of them would give the rest of the device to nobody, or all of it to somebody; or leave them behind.
const VIEWS_FORMAT: u32 = 3;

/// First word of every record.
const MAGIC: &str = "tessera-record";

/// The boot in which something was done (`/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

/// How far a claim's preparation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// The intent is recorded; any of the effects may or may not have happened.
    Preparing,
    /// Every effect has happened. Only now has the kubelet been told of success.
    Prepared,
    /// The kubelet has been told that it is unprepared, and something is left that cannot be taken
    /// back: its GPUs are not handed out in this state.
    Released,
}

/// How a claim uses a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum View {
    /// All of it, alone.
    Whole,
    /// A part of it: a MIG device, which may be there already or be about to be made.
    #[serde(with = "part")]
    Part(Part),
    /// A share of it, or of a MIG device of it, beside others who have shares.
    Share(Share),
    /// What was allocated, beside whoever else uses it: admin access, which counts against nobody.
    Admin,
}

impl View {
    /// Whether two claims with these views of one GPU are in each other's way.
    pub fn excludes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Admin, _) | (_, Self::Admin) => false,
            // Shares of one device are not in each other's way as long as there is room for all.
            (Self::Share(one), Self::Share(other)) if one.of == other.of => false,
            _ => match (self.part(), other.part()) {
                (Some(one), Some(other)) => one.overlaps(other),
                (None, _) | (_, None) => true,
            },
        }
    }

    /// The part of the GPU that is used. `None`: all of it.
    fn part(self) -> Option<Part> {
        match self {
            Self::Part(part) => Some(part),
            Self::Share(share) => share.of,
            Self::Whole | Self::Admin => None,
        }
    }
}

/// One prepared device: what the kubelet is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedDevice {
    /// Request of the claim that it serves, without a sub-request.
    pub request: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    #[serde(with = "text")]
    pub device: DeviceName,
    /// Which share of it, where it is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<String>,
    /// The GPU behind it.
    #[serde(with = "text")]
    pub gpu: GpuUuid,
    /// How the claim uses that GPU.
    pub view: View,
    /// The MIG device of the GPU, where it is one.
    #[serde(
        default,
        with = "optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub instance: Option<MigUuid>,
    /// CDI device for the container runtime, `vendor/class=name`.
    pub cdi_id: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What a record keeps of one device. Each driver of ours has devices of its own.
pub trait RecordedDevice:
    Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// What the driver's devices can be, as metrics call it: the values of their attribute `type`.
    const TYPES: &'static [&'static str];

    /// Its name in its pool.
    fn device(&self) -> &DeviceName;
    /// CDI device for the container runtime, `vendor/class=name`.
    fn cdi_id(&self) -> &str;
    /// Which share of the device it is, where that is shared.
    fn share_id(&self) -> Option<&str>;
    /// Which of [`Self::TYPES`] it is.
    fn device_type(&self) -> &'static str;
    /// The lowest format of records that says all of it.
    fn format(&self) -> u32 {
        FIRST_FORMAT
    }
}

impl RecordedDevice for PreparedDevice {
    const TYPES: &'static [&'static str] = &["gpu", "mig"];

    fn device(&self) -> &DeviceName {
        &self.device
    }

    fn cdi_id(&self) -> &str {
        &self.cdi_id
    }

    fn share_id(&self) -> Option<&str> {
        self.share_id.as_deref()
    }

    fn device_type(&self) -> &'static str {
        match (&self.instance, self.view) {
            (Some(_), _) | (None, View::Part(_)) => "mig",
            (None, View::Whole | View::Share(_) | View::Admin) => "gpu",
        }
    }

    fn format(&self) -> u32 {
        let is_mig = self.instance.is_some() || matches!(self.view, View::Part(_));
        match self.view {
            View::Share(_) => VIEWS_FORMAT,
            View::Whole | View::Part(_) | View::Admin if is_mig => MIG_FORMAT,
            View::Whole | View::Part(_) | View::Admin => FIRST_FORMAT,
        }
    }
}

/// The journal's record of a claim for GPUs.
pub type Record = RecordOf<PreparedDevice>;

/// The journal's record of one claim, whose devices are of this kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordOf<D> {
    /// Boot in which it was written. The effects of another boot are gone.
    pub boot: BootId,
    /// The claim, with the name under which to ask the API about it.
    pub claim: ClaimRef,
    /// How far it has come.
    pub phase: Phase,
    /// Its devices.
    pub devices: Vec<D>,
    /// What was, or is about to be, done for it, in order.
    pub effects: Vec<Effect>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Bytes that are no record that this version can use.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The first line is not that of a record.
    #[error("the first line is not that of a record")]
    Header,
    /// Written by a newer version.
    #[error("written in format {found}, newer than {FORMAT}; run the version that wrote it")]
    NewerFormat {
        /// Format number in the record.
        found: u32,
    },
    /// Shorter or longer than when it was written.
    #[error("{found} bytes long instead of {expected}")]
    Length {
        /// Length when written.
        expected: usize,
        /// Length now.
        found: usize,
    },
    /// Changed since it was written.
    #[error("the checksum is {found:08x} instead of {expected:08x}")]
    Checksum {
        /// Checksum when written.
        expected: u32,
        /// Checksum of the bytes now.
        found: u32,
    },
    /// Intact, but not what this version understands.
    #[error("the contents are not those of a record")]
    Body(#[source] serde_json::Error),
}

impl<D: RecordedDevice> RecordOf<D> {
    /// The bytes to write: a line with format, checksum and length of the rest, then JSON.
    ///
    /// The checksum is over the bytes as written, not over values read back, so that a version
    /// with other fields still agrees with it.
    pub fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_vec_pretty(self)
            .expect("a record is strings and lists under string keys, which JSON can always hold");
        let sum = crc32fast::hash(&body);
        let format = self.format();
        let mut bytes = format!("{MAGIC} {format} {sum:08x} {}\n", body.len()).into_bytes();
        bytes.extend(body);
        bytes
    }

    /// The lowest format that says all of it.
    fn format(&self) -> u32 {
        let formats = self.devices.iter().map(RecordedDevice::format);
        let made = self.made().next().map(|_| VIEWS_FORMAT);
        formats.chain(made).max().unwrap_or(FIRST_FORMAT)
    }

    /// Whether its claim is prepared, and that in this boot: the effects of another are gone.
    pub fn is_prepared_in(&self, boot: &BootId) -> bool {
        self.phase == Phase::Prepared && self.boot == *boot
    }

    /// What its GPUs are left with when everything is taken back that can be.
    pub fn foreign(&self) -> impl Iterator<Item = &str> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Foreign { what } => Some(what.as_str()),
            Effect::CdiFile { .. } | Effect::MigDevice(_) => None,
        })
    }

    /// The MIG devices that were made for it, or are about to be.
    pub fn made(&self) -> impl Iterator<Item = &MigDevice> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::MigDevice(device) => Some(device),
            Effect::CdiFile { .. } | Effect::Foreign { .. } => None,
        })
    }

    /// Puts down what came of a step. Returns whether there was anything to put down.
    pub fn learn(&mut self, step: &Step, done: &Done) -> bool {
        let (Step::CreateMig(planned), Done::Created(instance)) = (step, done) else {
            return false;
        };
        let effects = self.effects.iter_mut();
        let mut intents = effects.filter_map(|effect| match effect {
            Effect::MigDevice(device) => Some(device),
            Effect::CdiFile { .. } | Effect::Foreign { .. } => None,
        });
        let Some(intent) = intents.find(|device| *device == planned) else {
            return false;
        };
        intent.identity = Some(MigIdentity::of(instance));
        true
    }

    /// The record to keep once everything is taken back that can be: none, if that is all.
    pub fn remains(&self) -> Option<Self> {
        self.foreign().next()?;
        let mut remains = self.clone();
        remains.phase = Phase::Released;
        remains.effects.retain(|effect| effect.undo().is_none());
        Some(remains)
    }

    /// Whether it is a record of the driver whose CDI devices are of this kind.
    pub fn is_of(&self, kind: &CdiKind) -> bool {
        let is_named = |device: &D, share| {
            let name = cdi::device_id(kind, &self.claim.uid, device.device(), share);
            device.cdi_id() == name
        };
        // The reference driver does not tell shares apart by name.
        self.devices
            .iter()
            .all(|device| is_named(device, device.share_id()) || is_named(device, None))
    }

    /// Reads a record back.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (header, body) = split_header(bytes).ok_or(RecordError::Header)?;
        if header.format > FORMAT {
            return Err(RecordError::NewerFormat {
                found: header.format,
            });
        }
        if header.length != body.len() {
            return Err(RecordError::Length {
                expected: header.length,
                found: body.len(),
            });
        }
        let found = crc32fast::hash(body);
        if header.sum != found {
            return Err(RecordError::Checksum {
                expected: header.sum,
                found,
            });
        }
        serde_json::from_slice(body).map_err(RecordError::Body)
    }
}

struct Header {
    format: u32,
    sum: u32,
    length: usize,
}

fn split_header(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut words = line.split(' ');
    if words.next()? != MAGIC {
        return None;
    }
    let header = Header {
        format: words.next()?.parse().ok()?,
        sum: u32::from_str_radix(words.next()?, 16).ok()?,
        length: words.next()?.parse().ok()?,
    };
    words
        .next()
        .is_none()
        .then_some((header, &bytes[end + 1..]))
}

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
mod optional_text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serialize, Serializer, de, fmt};

    #[expect(clippy::ref_option, reason = "serde passes the field")]
    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(s)
    }

    pub(super) fn deserialize<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(d)?;
        text.map(|text| text.parse().map_err(de::Error::custom))
            .transpose()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{mig_record, record, share_record};

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let record = record("a", &[0, 3]);
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }

    #[test]
    fn only_a_record_with_mig_devices_is_of_a_format_that_older_versions_refuse() {
        let header = |record: &Record| {
            let bytes = record.encode();
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            String::from_utf8(bytes[..end].to_vec()).unwrap()
        };
        let whole = record("a", &[0]);
        assert!(header(&whole).starts_with("tessera-record 1 "));
        let parts = mig_record("a", 0, &["1g.10gb", "3g.40gb"]);
        assert!(header(&parts).starts_with("tessera-record 2 "));
        assert_eq!(Record::decode(&parts.encode()).unwrap(), parts);
        let mut watched = mig_record("a", 0, &["1g.10gb"]);
        watched.devices[0].view = View::Admin;
        assert!(header(&watched).starts_with("tessera-record 2 "));
        assert_eq!(Record::decode(&watched.encode()).unwrap(), watched);
    }

    #[test]
    fn a_share_is_of_a_format_that_older_versions_refuse_and_reads_back_as_it_was() {
        let of_gpu = share_record("a", 1, &[("s1", 20), ("s2", 5)]);
        assert!(of_gpu.encode().starts_with(b"tessera-record 3 "));
        assert_eq!(Record::decode(&of_gpu.encode()).unwrap(), of_gpu);
        let value = serde_json::to_value(&of_gpu.devices[0]).unwrap();
        let share = json!({"memory": 20_u64 << 30, "computeShare": 0, "shares": 1});
        assert_eq!(value["view"], json!({"share": share}));

        let mut of_part = mig_record("a", 1, &["3g.40gb"]);
        let View::Part(part) = of_part.devices[0].view else {
            panic!("{of_part:?}")
        };
        let View::Share(share) = of_gpu.devices[0].view else {
            panic!("{of_gpu:?}")
        };
        let share = Share {
            of: Some(part),
            ..share
        };
        of_part.devices[0].view = View::Share(share);
        let read = Record::decode(&of_part.encode()).unwrap();
        assert_eq!(read, of_part);
        let value = serde_json::to_value(&read.devices[0]).unwrap();
        assert_eq!(
            value["view"]["share"]["part"],
            json!({"start": 0, "size": 4})
        );
    }

    #[test]
    fn shares_of_one_device_go_together_and_exclude_all_other_uses_of_its_place() {
        let amounts = tessera_sharing::Part::default();
        let part = |start| Part {
            placement: Placement { start, size: 4 },
            compute_instance: None,
        };
        let share = |of| View::Share(Share { of, amounts });
        let (gpu, low, high) = (share(None), share(Some(part(0))), share(Some(part(4))));
        for (one, other, expected) in [
            (gpu, gpu, false),
            (low, low, false),
            (low, high, false),
            (gpu, View::Whole, true),
            (gpu, View::Part(part(0)), true),
            (gpu, low, true),
            (low, View::Whole, true),
            (low, View::Part(part(0)), true),
            (low, View::Part(part(4)), false),
            (gpu, View::Admin, false),
            (low, View::Admin, false),
        ] {
            assert_eq!(one.excludes(other), expected, "{one:?} {other:?}");
            assert_eq!(other.excludes(one), expected, "{other:?} {one:?}");
        }
    }

    #[test]
    fn a_part_of_a_gpu_is_written_by_its_slices() {
        let parts = mig_record("a", 1, &["3g.40gb"]);
        let value = serde_json::to_value(&parts.devices[0]).unwrap();
        assert_eq!(value["view"], json!({"part": {"start": 0, "size": 4}}));
        assert_eq!(
            value["instance"],
            json!("MIG-00000001-0000-0000-0000-000000000000")
        );
        let whole = serde_json::to_value(&record("a", &[1]).devices[0]).unwrap();
        assert_eq!(whole["view"], json!("whole"));
        assert_eq!(whole.get("instance"), None);
    }

    #[test]
    fn fields_of_a_newer_version_survive_a_rewrite() {
        let mut value = serde_json::to_value(record("a", &[0])).unwrap();
        value["swap"] = json!({"policy": "host"});
        value["devices"][0]["tier"] = json!("native");
        let read: Record = serde_json::from_value(value.clone()).unwrap();
        let rewritten = Record::decode(&read.encode()).unwrap();
        assert_eq!(serde_json::to_value(rewritten).unwrap(), value);
    }

    #[test]
    fn a_record_of_a_newer_format_is_refused_as_such_and_not_as_damage() {
        let text = String::from_utf8(record("a", &[0]).encode()).unwrap();
        let newer = text.replacen("tessera-record 1 ", "tessera-record 9 ", 1);
        let error = Record::decode(newer.as_bytes()).unwrap_err();
        assert!(
            matches!(error, RecordError::NewerFormat { found: 9 }),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_taken_back_is_all_that_remains_of_a_record() {
        let mut taken = record("a", &[0]);
        assert_eq!(taken.remains(), None);
        let what = "a MIG device".to_owned();
        taken.effects.push(Effect::Foreign { what });
        let remains = taken.remains().unwrap();
        assert_eq!(remains.phase, Phase::Released);
        assert_eq!(remains.effects, taken.effects[1..]);
        assert_eq!(remains.remains(), Some(remains.clone()));
        assert_eq!(Record::decode(&remains.encode()).unwrap(), remains);
    }

    proptest! {
        #[test]
        fn no_changed_or_cut_record_reads_as_another(at: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index) {
            let whole = record("a", &[0, 1]);
            let bytes = whole.encode();
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= flip;
            if let Ok(read) = Record::decode(&changed) {
                // Only the spelling of the checksum's hexadecimal digits is free.
                prop_assert_eq!(read, whole);
            }
            prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn no_bytes_panic_the_reader(bytes: Vec<u8>) {
            let _ = Record::decode(&bytes);
        }
    }
}
