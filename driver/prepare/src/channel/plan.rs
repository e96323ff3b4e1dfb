//! From granted channels to the record and the steps that prepare them, and back from what was made.
//!
//! A channel's device node is named by its numbers and not by a node of the host: nobody has to make
//! that, and the major number is the one of this moment. The spec sets no `NVIDIA_VISIBLE_DEVICES`,
//! unlike one for GPUs: the pod's GPUs may come from the classic device plugin by that very variable.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tessera_claim::{ClaimRef, ClaimUid};

use super::admit::Admitted;
use super::{
    ChannelPlan, ChannelRecord, ChannelRefusal, Channels, DomainUid, Granted, ImexChannels,
    PreparedChannel, UnreadableChannel, pool_of,
};
use crate::cdi::{self, CdiKind, ContainerEdits, Device, DeviceNode, NodeNumbers, Spec};
use crate::plan::PlanOf;
use crate::record::{BootId, Phase, RecordOf};
use crate::standing::Standing;
use crate::step::{Effect, Step};
use crate::upkeep::nameless;

/// Where NVIDIA's libraries look for channels (`nvidia-modprobe`'s path).
const FOLDER: &str = "/dev/nvidia-caps-imex-channels";

/// The variable by which a container, and whoever reads the spec, learns of the domain.
const DOMAIN: &str = "COMPUTE_DOMAIN_UUID";

/// Mode of a channel's node: everybody in the container may use it, as with the reference driver.
const MODE: u32 = 0o666;

/// The most channels that one spec lists. A node of the default configuration has 2,048; each takes
/// some 150 bytes, and the container runtime reads all of them at every start.
const MOST_CHANNELS: u32 = 8192;

/// Plans the preparation of channels that have been admitted.
///
/// `node` is what the kernel says of channels, and `in_clique` whether the node is part of a fabric
/// between nodes. Where it is not, a claim is prepared without a channel if there are none: its domain
/// is this node alone.
pub fn plan<G>(
    admitted: &Admitted<'_, G>,
    node: Option<ImexChannels>,
    in_clique: bool,
    kind: &CdiKind,
    boot: &BootId,
) -> Result<ChannelPlan, ChannelRefusal> {
    let Admitted { claim, devices, .. } = admitted;
    for device in devices {
        check(claim, device, node, in_clique)?;
    }
    let devices: Vec<PreparedChannel> = devices
        .iter()
        .map(|device| prepared(claim, device, kind))
        .collect();
    let steps = vec![write_cdi(claim, &devices, node, kind)];
    let record = RecordOf {
        boot: boot.clone(),
        claim: claim.clone(),
        phase: Phase::Preparing,
        devices,
        effects: steps.iter().filter_map(Step::effect).collect(),
        unknown: Map::new(),
    };
    Ok(PlanOf { record, steps })
}

/// Plans the effects of a claim that is prepared anew. It is in use, so nothing is taken back.
pub fn restore(record: &ChannelRecord, node: Option<ImexChannels>, kind: &CdiKind) -> ChannelPlan {
    let steps = vec![write_cdi(&record.claim, &record.devices, node, kind)];
    let effects = steps.iter().filter_map(Step::effect).collect();
    let record = RecordOf {
        effects,
        ..record.clone()
    };
    PlanOf { record, steps }
}

/// Compares the record of a claim with what is to be prepared now.
pub fn standing(record: Option<&ChannelRecord>, devices: &[Granted], boot: &BootId) -> Standing {
    let Some(record) = record else {
        return Standing::New;
    };
    let serves = |(prepared, granted): (&PreparedChannel, &Granted)| {
        prepared.pool == granted.allocated.pool
            && prepared.device == granted.allocated.device
            && prepared.request == granted.allocated.request
            && prepared.share_id == granted.allocated.share_id
            && prepared.domain == granted.domain
            && prepared.channels == granted.channels
    };
    let same =
        record.devices.len() == devices.len() && record.devices.iter().zip(devices).all(serves);
    if same && record.is_prepared_in(boot) {
        Standing::Prepared
    } else {
        Standing::Leftover
    }
}

/// Whether the channels of a spec have the major number of this moment, or the bytes are no spec that
/// says so. A container that is started anew under another number would get no channel.
pub fn is_current(spec: &[u8], node: Option<ImexChannels>) -> bool {
    let Some(node) = node else {
        // Nothing better can be written.
        return true;
    };
    let Ok(spec) = serde_json::from_slice::<Value>(spec) else {
        return true;
    };
    let devices = spec["devices"].as_array().into_iter().flatten();
    let mut nodes = devices.flat_map(|device| {
        let nodes = device["containerEdits"]["deviceNodes"].as_array();
        nodes.into_iter().flatten()
    });
    nodes.all(|found| found["major"] == node.major)
}

/// The record of a claim whose own cannot be read: its copy, or what its CDI spec tells. `None` if
/// neither does: then the claim may hold any channel.
pub fn account(
    unreadable: &UnreadableChannel,
    spec: Option<&[u8]>,
    kind: &CdiKind,
    pool: &str,
    boot: &BootId,
) -> Option<ChannelRecord> {
    let from_spec = || rebuild(&unreadable.claim, spec?, kind, pool, boot);
    unreadable.copy.clone().or_else(from_spec)
}

fn rebuild(
    claim: &ClaimUid,
    spec: &[u8],
    kind: &CdiKind,
    pool: &str,
    boot: &BootId,
) -> Option<ChannelRecord> {
    let names = cdi::claimed_devices(spec, claim)?;
    let parsed: Value = serde_json::from_slice(spec).ok()?;
    let entries = parsed["devices"].as_array()?;
    let device = |(claimed, entry): (cdi::ClaimedDevice, &Value)| {
        let cdi::ClaimedDevice {
            device: name,
            share_id: None,
        } = claimed
        else {
            return None;
        };
        let edits = &entry["containerEdits"];
        let domain = domain_of(edits)?;
        let is_slot = name.as_str().starts_with("slot-");
        Some(PreparedChannel {
            request: String::new(),
            pool: if is_slot {
                pool_of(&domain)
            } else {
                pool.to_owned()
            },
            share_id: None,
            channels: channels_of(edits)?,
            cdi_id: cdi::device_id(kind, claim, &name, None),
            device: name,
            domain,
            unknown: Map::new(),
        })
    };
    let devices = names.into_iter().zip(entries).map(device);
    Some(RecordOf {
        boot: boot.clone(),
        claim: nameless(claim),
        phase: Phase::Prepared,
        devices: devices.collect::<Option<Vec<_>>>()?,
        effects: vec![Effect::CdiFile {
            file: cdi::file_name(kind, claim),
            crc32: crc32fast::hash(spec),
        }],
        unknown: Map::new(),
    })
}

fn domain_of(edits: &Value) -> Option<DomainUid> {
    let mut variables = edits["env"].as_array()?.iter().filter_map(Value::as_str);
    variables.find_map(|variable| {
        variable
            .strip_prefix(DOMAIN)?
            .strip_prefix('=')?
            .parse()
            .ok()
    })
}

/// One node is one channel; any other number of them is counted as all, which is the safe assumption.
fn channels_of(edits: &Value) -> Option<Channels> {
    let nodes = edits["deviceNodes"].as_array();
    match nodes.map(Vec::as_slice) {
        Some([node]) => {
            let minor = node["minor"].as_u64()?;
            Some(Channels::One(u32::try_from(minor).ok()?))
        }
        Some(_) | None => Some(Channels::All),
    }
}

fn check(
    claim: &ClaimRef,
    device: &Granted,
    node: Option<ImexChannels>,
    in_clique: bool,
) -> Result<(), ChannelRefusal> {
    let missing = |why: String| ChannelRefusal::Missing {
        claim: claim.clone(),
        device: device.allocated.device.clone(),
        why,
    };
    match (node, device.channels) {
        (None, _) if in_clique => Err(missing(
            "the NVIDIA driver of this node has no IMEX channels, although its GPUs are part of an NVLink \
             fabric: load the nvidia module with NVreg_ImexChannelCount above 0"
                .to_owned(),
        )),
        (Some(ImexChannels { count, .. }), Channels::One(number)) if number >= count => {
            Err(missing(format!(
                "its domain has IMEX channel {number}, and this node has {count} of them, from 0: all \
                 nodes of an NVLink fabric need the same NVreg_ImexChannelCount"
            )))
        }
        (Some(ImexChannels { count, .. }), Channels::All) if count > MOST_CHANNELS => {
            Err(missing(format!(
                "allocationMode All would give it {count} IMEX channels, and {MOST_CHANNELS} is the most: \
                 use allocationMode Single"
            )))
        }
        (_, _) => Ok(()),
    }
}

fn prepared(claim: &ClaimRef, granted: &Granted, kind: &CdiKind) -> PreparedChannel {
    let allocated = granted.allocated.clone();
    PreparedChannel {
        request: allocated.request,
        pool: allocated.pool,
        share_id: allocated.share_id,
        domain: granted.domain.clone(),
        channels: granted.channels,
        cdi_id: cdi::device_id(kind, &claim.uid, &allocated.device, None),
        device: allocated.device,
        unknown: Map::new(),
    }
}

fn write_cdi(
    claim: &ClaimRef,
    devices: &[PreparedChannel],
    node: Option<ImexChannels>,
    kind: &CdiKind,
) -> Step {
    let devices = devices
        .iter()
        .map(|device| Device {
            name: cdi::device_name(&claim.uid, &device.device, None),
            annotations: BTreeMap::new(),
            container_edits: edits(device, node),
        })
        .collect();
    Step::WriteCdi {
        file: cdi::file_name(kind, &claim.uid),
        contents: Spec::new(kind, devices, ContainerEdits::default()).to_json(),
    }
}

fn edits(device: &PreparedChannel, node: Option<ImexChannels>) -> ContainerEdits {
    let nodes = node.into_iter().flat_map(|node| {
        let numbers = match device.channels {
            Channels::One(number) => number..number.saturating_add(1),
            Channels::All => 0..node.count,
        };
        numbers.map(move |number| channel(node.major, number))
    });
    ContainerEdits {
        env: vec![format!("{DOMAIN}={}", device.domain)],
        device_nodes: nodes.collect(),
        ..ContainerEdits::default()
    }
}

fn channel(major: u32, number: u32) -> DeviceNode {
    let numbers = NodeNumbers {
        major,
        minor: number,
        mode: Some(MODE),
    };
    DeviceNode::of_numbers(format!("{FOLDER}/channel{number}"), numbers)
}

#[cfg(test)]
mod tests;
