//! What is known of a node's driver and GPUs, one look after the other.
//!
//! A driver comes late, is replaced under the running plugin and goes away; GPUs fall off the bus and
//! are reset. [`Known::next`] takes one look and says what is known from then on and what of it is
//! news. It promises that a GPU that was seen once is never forgotten while the process runs: as
//! long as it does not answer it is among the missing, with the reason.

use std::fmt;

use crate::mig::{MigMode, MigState};
use crate::{DeviceName, DriverVersion, Gpu, GpuUuid, Inventory};

/// Why a GPU that was seen does not serve now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absence {
    /// NVML says that it has fallen off the bus (`NVML_ERROR_GPU_IS_LOST`).
    Lost,
    /// NVML does not list it, as while it is being reset, or when a virtual machine has it.
    NotListed,
    /// NVML lists it and does not answer what has to be known of it.
    NoAnswer {
        /// What NVML says instead.
        why: String,
    },
}

impl Absence {
    /// Every label that there is.
    pub const LABELS: [&str; 3] = ["lost", "not_listed", "no_answer"];

    /// The label of a metric.
    pub fn label(&self) -> &'static str {
        let [lost, not_listed, no_answer] = Self::LABELS;
        match self {
            Self::Lost => lost,
            Self::NotListed => not_listed,
            Self::NoAnswer { .. } => no_answer,
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => {
                f.write_str("has fallen off the bus (GPU is lost); reset it or reboot the node")
            }
            Self::NotListed => f.write_str(
                "is not listed by the driver any more; if it is being reset it comes back by \
                 itself",
            ),
            Self::NoAnswer { why } => write!(f, "does not answer the driver: {why}"),
        }
    }
}

/// A GPU that was seen and does not serve now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingGpu {
    /// What was known of it last.
    pub gpu: Gpu,
    /// Why it does not serve.
    pub absence: Absence,
}

/// A GPU that is listed and did not tell what has to be known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentGpu {
    /// Its UUID, if it still said so much. A lost GPU does not.
    pub uuid: Option<GpuUuid>,
    /// Why it is not in the inventory.
    pub absence: Absence,
}

/// What one look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// No driver that answers for itself.
    NoDriver {
        /// What is wrong, with the remedy.
        why: String,
    },
    /// A driver.
    Found {
        /// The GPUs that answered.
        inventory: Inventory,
        /// Those that did not.
        silent: Vec<SilentGpu>,
    },
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// No look has ended yet.
    #[default]
    Unseen,
    /// There is no driver.
    Absent {
        /// What is wrong, with the remedy.
        why: String,
        /// What there was before.
        last: Option<Inventory>,
    },
    /// There is one, with these GPUs, present and missing.
    Present(Inventory),
}

/// Something that is not as it was at the look before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is a driver where there was none.
    DriverFound {
        /// Its version.
        version: DriverVersion,
        /// How many GPUs answer.
        gpus: usize,
    },
    /// There is no driver, for a reason that was not known.
    NoDriver {
        /// The reason.
        why: String,
    },
    /// The driver that there was is gone.
    DriverGone {
        /// What is wrong.
        why: String,
    },
    /// The driver is of another version.
    DriverReplaced {
        /// The former.
        from: DriverVersion,
        /// The present.
        to: DriverVersion,
    },
    /// A GPU does not serve any more, or for another reason than before.
    GpuMissing {
        /// The name that it was offered under.
        device: DeviceName,
        /// Which it is.
        gpu: GpuUuid,
        /// Why.
        absence: Absence,
    },
    /// A GPU that has not been seen before and does not answer.
    GpuUnusable {
        /// Why.
        absence: Absence,
    },
    /// A GPU serves that was missing, or was not there.
    GpuArrived {
        /// The name that it is offered under.
        device: DeviceName,
        /// Which it is.
        gpu: GpuUuid,
    },
    /// A GPU is cut another way than before, or waits for a reset to be.
    MigChanged {
        /// The name that the whole GPU has.
        device: DeviceName,
        /// Which it is.
        gpu: GpuUuid,
        /// How it is cut now.
        mig: MigState,
    },
}

impl Change {
    /// Whether it is that a GPU is cut another way, and nothing is amiss with that.
    pub fn is_layout_alone(&self) -> bool {
        match self {
            Self::MigChanged { mig, .. } => mig.waiting().is_none() && mig.unusable.is_empty(),
            _ => false,
        }
    }

    /// Whether it is that a MIG mode was asked for which comes with a reset alone.
    pub fn waits_for_reset(&self) -> bool {
        matches!(self, Self::MigChanged { mig, .. } if mig.waiting().is_some())
    }

    /// Whether less can be used than before.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::NoDriver { .. }
            | Self::DriverGone { .. }
            | Self::GpuMissing { .. }
            | Self::GpuUnusable { .. } => true,
            Self::DriverFound { .. } | Self::DriverReplaced { .. } | Self::GpuArrived { .. } => {
                false
            }
            Self::MigChanged { mig, .. } => mig.is_stranded() || !mig.unusable.is_empty(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DriverFound { version, gpus } => {
                write!(f, "driver {version} found with {gpus} GPUs")
            }
            Self::NoDriver { why } => write!(f, "no GPUs to offer: {why}"),
            Self::DriverGone { why } => {
                write!(f, "the driver is gone, its GPUs are withdrawn: {why}")
            }
            Self::DriverReplaced { from, to } => {
                write!(f, "driver {from} was replaced by driver {to}")
            }
            Self::GpuMissing {
                device,
                gpu,
                absence,
            } => write!(f, "{device} is withdrawn: GPU {gpu} {absence}"),
            Self::GpuUnusable { absence } => {
                write!(f, "a GPU that has not been seen before {absence}")
            }
            Self::GpuArrived { device, gpu } => write!(f, "{device} is there: GPU {gpu}"),
            Self::MigChanged { device, gpu, mig } => write!(f, "{device}: GPU {gpu}: {mig}"),
        }
    }
}

impl Known {
    /// What is known after this look, and what of it is news.
    #[must_use]
    pub fn next(&self, look: Look) -> (Self, Vec<Change>) {
        match look {
            Look::NoDriver { why } => self.without_driver(why),
            Look::Found { inventory, silent } => self.with_driver(inventory, silent),
        }
    }

    /// The inventory of the driver that there is, or was last.
    pub fn last(&self) -> Option<&Inventory> {
        match self {
            Self::Unseen => None,
            Self::Absent { last, .. } => last.as_ref(),
            Self::Present(inventory) => Some(inventory),
        }
    }

    fn without_driver(&self, why: String) -> (Self, Vec<Change>) {
        let changes = match self {
            Self::Present(_) => vec![Change::DriverGone { why: why.clone() }],
            Self::Absent { why: former, .. } if *former == why => Vec::new(),
            Self::Absent { .. } | Self::Unseen => vec![Change::NoDriver { why: why.clone() }],
        };
        let last = self.last().cloned();
        (Self::Absent { why, last }, changes)
    }

    fn with_driver(&self, inventory: Inventory, silent: Vec<SilentGpu>) -> (Self, Vec<Change>) {
        let (missing, strangers) = missing(self.last(), &inventory, silent);
        let mut changes = Vec::new();
        match self {
            Self::Unseen | Self::Absent { .. } => changes.push(Change::DriverFound {
                version: inventory.driver().version.clone(),
                gpus: inventory.gpus().len(),
            }),
            Self::Present(former) if former.driver().version != inventory.driver().version => {
                changes.push(Change::DriverReplaced {
                    from: former.driver().version.clone(),
                    to: inventory.driver().version.clone(),
                });
            }
            Self::Present(_) => {}
        }
        let inventory = inventory.with_missing(missing, strangers);
        changes.extend(lost(self.last(), &inventory));
        changes.extend(cut_anew(self.last(), &inventory));
        if let Self::Present(former) = self {
            changes.extend(arrived(former, &inventory));
        }
        (Self::Present(inventory), changes)
    }
}

/// The GPUs of the former inventory that are not in the present one, each with its reason, and the
/// reasons that belong to no GPU that was seen.
///
/// A lost GPU does not say which it is. Those that do not say are taken for the missing ones in
/// order, which is right whenever one kind of thing happens at a time.
fn missing(
    former: Option<&Inventory>,
    present: &Inventory,
    silent: Vec<SilentGpu>,
) -> (Vec<MissingGpu>, Vec<Absence>) {
    let (mut named, unnamed): (Vec<_>, Vec<_>) =
        silent.into_iter().partition(|gpu| gpu.uuid.is_some());
    let mut unnamed = unnamed.into_iter();
    let mut missing = Vec::new();
    for gpu in former.into_iter().flat_map(Inventory::ever_seen) {
        if present.gpus().iter().any(|other| other.uuid == gpu.uuid) {
            continue;
        }
        let at = named
            .iter()
            .position(|silent| silent.uuid.as_ref() == Some(&gpu.uuid));
        let silent = at.map(|at| named.remove(at)).or_else(|| unnamed.next());
        missing.push(MissingGpu {
            gpu: gpu.clone(),
            absence: silent.map_or(Absence::NotListed, |silent| silent.absence),
        });
    }
    missing.sort_by_key(|missing| missing.gpu.minor);
    let strangers = named.into_iter().chain(unnamed);
    (missing, strangers.map(|silent| silent.absence).collect())
}

/// What is missing in `present` and was not, or was for another reason.
fn lost<'a>(
    former: Option<&'a Inventory>,
    present: &'a Inventory,
) -> impl Iterator<Item = Change> + 'a {
    let known = former.map_or(&[][..], Inventory::missing);
    let news = present.missing().iter().filter(|now| !known.contains(now));
    let missing = news.map(|missing| Change::GpuMissing {
        device: missing.gpu.device_name(),
        gpu: missing.gpu.uuid.clone(),
        absence: missing.absence.clone(),
    });
    let known = former.map_or(&[][..], Inventory::strangers);
    let news = present
        .strangers()
        .iter()
        .filter(|now| !known.contains(now));
    missing.chain(news.map(|absence| Change::GpuUnusable {
        absence: absence.clone(),
    }))
}

/// The GPUs whose MIG side is not as it was. One that was never seen is news if there is anything to
/// say of it.
fn cut_anew<'a>(
    former: Option<&'a Inventory>,
    present: &'a Inventory,
) -> impl Iterator<Item = Change> + 'a {
    let plain = MigState::empty(MigMode::Off);
    present.gpus().iter().filter_map(move |gpu| {
        let mig = gpu.mig.as_ref()?;
        let mut seen = former.into_iter().flat_map(Inventory::ever_seen);
        let before = seen.find(|other| other.uuid == gpu.uuid);
        let before = before.and_then(|gpu| gpu.mig.as_ref()).unwrap_or(&plain);
        (!mig.is_cut_like(before)).then(|| Change::MigChanged {
            device: gpu.device_name(),
            gpu: gpu.uuid.clone(),
            mig: mig.clone(),
        })
    })
}

fn arrived<'a>(former: &'a Inventory, present: &'a Inventory) -> impl Iterator<Item = Change> + 'a {
    let was_there = |gpu: &Gpu| former.gpus().iter().any(|other| other.uuid == gpu.uuid);
    let news = present.gpus().iter().filter(move |gpu| !was_there(gpu));
    news.map(|gpu| Change::GpuArrived {
        device: gpu.device_name(),
        gpu: gpu.uuid.clone(),
    })
}

#[cfg(test)]
mod tests;
