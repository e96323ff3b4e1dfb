//! What the journal keeps of one claim, and its bytes.
//!
//! # Guarantees
//! A record decodes to exactly what was encoded, or to an error that says what is wrong with it;
//! it never decodes to something else. Fields that a newer version added within one format number
//! are kept through a rewrite by this one. Which file a record lies in is not its business.

mod fields;

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tessera_api::Interval;
use tessera_claim::ClaimRef;
use tessera_device::mig::Part;
use tessera_device::{Bytes, DeviceName, GpuUuid, MigUuid};
use thiserror::Error;

use self::fields::{optional_bytes, optional_interval, optional_text};
pub(crate) use self::fields::{part, placement, text};
use crate::cdi::{self, CdiKind};
use crate::share::Share;
use crate::step::{Done, Effect, MigDevice, MigIdentity, Step};

/// The newest format of records that this version reads and writes.
///
/// A field that old versions may ignore needs no new format: they keep it. The number rises when
/// an old version that ignored something would do harm. Each record is written in the lowest format
/// that says all of it, so that versions which know nothing of a feature read the records that do not
/// use it.
pub const FORMAT: u32 = RANGES_FORMAT;

/// Format of records of whole GPUs.
const FIRST_FORMAT: u32 = 1;

/// Format of records with MIG devices: a version that took their view for that of a GPU would give the
/// rest of the GPU to nobody, or all of it to somebody.
const MIG_FORMAT: u32 = 2;

/// Format of records with shares, or with MIG devices that the driver has made: a version that knew nothing
/// of them would give the rest of the device to nobody, or all of it to somebody; or leave them behind.
const VIEWS_FORMAT: u32 = 3;

/// Format of records with shares that are held to their memory: a version that knew nothing of limits would make
/// their CDI specs anew without them.
const LIMITS_FORMAT: u32 = 4;

/// Format of records with shares that may grow: a version that knew nothing of that would start containers beside one
/// that has what they are guaranteed.
const RANGES_FORMAT: u32 = 5;

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
    /// The time slice that the claim wants the GPU to have, before it is set. Versions that do not know it
    /// leave the GPU as it is set.
    #[serde(
        default,
        with = "optional_interval",
        skip_serializing_if = "Option::is_none"
    )]
    pub time_slice: Option<Interval>,
    /// The memory that its containers always have of the GPU, where the driver is told before one starts to let them have
    /// that. They have no more, but for [`memory_ceiling`](Self::memory_ceiling).
    #[serde(
        default,
        with = "optional_bytes",
        skip_serializing_if = "Option::is_none"
    )]
    pub memory_limit: Option<Bytes>,
    /// How far they may grow, where that is further.
    #[serde(
        default,
        with = "optional_bytes",
        skip_serializing_if = "Option::is_none"
    )]
    pub memory_ceiling: Option<Bytes>,
    /// CDI device for the container runtime, `vendor/class=name`.
    pub cdi_id: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What a record keeps of one device. Each driver of ours has devices of its own.
pub trait RecordedDevice:
    Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
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
    /// The GPU whose time slice the claim wants to be set, and to what.
    fn time_slice(&self) -> Option<(&GpuUuid, Interval)> {
        None
    }
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

    fn time_slice(&self) -> Option<(&GpuUuid, Interval)> {
        Some((&self.gpu, self.time_slice?))
    }

    fn format(&self) -> u32 {
        let is_mig = self.instance.is_some() || matches!(self.view, View::Part(_));
        match self.view {
            _ if self.memory_ceiling.is_some() => RANGES_FORMAT,
            _ if self.memory_limit.is_some() => LIMITS_FORMAT,
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

    /// Whether it says no more than that CDI specs are about to be written: no container can have anything of it yet, and
    /// each spec tells its claim by its name.
    pub fn is_mere_intent(&self) -> bool {
        let sets = |device: &D| device.time_slice().is_some();
        let is_file = |effect: &Effect| matches!(effect, Effect::CdiFile { .. });
        self.phase == Phase::Preparing
            && self.effects.iter().all(is_file)
            && !self.devices.iter().any(sets)
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

#[cfg(test)]
mod tests;
