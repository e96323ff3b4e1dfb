//! Whether those who keep account of a node's GPUs agree: the scheduler, the kubelet, the plugin and the hardware.
//!
//! The comparison is a function of what each of them says ([`Views`]). They are read one after the other, while things go
//! on; so what counts is that they agree before long ([`await_agreement`]).

mod look;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use tessera_cluster::Node;
use tessera_hw::TimeSlice;

pub(crate) use look::records;

use crate::failure::Failure;
use crate::kubernetes::Kubernetes;
use crate::pause::pause;

/// By when they must agree: a pod that ends has its grace period and the kubelet some seconds to unprepare its claims; those of a
/// pod that was deleted by force while the kubelet was not there it unprepares once a minute.
const LIMIT: Duration = Duration::from_secs(75);

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// What is said of one node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Views {
    /// The claims that the scheduler has allocated there.
    scheduler: Claims,
    /// The claims that the kubelet knows there. One without devices is not prepared, as far as it knows.
    kubelet: Claims,
    /// The plugin's journal.
    plugin: Vec<Record>,
    /// The UIDs of the claims that have a CDI specification.
    specified: BTreeSet<String>,
    /// The GPUs.
    hardware: Vec<Gpu>,
}

/// Claims by their UIDs.
type Claims = BTreeMap<String, Claim>;

/// A claim with its devices on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    /// Namespace and name.
    name: String,
    devices: BTreeSet<Device>,
}

/// A device in the node's pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    name: String,
    /// Which share of it, if it is shared.
    share: Option<String>,
}

/// What the journal tells of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    uid: String,
    name: String,
    prepared: bool,
    uses: Vec<Use>,
}

/// A device of a claim, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    device: Device,
    /// UUID of the GPU behind it.
    gpu: String,
    view: View,
    /// UUID of the MIG device, if it is one.
    instance: Option<String>,
    time_slice: Option<TimeSlice>,
}

/// What of a GPU a claim has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Whole,
    Part(Slices),
    /// So many bytes of all of it, or of a part.
    Share(Option<Slices>, u64),
    Admin,
}

/// Memory slices of a GPU, and the compute instance among those that share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slices {
    start: u32,
    size: u32,
    compute_instance: Option<u32>,
}

/// A GPU as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Gpu {
    uuid: String,
    /// In bytes.
    memory: u64,
    mig: bool,
    /// The MIG devices, by their UUIDs.
    instances: BTreeMap<String, Instance>,
    /// How many instances are half made.
    bare: usize,
    time_slice: TimeSlice,
}

/// A MIG device as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instance {
    /// First memory slice.
    start: u32,
    /// In bytes. Nothing if the model's table has no such device.
    memory: Option<u64>,
}

/// How much of a GPU that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Nothing,
    All,
    Slices(Slices),
}

impl View {
    fn taken(self) -> Taken {
        match self {
            Self::Whole | Self::Share(None, _) => Taken::All,
            Self::Part(slices) | Self::Share(Some(slices), _) => Taken::Slices(slices),
            Self::Admin => Taken::Nothing,
        }
    }

    fn overlaps(self, other: Self) -> bool {
        let are_shares = matches!((self, other), (Self::Share(..), Self::Share(..)));
        match (self.taken(), other.taken()) {
            (Taken::Nothing, _) | (_, Taken::Nothing) => false,
            (one, two) if are_shares && one == two => false,
            (Taken::Slices(one), Taken::Slices(two)) => one.overlaps(two),
            (Taken::All, _) | (_, Taken::All) => true,
        }
    }
}

impl Slices {
    fn overlaps(self, other: Self) -> bool {
        let (start, size) = (self.start, self.size);
        if (start, size) == (other.start, other.size) {
            return match (self.compute_instance, other.compute_instance) {
                (Some(one), Some(two)) => one == two,
                (None, _) | (_, None) => true,
            };
        }
        start < other.start + other.size && other.start < start + size
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.share {
            Some(share) => write!(f, " (share {share})"),
            None => Ok(()),
        }
    }
}

/// Waits until all agree about each node.
pub(crate) fn await_agreement(kubernetes: Kubernetes<'_>, nodes: &[Node]) -> Result<(), Failure> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut disagreements = Vec::new();
        for (node, views) in nodes.iter().zip(look::at(kubernetes, nodes)?) {
            let of = |said: String| format!("{}: {said}", node.name());
            disagreements.extend(views.disagreements().into_iter().map(of));
        }
        if disagreements.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let all = disagreements.join("\n  ");
            return Err(Failure::wrong(format!(
                "scheduler, kubelet, plugin and hardware do not agree:\n  {all}"
            )));
        }
        pause(LOOK_AGAIN)?;
    }
}

/// Pairs of claims that have the same of a GPU, and GPUs of which shares are more than there is.
pub(crate) fn overlaps(records: &[Record]) -> Vec<String> {
    let uses: Vec<_> = records
        .iter()
        .flat_map(|record| record.uses.iter().map(move |used| (record, used)))
        .collect();
    let mut found = Vec::new();
    for (at, (record, used)) in uses.iter().enumerate() {
        for (other, also) in &uses[at + 1..] {
            if used.gpu == also.gpu && used.view.overlaps(also.view) {
                let (one, two) = (&record.name, &other.name);
                let (first, second, gpu) = (&used.device, &also.device, &used.gpu);
                found.push(format!(
                    "claim {one} has {first} and claim {two} has {second}, which overlap on GPU {gpu}"
                ));
            }
        }
    }
    found
}

impl Views {
    /// Everything about which they do not agree. Nothing if they do.
    fn disagreements(&self) -> Vec<String> {
        let mut found = self.between_scheduler_and_kubelet();
        found.extend(self.between_kubelet_and_plugin());
        found.extend(overlaps(&self.plugin));
        found.extend(self.between_plugin_and_specifications());
        found.extend(self.between_plugin_and_hardware());
        found.extend(self.hardware.iter().flat_map(|gpu| self.about(gpu)));
        found
    }

    /// Holds if nobody but the kubelet knows of a claim: its pod was deleted by force while the kubelet was not there, and the
    /// plugin has taken back what was of it. The kubelet forgets such a claim once a minute (`reconcileLoop` in
    /// `pkg/kubelet/cm/dra/manager.go`); until then it holds nothing of a device.
    fn is_history(&self, uid: &str) -> bool {
        !(self.scheduler.contains_key(uid) || self.is_recorded(uid) || self.specified.contains(uid))
    }

    fn is_recorded(&self, uid: &str) -> bool {
        self.plugin.iter().any(|record| record.uid == uid)
    }

    /// A claim that waits for its preparation, or that was refused, is allocated and that is all.
    fn between_scheduler_and_kubelet(&self) -> Vec<String> {
        let differs = |(uid, known): (&String, &Claim)| {
            let Claim { name, devices } = known;
            match self.scheduler.get(uid) {
                None if self.is_history(uid) => None,
                None => Some(format!(
                    "the kubelet knows claim {name} ({uid}), and it is allocated nothing here"
                )),
                Some(allocated) if !devices.is_empty() && *devices != allocated.devices => {
                    Some(format!(
                        "claim {name} is allocated {}, and the kubelet has prepared {}",
                        listed(&allocated.devices),
                        listed(devices)
                    ))
                }
                Some(_) => None,
            }
        };
        self.kubelet.iter().filter_map(differs).collect()
    }

    fn between_kubelet_and_plugin(&self) -> Vec<String> {
        let mut found = Vec::new();
        for record in &self.plugin {
            let Record { uid, name, .. } = record;
            if !record.prepared {
                found.push(format!("the plugin has not finished with claim {name}"));
            }
            let recorded: BTreeSet<_> = record.uses.iter().map(|used| &used.device).collect();
            match self.kubelet.get(uid) {
                None => found.push(format!(
                    "the plugin has a record of claim {name} ({uid}), and the kubelet does not know it"
                )),
                Some(known) if !known.devices.iter().eq(recorded.iter().copied()) => {
                    found.push(format!(
                        "the plugin has prepared {} for claim {name}, and the kubelet was told of {}",
                        listed(recorded),
                        listed(&known.devices)
                    ));
                }
                Some(_) => {}
            }
        }
        let known = self.kubelet.iter();
        let lost = known.filter(|(uid, claim)| {
            !claim.devices.is_empty() && !self.is_recorded(uid) && !self.is_history(uid)
        });
        found.extend(lost.map(|(_, Claim { name, .. })| {
            format!("the kubelet has claim {name} as prepared, and the plugin has no record of it")
        }));
        found
    }

    fn between_plugin_and_specifications(&self) -> Vec<String> {
        let prepared = self.plugin.iter().filter(|record| record.prepared);
        let prepared: BTreeSet<&String> = prepared.map(|record| &record.uid).collect();
        let specified: BTreeSet<&String> = self.specified.iter().collect();
        let missing = prepared.difference(&specified);
        let missing =
            missing.map(|uid| format!("the prepared claim {uid} has no CDI specification"));
        let left = specified.difference(&prepared);
        let left = left.map(|uid| {
            format!("there is a CDI specification of claim {uid}, which is not prepared")
        });
        missing.chain(left).collect()
    }

    fn between_plugin_and_hardware(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (record, used) in self.uses() {
            let (name, device, gpu) = (&record.name, &used.device, &used.gpu);
            let Some(there) = self.hardware.iter().find(|there| there.uuid == *gpu) else {
                found.push(format!(
                    "claim {name} has {device} of GPU {gpu}, which is not there"
                ));
                continue;
            };
            match (used.view.taken(), &used.instance) {
                (Taken::All, None) if there.mig => found.push(format!(
                    "claim {name} has {device} of all of GPU {gpu}, which is in MIG mode"
                )),
                (Taken::Slices(_), None) => found.push(format!(
                    "the plugin does not know which MIG device claim {name} has for {device}"
                )),
                (taken, Some(instance)) => {
                    let start = there.instances.get(instance).map(|there| there.start);
                    let is_it = |start: u32| match taken {
                        Taken::Slices(slices) => slices.start == start,
                        Taken::Nothing | Taken::All => true,
                    };
                    if !start.is_some_and(is_it) {
                        found.push(format!(
                            "claim {name} has {device} as MIG device {instance} of GPU {gpu}, and there it \
                             begins at {start:?}"
                        ));
                    }
                }
                (Taken::All | Taken::Nothing, None) => {}
            }
        }
        found
    }

    /// What there is of a GPU and what was set of it, beside what claims have of it.
    fn about(&self, gpu: &Gpu) -> Vec<String> {
        let Gpu { uuid, .. } = gpu;
        let uses = || {
            self.uses()
                .map(|(_, used)| used)
                .filter(|used| used.gpu == *uuid)
        };
        let is_had =
            |instance: &&String| uses().any(|used| used.instance.as_ref() == Some(*instance));
        let nobodys = gpu.instances.keys().filter(|instance| !is_had(instance));
        let mut found: Vec<_> = nobodys
            .map(|instance| format!("no claim has MIG device {instance} of GPU {uuid}"))
            .collect();
        if gpu.bare > 0 {
            found.push(format!(
                "{} GPU instances of GPU {uuid} are half made",
                gpu.bare
            ));
        }
        found.extend(self.overdrawn(gpu));
        let mut wanted: Vec<_> = uses().filter_map(|used| used.time_slice).collect();
        wanted.dedup();
        let expected = match wanted[..] {
            [] => TimeSlice::Default,
            [one, ..] => one,
        };
        if wanted.len() > 1 || gpu.time_slice != expected {
            found.push(format!(
                "the time slice of GPU {uuid} is {:?}, and claims want {wanted:?}",
                gpu.time_slice
            ));
        }
        found
    }

    /// What of a GPU is shared out to more than there is: the whole, or its MIG devices.
    fn overdrawn(&self, gpu: &Gpu) -> Vec<String> {
        let mut shares: BTreeMap<Option<&str>, u128> = BTreeMap::new();
        for (_, used) in self.uses().filter(|(_, used)| used.gpu == gpu.uuid) {
            if let View::Share(_, bytes) = used.view {
                *shares.entry(used.instance.as_deref()).or_default() += u128::from(bytes);
            }
        }
        let memory = |instance: Option<&str>| match instance {
            Some(uuid) => gpu.instances.get(uuid).and_then(|there| there.memory),
            None => Some(gpu.memory),
        };
        let over = |(instance, shared): (Option<&str>, u128)| {
            // A device that is not there is told of elsewhere.
            let all = memory(instance).filter(|all| shared > u128::from(*all))?;
            let what = match instance {
                Some(uuid) => format!("MIG device {uuid} of GPU {}", gpu.uuid),
                None => format!("GPU {}", gpu.uuid),
            };
            Some(format!(
                "shares of {shared} bytes are given away of {what}, which has {all}"
            ))
        };
        shares.into_iter().filter_map(over).collect()
    }

    fn uses(&self) -> impl Iterator<Item = (&Record, &Use)> {
        self.plugin
            .iter()
            .flat_map(|record| record.uses.iter().map(move |used| (record, used)))
    }
}

fn listed<'d>(devices: impl IntoIterator<Item = &'d Device>) -> String {
    let names: Vec<_> = devices.into_iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}
