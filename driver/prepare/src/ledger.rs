//! Who holds which GPU, and whether somebody else may.
//!
//! The scheduler has already decided; this is the last line of defence, because schedulers hand
//! out a device twice (Kubernetes #139034 and others) and force-deleted pods run on.
//!
//! # Guarantees
//! A [`Ledger`] exists only under locks on GPUs, and speaks only about GPUs whose lock is held. What
//! it admits overlaps no other claim of the records that it was built from.

use std::collections::BTreeMap;

use tessera_claim::{ClaimRef, ClaimUid};
use tessera_device::GpuUuid;

use crate::record::{Phase, PreparedDevice, Record, View};
use crate::refusal::Refusal;
use crate::resolve::ResolvedDevice;

/// Proof that locks on certain GPUs are held. The shell's lock guard implements it.
pub trait GpuGuard {
    /// Whether the lock of this GPU is held.
    fn covers(&self, gpu: &GpuUuid) -> bool;
}

/// A record that cannot be read: unless something else tells, its claim may hold any GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The claim, by the name of the record's file.
    pub claim: ClaimUid,
    /// What is wrong with the record.
    pub problem: String,
    /// Whether it may be replaced.
    pub flaw: Flaw,
    /// What was recorded, if a copy of the record tells.
    pub copy: Option<Record>,
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
    holders: BTreeMap<GpuUuid, Vec<(ClaimRef, View)>>,
    /// What claims that are gone have left on GPUs.
    left: BTreeMap<GpuUuid, (ClaimRef, String)>,
    unreadable: Vec<Unreadable>,
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
        let mut holders: BTreeMap<GpuUuid, Vec<(ClaimRef, View)>> = BTreeMap::new();
        let mut left = BTreeMap::new();
        for record in records {
            let claim = &record.claim;
            for PreparedDevice { gpu, view, .. } in &record.devices {
                if record.phase == Phase::Released {
                    let what = record.foreign().collect::<Vec<_>>().join(" and ");
                    left.insert(gpu.clone(), (claim.clone(), what));
                } else {
                    let holders = holders.entry(gpu.clone()).or_default();
                    holders.push((claim.clone(), *view));
                }
            }
        }
        Self {
            guard,
            holders,
            left,
            unreadable,
        }
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
                continue;
            }
            self.refuse_unaccounted(claim, device)?;
            self.refuse_unclean(claim, device)?;
            let twice = devices[..at]
                .iter()
                .any(|other| other.gpu.uuid == device.gpu.uuid && other.view() == View::Whole);
            let holder = if twice {
                Some(claim)
            } else {
                self.holder(claim, &device.gpu.uuid)
            };
            if let Some(by) = holder {
                return Err(Refusal::GpuHeld {
                    claim: claim.clone(),
                    device: device.allocated.device.clone(),
                    gpu: device.gpu.uuid.clone(),
                    by: by.clone(),
                });
            }
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

    /// The first claim other than `claim` that counts as using the GPU.
    fn holder(&self, claim: &ClaimRef, gpu: &GpuUuid) -> Option<&ClaimRef> {
        self.holders
            .get(gpu)?
            .iter()
            .find(|(holder, view)| holder.uid != claim.uid && *view == View::Whole)
            .map(|(holder, _)| holder)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use tessera_claim::AllocatedDevice;
    use tessera_device::testing::{gpu, gpu_uuid};
    use tessera_device::{DeviceName, Gpu};

    use super::*;
    use crate::step::Effect;
    use crate::testing::record;

    #[derive(Debug)]
    struct Locked(BTreeSet<GpuUuid>);

    impl GpuGuard for Locked {
        fn covers(&self, gpu: &GpuUuid) -> bool {
            self.0.contains(gpu)
        }
    }

    fn all_locked() -> Locked {
        Locked((0..8).map(gpu_uuid).collect())
    }

    fn wants(gpus: &[Gpu], view: View) -> Vec<ResolvedDevice<'_>> {
        gpus.iter()
            .map(|gpu| ResolvedDevice {
                allocated: AllocatedDevice {
                    request: "gpu".to_owned(),
                    pool: "node0".to_owned(),
                    device: DeviceName::whole_gpu(gpu.minor),
                    admin_access: view == View::Admin,
                    share_id: None,
                    configuration: None,
                },
                gpu,
            })
            .collect()
    }

    #[test]
    fn a_gpu_that_another_claim_holds_is_refused_and_both_claims_are_named() {
        let guard = all_locked();
        let held = record("holder", &[3]);
        let gpus = [gpu(2), gpu(3)];
        let claim = record("newcomer", &[]).claim;
        let error = Ledger::under(&guard, [&held], vec![])
            .admit(&claim, wants(&gpus, View::Whole))
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("default/newcomer") && text.contains("default/holder"),
            "{text}"
        );
        assert!(text.contains("gpu-3"), "{text}");
    }

    #[test]
    fn admin_access_neither_is_hindered_nor_hinders() {
        let guard = all_locked();
        let held = record("holder", &[3]);
        let gpus = [gpu(3)];
        let claim = record("monitor", &[]).claim;
        Ledger::under(&guard, [&held], vec![])
            .admit(&claim, wants(&gpus, View::Admin))
            .unwrap();

        let mut monitor = record("monitor", &[3]);
        monitor.devices[0].view = View::Admin;
        let claim = record("newcomer", &[]).claim;
        Ledger::under(&guard, [&monitor], vec![])
            .admit(&claim, wants(&gpus, View::Whole))
            .unwrap();
    }

    #[test]
    fn a_claim_is_not_in_its_own_way_but_cannot_have_one_gpu_twice() {
        let guard = all_locked();
        let own = record("a", &[3]);
        let once = [gpu(3)];
        Ledger::under(&guard, [&own], vec![])
            .admit(&own.claim, wants(&once, View::Whole))
            .unwrap();
        let twice = [gpu(3), gpu(3)];
        Ledger::under(&guard, [&own], vec![])
            .admit(&own.claim, wants(&twice, View::Whole))
            .unwrap_err();
    }

    #[test]
    fn while_a_record_cannot_be_read_no_gpu_is_given_to_another_claim() {
        let guard = all_locked();
        let gpus = [gpu(0)];
        let damaged = Unreadable {
            claim: "lost-uid".parse().unwrap(),
            problem: "the first line is not that of a record".to_owned(),
            flaw: Flaw::Damaged,
            copy: None,
        };
        let claim = record("newcomer", &[]).claim;
        let error = Ledger::under(&guard, [], vec![damaged.clone()])
            .admit(&claim, wants(&gpus, View::Whole))
            .unwrap_err();
        assert!(error.to_string().contains("lost-uid"), "{error}");

        let same = record("lost", &[]).claim;
        Ledger::under(&guard, [], vec![damaged])
            .admit(&same, wants(&gpus, View::Whole))
            .unwrap();
    }

    #[test]
    fn a_gpu_on_which_something_was_left_is_given_to_nobody_but_for_admin_access() {
        let guard = all_locked();
        let mut former = record("former", &[3]);
        let what = "a MIG device".to_owned();
        former.effects.push(Effect::Foreign { what });
        let remains = former.remains().unwrap();
        let gpus = [gpu(2), gpu(3)];
        for claim in ["newcomer", "former"].map(|name| record(name, &[]).claim) {
            let admit = |gpus, view| {
                Ledger::under(&guard, [&remains], vec![]).admit(&claim, wants(gpus, view))
            };
            let error = admit(&gpus[..], View::Whole).unwrap_err();
            let Refusal::Unclean { device, what, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((device.as_str(), what.as_str()), ("gpu-3", "a MIG device"));
            admit(&gpus[..1], View::Whole).unwrap();
            admit(&gpus[..], View::Admin).unwrap();
        }
    }

    #[test]
    #[should_panic(expected = "is not locked")]
    fn asking_about_a_gpu_without_its_lock_is_a_mistake_of_the_caller() {
        let guard = Locked(BTreeSet::new());
        let gpus = [gpu(0)];
        let claim = record("a", &[]).claim;
        let _ = Ledger::under(&guard, [], vec![]).admit(&claim, wants(&gpus, View::Whole));
    }

    proptest! {
        #[test]
        fn no_sequence_of_claims_ever_overlaps(claims in prop::collection::vec(prop::collection::btree_set(0u32..8, 1..4), 1..12)) {
            let guard = all_locked();
            let mut records: Vec<Record> = Vec::new();
            for (number, minors) in claims.iter().enumerate() {
                let gpus: Vec<Gpu> = minors.iter().map(|minor| gpu(*minor)).collect();
                let numbers: Vec<u32> = minors.iter().copied().collect();
                let newcomer = record(&format!("claim{number}"), &numbers);
                let admitted = Ledger::under(&guard, &records, vec![])
                    .admit(&newcomer.claim, wants(&gpus, View::Whole))
                    .is_ok();
                let free = records.iter().all(|held| {
                    held.devices.iter().all(|device| !newcomer.devices.iter().any(|d| d.gpu == device.gpu))
                });
                prop_assert_eq!(admitted, free);
                if admitted {
                    records.push(newcomer);
                }
            }
        }
    }
}
