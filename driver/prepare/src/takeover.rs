//! What becomes of the claims that the reference driver has prepared on a node, once this driver takes
//! the node over.
//!
//! The kubelet knows a prepared claim by the names of its CDI devices, and has containers started by
//! them again at any time. Those names are the same here ([`cdi::device_id`](crate::cdi::device_id)),
//! and the specs stay where they are: so a claim is taken over by a record alone, whose effect is the
//! spec that is there, and neither its pod nor the kubelet sees anything of it.
//!
//! Of a MIG device the checkpoint names the UUID and not the place: that is for the driver to say, and
//! where it does not, the claim has the whole GPU until it ends. Whether the reference found the device
//! or made it for the claim is not told either. So none is destroyed for a claim that was taken over:
//! it is offered as it is afterwards, or, where this driver cuts the GPUs, is one that nobody owns.
//!
//! # Guarantees
//! What a claim holds by the checkpoint is given to no other. Where it cannot be said what that is, no
//! GPU is given to a new claim until the kubelet has that one unprepared. A function of its inputs:
//! whoever is interrupted while carrying it out does it again and ends where he would have.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Map;
use tessera_claim::{ClaimRef, ClaimUid, Consumed};
use tessera_device::mig::{MigInstance, Part};
use tessera_device::{DeviceName, GpuUuid, Inventory, MigUuid};

use crate::cdi::{self, CdiKind};
use crate::checkpoint::{
    AllocatedResult, Checkpoint, CheckpointedClaim, CheckpointedDevice, DeviceKind,
};
use crate::record::{BootId, Phase, PreparedDevice, Record, View};
use crate::share::Share;
use crate::step::Effect;
use crate::upkeep::{FoundSpec, nameless};

/// What is to be done to take a node over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// What becomes of each claim.
    pub claims: Vec<Taken>,
    /// Specs of the reference driver that belong to no claim: it does not remove all that it leaves.
    pub stale_specs: Vec<String>,
    /// Whether the claims were prepared in a former boot, with which all that is prepared ends.
    pub former_boot: bool,
}

/// What becomes of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its UID as the checkpoint has it.
    pub uid: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is prepared, and this driver can do with it whatever it does with its own.
    TakenOver(Record),
    /// It is prepared with something that this driver can neither make nor take back. Its GPUs are
    /// held.
    Held(Record),
    /// Its preparation had begun. The record names what may be left of that, if anything is.
    Begun(Option<Record>),
    /// It cannot be said what it holds.
    Unaccounted {
        /// The claim.
        claim: ClaimUid,
        /// Why not.
        why: String,
    },
    /// No claim can have this UID, so nobody can ever ask about it.
    Impossible,
}

impl Fate {
    /// Every label that there is.
    pub const LABELS: [&str; 5] = ["taken_over", "held", "begun", "unaccounted", "impossible"];

    /// The label of a metric.
    pub fn label(&self) -> &'static str {
        let [taken_over, held, begun, unaccounted, impossible] = Self::LABELS;
        match self {
            Self::TakenOver(_) => taken_over,
            Self::Held(_) => held,
            Self::Begun(_) => begun,
            Self::Unaccounted { .. } => unaccounted,
            Self::Impossible => impossible,
        }
    }

    /// The record to write, if there is one.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::TakenOver(record) | Self::Held(record) => Some(record),
            Self::Begun(record) => record.as_ref(),
            Self::Unaccounted { .. } | Self::Impossible => None,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakenOver(_) => f.write_str("taken over with all that was prepared for it"),
            Self::Held(record) => write!(
                f,
                "its GPUs are held until it is unprepared, and after that until the node is cleaned \
                 up, because only the driver that prepared it can take back {}",
                record.foreign().collect::<Vec<_>>().join(" and ")
            ),
            Self::Begun(_) => f.write_str("its preparation begins anew when the kubelet asks"),
            Self::Unaccounted { why, .. } => write!(
                f,
                "unless its CDI spec names its GPUs, no GPU is given to a new claim until it is \
                 unprepared, because the checkpoint does not tell what it holds: {why}"
            ),
            Self::Impossible => f.write_str("passed over: no claim can have this UID"),
        }
    }
}

/// How it went, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What became of the claims, or why the checkpoint cannot be read.
    pub outcome: Result<Takeover, String>,
    /// Where the checkpoint is kept.
    pub kept: String,
}

impl Report {
    /// Whether somebody should look.
    pub fn is_warning(&self) -> bool {
        let is_whole = |taken: &Taken| matches!(taken.fate, Fate::TakenOver(_) | Fate::Begun(_));
        !self
            .outcome
            .as_ref()
            .is_ok_and(|takeover| takeover.claims.iter().all(is_whole))
    }

    /// Whether there was anything to take over.
    pub fn is_news(&self) -> bool {
        !self
            .outcome
            .as_ref()
            .is_ok_and(|takeover| takeover.claims.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Err(why) => write!(
                f,
                "the checkpoint of the reference driver cannot be read, so that its claims are known \
                 by their CDI specs alone: {why}"
            ),
            Ok(Takeover {
                former_boot: true, ..
            }) => f.write_str("the checkpoint of the reference driver is of a former boot"),
            Ok(Takeover { claims, .. }) => {
                write!(
                    f,
                    "{} claims of the reference driver were taken over",
                    claims.len()
                )?;
                for label in Fate::LABELS {
                    let count = claims.iter().filter(|it| it.fate.label() == label).count();
                    if count > 0 {
                        write!(f, ", {label} {count}")?;
                    }
                }
                Ok(())
            }
        }?;
        write!(
            f,
            "; its checkpoint is kept as {}, and the log names each claim",
            self.kept
        )
    }
}

/// The node that is taken over.
#[derive(Clone, Copy, Debug)]
pub struct Successor<'a> {
    /// Name of the driver.
    pub driver: &'a str,
    /// Kind of its CDI devices.
    pub kind: &'a CdiKind,
    /// The present boot.
    pub boot: &'a BootId,
    /// Its GPUs, if the NVIDIA driver has told of them.
    pub inventory: Option<&'a Inventory>,
}

impl Successor<'_> {
    /// Decides what becomes of each claim of the checkpoint, and of the specs of the reference driver
    /// that are there. `is_recorded` says of which claims there is a record already.
    ///
    /// A checkpoint that does not say of which boot it is counts as one of this boot, as the reference
    /// has it: what is held for nothing is let go when the kubelet asks.
    pub fn take_over(
        self,
        checkpoint: &Checkpoint,
        specs: &BTreeMap<ClaimUid, FoundSpec>,
        is_recorded: impl Fn(&ClaimUid) -> bool,
    ) -> Takeover {
        let former_boot = checkpoint
            .boot
            .as_ref()
            .is_some_and(|boot| boot != self.boot);
        let mut claims = Vec::new();
        if !former_boot {
            claims.extend(checkpoint.claims.iter().map(|(uid, claim)| Taken {
                uid: uid.clone(),
                fate: self.fate(uid, claim, specs),
            }));
        }
        let is_of_a_claim = |uid: &ClaimUid| claims.iter().any(|taken| taken.uid == uid.as_str());
        let stale = specs
            .iter()
            .filter(|(uid, _)| !is_of_a_claim(uid) && !is_recorded(uid));
        Takeover {
            stale_specs: stale.map(|(_, spec)| spec.file.clone()).collect(),
            claims,
            former_boot,
        }
    }

    fn fate(
        self,
        uid: &str,
        claim: &Result<CheckpointedClaim, String>,
        specs: &BTreeMap<ClaimUid, FoundSpec>,
    ) -> Fate {
        let Ok(uid) = uid.parse::<ClaimUid>() else {
            return Fate::Impossible;
        };
        let spec = specs.get(&uid);
        let fate = claim.clone().and_then(|claim| {
            if claim.completed {
                self.completed(&uid, &claim, spec)
            } else {
                self.begun(&uid, &claim, spec)
            }
        });
        fate.unwrap_or_else(|why| Fate::Unaccounted { claim: uid, why })
    }

    fn completed(
        self,
        uid: &ClaimUid,
        claim: &CheckpointedClaim,
        spec: Option<&FoundSpec>,
    ) -> Result<Fate, String> {
        let mut devices = Vec::new();
        let mut foreign = Vec::new();
        for device in self.in_order(claim) {
            if !device.cdi_ids.is_empty() && !device.cdi_ids.contains(&self.cdi_id(uid, device)) {
                return Err(format!(
                    "{} has the CDI devices {:?}",
                    device.name, device.cdi_ids
                ));
            }
            let Found { gpu, used, left } = self.find(device);
            foreign.extend(left);
            let result = self.result_of(claim, device);
            devices.extend(gpu.map(|gpu| PreparedDevice {
                request: request_of(result, device),
                pool: device.pool.clone(),
                device: device.name.clone(),
                share_id: result.and_then(|result| result.share_id.clone()),
                gpu: gpu.clone(),
                view: view(result, used),
                instance: instance(&device.kind).cloned(),
                // What the reference driver has set stays set.
                time_slice: None,
                memory_limit: None,
                memory_ceiling: None,
                cdi_id: self.cdi_id(uid, device),
                unknown: Map::new(),
            }));
        }
        if claim.devices.is_empty() && claim.results.iter().any(|r| r.driver == self.driver) {
            return Err("it is complete and has no devices".to_owned());
        }
        if claim.mps {
            foreign.push("an MPS control daemon and its compute mode".to_owned());
        }
        let whole = foreign.is_empty();
        let mut record = self.record(uid, claim, Phase::Prepared, spec);
        record.devices = devices;
        if spec.is_none() {
            // It is missing, and is made anew under our own name.
            let file = cdi::file_name(self.kind, uid);
            record.effects.push(Effect::CdiFile { file, crc32: 0 });
        }
        let foreign = foreign.into_iter().map(|what| Effect::Foreign { what });
        record.effects.extend(foreign);
        Ok(if whole {
            Fate::TakenOver(record)
        } else {
            Fate::Held(record)
        })
    }

    /// Which GPU a device has, how much of it, and what of it cannot be taken back.
    fn find(self, device: &CheckpointedDevice) -> Found<'_> {
        let name = &device.name;
        match &device.kind {
            DeviceKind::Gpu(gpu) => Found {
                gpu: Some(gpu),
                used: Used::AllOf(None),
                left: None,
            },
            DeviceKind::Mig { gpu, instance } => Found {
                gpu: Some(gpu),
                used: match instance.as_ref().and_then(|uuid| self.instance(gpu, uuid)) {
                    Some(found) => Used::AllOf(Some(found.part())),
                    None => Used::Unknown,
                },
                left: instance.is_none().then(|| format!("MIG device {name}")),
            },
            DeviceKind::Vfio(gpu) => Found {
                gpu: gpu.as_ref(),
                used: Used::Unknown,
                left: Some(format!("passthrough {name}")),
            },
        }
    }

    fn instance(&self, gpu: &GpuUuid, uuid: &MigUuid) -> Option<&MigInstance> {
        let mut gpus = self.inventory?.ever_seen();
        let mig = gpus.find(|seen| seen.uuid == *gpu)?.mig.as_ref()?;
        mig.instances.iter().find(|found| found.uuid == *uuid)
    }

    /// A preparation that has not ended: no container was started with it, so nothing is in use by it. Of
    /// a whole GPU only its spec may be there. A MIG device may have been made too, all of it or a half:
    /// it is where the driver shows it, and in the way of nobody who does not want its place. A GPU that
    /// is being passed through may be where no driver shows it.
    fn begun(
        self,
        uid: &ClaimUid,
        claim: &CheckpointedClaim,
        spec: Option<&FoundSpec>,
    ) -> Result<Fate, String> {
        let is_shown = |result: &&AllocatedResult| {
            let name = result.device.parse();
            name.is_ok_and(|name: DeviceName| name.is_whole_gpu() || name.mig_parent().is_some())
        };
        let mut ours = claim.results.iter().filter(|r| r.driver == self.driver);
        if let Some(other) = ours.find(|result| !is_shown(result)) {
            return Err(format!("a preparation of {} was interrupted", other.device));
        }
        let record = spec.map(|_| self.record(uid, claim, Phase::Preparing, spec));
        Ok(Fate::Begun(record))
    }

    fn record(
        self,
        uid: &ClaimUid,
        claim: &CheckpointedClaim,
        phase: Phase,
        spec: Option<&FoundSpec>,
    ) -> Record {
        let name = claim.name.clone();
        Record {
            boot: self.boot.clone(),
            claim: name.map_or_else(
                || nameless(uid),
                |(namespace, name)| ClaimRef {
                    namespace,
                    name,
                    uid: uid.clone(),
                },
            ),
            phase,
            devices: Vec::new(),
            effects: spec.map(FoundSpec::effect).into_iter().collect(),
            unknown: Map::new(),
        }
    }

    fn cdi_id(self, uid: &ClaimUid, device: &CheckpointedDevice) -> String {
        cdi::device_id(self.kind, uid, &device.name, None)
    }

    /// The devices in the order of the scheduler's results, in which a Prepare will compare them.
    fn in_order(self, claim: &CheckpointedClaim) -> Vec<&CheckpointedDevice> {
        let mut devices: Vec<_> = claim.devices.iter().collect();
        let results = claim.results.iter();
        let ours: Vec<_> = results.filter(|it| it.driver == self.driver).collect();
        devices.sort_by_key(|device| {
            let at = ours.iter().position(|result| is_of(result, device));
            at.unwrap_or(usize::MAX)
        });
        devices
    }

    fn result_of<'c>(
        self,
        claim: &'c CheckpointedClaim,
        device: &CheckpointedDevice,
    ) -> Option<&'c AllocatedResult> {
        let mut results = claim.results.iter();
        results.find(|result| result.driver == self.driver && is_of(result, device))
    }
}

fn is_of(result: &AllocatedResult, device: &CheckpointedDevice) -> bool {
    result.pool == device.pool
        && result.device == device.name.as_str()
        && (device.requests.is_empty() || device.requests.contains(&result.request))
}

/// What is behind a device.
struct Found<'d> {
    /// The GPU, if it is one that NVML would know.
    gpu: Option<&'d GpuUuid>,
    used: Used,
    /// What only the driver that prepared it can take back.
    left: Option<String>,
}

/// What a device is of its GPU.
#[derive(Clone, Copy)]
enum Used {
    /// All of this part, or of the whole GPU.
    AllOf(Option<Part>),
    /// It may be anything of it.
    Unknown,
}

fn instance(kind: &DeviceKind) -> Option<&MigUuid> {
    match kind {
        DeviceKind::Mig { instance, .. } => instance.as_ref(),
        DeviceKind::Gpu(_) | DeviceKind::Vfio(_) => None,
    }
}

/// How the claim uses the GPU. What is not known is taken for all: of a share what it takes of its
/// device, and of a device which part of the GPU it is.
fn view(result: Option<&AllocatedResult>, used: Used) -> View {
    if result.is_some_and(|result| result.admin_access) {
        return View::Admin;
    }
    let Used::AllOf(of) = used else {
        return View::Whole;
    };
    let shared = result.filter(|result| result.share_id.is_some());
    match shared.map(|result| result.consumed) {
        Some(Consumed {
            memory: Some(memory),
            compute_share,
            shares,
        }) => View::Share(Share {
            of,
            amounts: tessera_sharing::Part {
                memory,
                compute_share: compute_share.unwrap_or_default(),
                shares: shares.unwrap_or_default(),
            },
        }),
        _ => of.map_or(View::Whole, View::Part),
    }
}

/// The request without its sub-request, as a Prepare will compare it.
fn request_of(result: Option<&AllocatedResult>, device: &CheckpointedDevice) -> String {
    let request = result.map(|result| &result.request);
    let request = request.or(device.requests.first());
    let main = request.and_then(|request| request.split('/').next());
    main.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
