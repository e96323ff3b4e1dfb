//! Who holds which GPU, and whether somebody else may.
//!
//! The scheduler has already decided; this is the last line of defence, because schedulers hand
//! out a device twice (Kubernetes #139034 and others) and force-deleted pods run on.
//!
//! # Guarantees
//! A [`Ledger`] exists only under locks on GPUs, and speaks only about GPUs whose lock is held. What
//! it admits overlaps no other claim of the records that it was built from.

use std::collections::BTreeMap;

use tessera_api::Interval;
use tessera_claim::{ClaimRef, ClaimUid};
use tessera_device::{DeviceName, GpuUuid};
use tessera_sharing::ConsumableShares;

use crate::record::{Phase, PreparedDevice, Record, RecordOf, View};
use crate::refusal::Refusal;
use crate::resolve::ResolvedDevice;
use crate::share::{NoRoom, Sharer, find_room};
use crate::time_slice;

/// Proof that locks on certain GPUs are held. The shell's lock guard implements it.
pub trait GpuGuard {
    /// Whether the lock of this GPU is held.
    fn covers(&self, gpu: &GpuUuid) -> bool;
}

/// A record of a claim for GPUs that cannot be read: unless something else tells, its claim may hold
/// any GPU.
pub type Unreadable = UnreadableOf<PreparedDevice>;

/// A record that cannot be read, of a claim whose devices are of this kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableOf<D> {
    /// The claim, by the name of the record's file.
    pub claim: ClaimUid,
    /// What is wrong with the record.
    pub problem: String,
    /// Whether it may be replaced.
    pub flaw: Flaw,
    /// What was recorded, if a copy of the record tells.
    pub copy: Option<RecordOf<D>>,
}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is no record, or not the one that was written. Nobody can read it.
    Damaged,
    /// A newer version wrote it, and can read it. It is left as it is.
    Newer,
}

impl Flaw {
    /// Whether nobody can read the record.
    pub fn is_damage(self) -> bool {
        match self {
            Self::Damaged => true,
            Self::Newer => false,
        }
    }
}

/// The holders of GPUs, as read from all records while `guard` was held.
#[derive(Debug)]
pub struct Ledger<'g, G> {
    guard: &'g G,
    holders: BTreeMap<GpuUuid, Vec<Holder>>,
    /// What claims that are gone have left on GPUs.
    left: BTreeMap<GpuUuid, (ClaimRef, String)>,
    unreadable: Vec<Unreadable>,
    sharing: ConsumableShares,
}

/// A claim's use of a GPU.
#[derive(Debug)]
struct Holder {
    claim: ClaimRef,
    device: DeviceName,
    share_id: Option<String>,
    view: View,
    time_slice: Option<Interval>,
}

impl Holder {
    fn sharer(&self) -> Sharer<'_> {
        Sharer {
            claim: &self.claim,
            device: &self.device,
            share_id: self.share_id.as_ref(),
            view: self.view,
            time_slice: self.time_slice,
        }
    }
}

/// Devices that a claim may have, for as long as the locks are held.
#[derive(Debug)]
pub struct Admitted<'g, 'i, G> {
    _guard: &'g G,
    pub(crate) claim: ClaimRef,
    pub(crate) devices: Vec<ResolvedDevice<'i>>,
}

impl<'g, G: GpuGuard> Ledger<'g, G> {
    /// Adds up the records that were read while `guard` was held.
    pub fn under<'r>(
        guard: &'g G,
        records: impl IntoIterator<Item = &'r Record>,
        unreadable: Vec<Unreadable>,
    ) -> Self {
        let mut holders: BTreeMap<GpuUuid, Vec<Holder>> = BTreeMap::new();
        let mut left = BTreeMap::new();
        for record in records {
            let claim = &record.claim;
            for device in &record.devices {
                let gpu = device.gpu.clone();
                if record.phase == Phase::Released {
                    let what = record.foreign().collect::<Vec<_>>().join(" and ");
                    left.insert(gpu, (claim.clone(), what));
                } else {
                    holders.entry(gpu).or_default().push(Holder {
                        claim: claim.clone(),
                        device: device.device.clone(),
                        share_id: device.share_id.clone(),
                        view: device.view,
                        time_slice: device.time_slice,
                    });
                }
            }
        }
        Self {
            guard,
            holders,
            left,
            unreadable,
            sharing: ConsumableShares::default(),
        }
    }

    /// The same, where devices are shared like this: it says how many shares one can have.
    #[must_use]
    pub fn sharing(mut self, sharing: ConsumableShares) -> Self {
        self.sharing = sharing;
        self
    }

    /// Admits `claim` to its devices, or says who is in the way.
    ///
    /// What the ledger says of `claim` itself is not in its way: it is being prepared again.
    pub fn admit<'i>(
        self,
        claim: &ClaimRef,
        devices: Vec<ResolvedDevice<'i>>,
    ) -> Result<Admitted<'g, 'i, G>, Refusal> {
        for (at, device) in devices.iter().enumerate() {
            assert!(
                self.guard.covers(&device.gpu.uuid),
                "the caller locks every GPU that it asks about; {} is not locked",
                device.gpu.uuid
            );
            if device.view() == View::Admin {
                self.refuse_other_setting(claim, device, &devices[..=at])?;
                continue;
            }
            self.refuse_unaccounted(claim, device)?;
            self.refuse_unclean(claim, device)?;
            let twice = devices[..at].iter().find(|other| {
                other.gpu.uuid == device.gpu.uuid && other.view().excludes(device.view())
            });
            let in_the_way = match twice {
                Some(other) => Some((claim, &other.allocated.device)),
                None => self.holder(claim, device),
            };
            if let Some((by, held_as)) = in_the_way {
                return Err(Refusal::GpuHeld {
                    claim: claim.clone(),
                    device: device.allocated.device.clone(),
                    gpu: device.gpu.uuid.clone(),
                    by: by.clone(),
                    held_as: held_as.clone(),
                });
            }
            self.refuse_overdrawn(claim, device, &devices[..=at])?;
            self.refuse_other_setting(claim, device, &devices[..=at])?;
        }
        Ok(Admitted {
            _guard: self.guard,
            claim: claim.clone(),
            devices,
        })
    }

    fn refuse_unaccounted(
        &self,
        claim: &ClaimRef,
        device: &ResolvedDevice<'_>,
    ) -> Result<(), Refusal> {
        match self
            .unreadable
            .iter()
            .find(|unreadable| unreadable.claim != claim.uid)
        {
            None => Ok(()),
            Some(unreadable) => Err(Refusal::Unaccounted {
                claim: claim.clone(),
                gpu: device.gpu.uuid.clone(),
                record: unreadable.claim.clone(),
                problem: unreadable.problem.clone(),
            }),
        }
    }

    fn refuse_unclean(&self, claim: &ClaimRef, device: &ResolvedDevice<'_>) -> Result<(), Refusal> {
        match self.left.get(&device.gpu.uuid) {
            None => Ok(()),
            Some((by, what)) => Err(Refusal::Unclean {
                claim: claim.clone(),
                device: device.allocated.device.clone(),
                gpu: device.gpu.uuid.clone(),
                by: by.uid.clone(),
                what: what.clone(),
            }),
        }
    }

    /// Refuses `device`, the last of `devices`, where it is a share for which there is no room.
    fn refuse_overdrawn(
        &self,
        claim: &ClaimRef,
        device: &ResolvedDevice<'_>,
        devices: &[ResolvedDevice<'_>],
    ) -> Result<(), Refusal> {
        let sharers = self.sharers(device);
        find_room(claim, devices, sharers, self.sharing).map_err(|NoRoom { overdrawn, held_by }| {
            Refusal::GpuOverdrawn {
                claim: claim.clone(),
                device: device.allocated.device.clone(),
                gpu: device.gpu.uuid.clone(),
                overdrawn: Box::new(overdrawn),
                held_by,
            }
        })
    }

    /// Refuses `device`, the last of `devices`, where it wants its GPU to be set otherwise than it is.
    fn refuse_other_setting(
        &self,
        claim: &ClaimRef,
        device: &ResolvedDevice<'_>,
        devices: &[ResolvedDevice<'_>],
    ) -> Result<(), Refusal> {
        let agreed = time_slice::agree(claim, devices, self.sharers(device));
        agreed.map_err(|conflict| {
            let others = self.sharers(device);
            let mut others = others.filter(|other| other.claim.uid != claim.uid);
            let holder = others.find(|other| *other.claim == conflict.by.claim);
            Refusal::SettingConflict {
                claim: claim.clone(),
                device: device.allocated.device.clone(),
                gpu: device.gpu.uuid.clone(),
                held_by: holder.map(|holder| (holder.claim.clone(), holder.device.clone())),
                conflict: Box::new(conflict),
            }
        })
    }

    /// All who have the GPU of the device, or something of it.
    fn sharers(&self, device: &ResolvedDevice<'_>) -> impl Iterator<Item = Sharer<'_>> {
        let holders = self.holders.get(&device.gpu.uuid);
        holders.into_iter().flatten().map(Holder::sharer)
    }

    /// The first claim other than `claim` whose use of the GPU leaves no room for this device, and
    /// the device by which it has that use.
    fn holder(
        &self,
        claim: &ClaimRef,
        device: &ResolvedDevice<'_>,
    ) -> Option<(&ClaimRef, &DeviceName)> {
        self.holders
            .get(&device.gpu.uuid)?
            .iter()
            .find(|other| other.claim.uid != claim.uid && other.view.excludes(device.view()))
            .map(|other| (&other.claim, &other.device))
    }
}

#[cfg(test)]
mod tests;
