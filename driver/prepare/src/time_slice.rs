//! The time slice of a GPU: which claims want one, whether they agree, and when it is set back.
//!
//! A GPU has one, whoever uses it. So it is set for a claim that asks for it and for no other; claims that
//! want different ones exclude each other; and it is set back with the last that wanted it. A MIG device
//! has none: what a claim says of that is taken and changes nothing, as in the reference driver.
//!
//! Who wants one stands in the records of claims, before anything is set. That is all that there is to go
//! by: NVML does not tell how a GPU is set.

use std::collections::BTreeMap;

use tessera_api::Interval;
use tessera_claim::ClaimRef;
use tessera_device::GpuUuid;
use tessera_sharing::{Conflict, DeviceWish, Holder, merge};

use crate::record::{Phase, RecordOf, RecordedDevice, View};
use crate::resolve::ResolvedDevice;
use crate::share::Sharer;
use crate::step::Step;

/// What a claim wants of its device as a whole, and the one who wants it.
fn wish(claim: &ClaimRef, device: &ResolvedDevice<'_>) -> Result<(Holder, DeviceWish), Conflict> {
    let allocated = &device.allocated;
    let holder = holder(claim, allocated.share_id.as_ref());
    let share = allocated.share_configuration.as_ref();
    let wish = DeviceWish::of(&holder, allocated.configuration.as_ref(), share)?;
    Ok((holder, wish))
}

fn holder(claim: &ClaimRef, share: Option<&String>) -> Holder {
    Holder {
        claim: claim.clone(),
        share: share.cloned(),
    }
}

/// The time slice that a claim wants the GPU of its device to have.
pub(crate) fn wanted(claim: &ClaimRef, device: &ResolvedDevice<'_>) -> Option<Interval> {
    wish(claim, device).ok().and_then(|(_, wish)| wish.interval)
}

/// Fails if the last of `wanted`, all of one claim, wants its GPU to have another time slice than those who
/// have it, or than the claim itself by another share.
///
/// Whoever wants none takes what the others want. But admin access reconfigures nothing under others: to
/// it, whoever wants none has the NVIDIA driver's own.
pub(crate) fn agree<'l>(
    claim: &ClaimRef,
    wanted: &[ResolvedDevice<'_>],
    held: impl Iterator<Item = Sharer<'l>>,
) -> Result<(), Conflict> {
    let Some((device, before)) = wanted.split_last() else {
        return Ok(());
    };
    let last = wish(claim, device)?;
    if last.1.interval.is_none() {
        return Ok(());
    }
    let is_admin = device.view() == View::Admin;
    let theirs = held.filter(|sharer| sharer.claim.uid != claim.uid);
    let theirs = theirs.map(|sharer| {
        let is_in_the_way = is_admin && sharer.view != View::Admin;
        let untouched = is_in_the_way.then(Interval::default);
        let wish = DeviceWish {
            mode: None,
            interval: sharer.time_slice.or(untouched),
        };
        Ok((holder(sharer.claim, sharer.share_id), wish))
    });
    let own = before.iter();
    let own = own.filter(|other| other.gpu.uuid == device.gpu.uuid);
    let own = own.map(|other| wish(claim, other));
    let all = theirs.chain(own).chain([Ok(last)]);
    let all = all.collect::<Result<Vec<_>, Conflict>>()?;
    merge(all.iter().map(|(holder, wish)| (holder, *wish))).map(drop)
}

/// The steps that set the GPUs of a record as its claim wants them, each once.
pub(crate) fn set<D: RecordedDevice>(devices: &[D]) -> Vec<Step> {
    let gpus: BTreeMap<_, _> = devices.iter().filter_map(D::time_slice).collect();
    gpus.into_iter()
        .map(|(gpu, interval)| Step::SetTimeSlice {
            gpu: gpu.clone(),
            interval,
        })
        .collect()
}

/// The steps that set back what was, or may have been, set for the claim of this record: where none of the
/// others wants it. What was set to the NVIDIA driver's own is as it should be.
///
/// `others` are all records that there are. They are read under the locks of the claim's GPUs, so that
/// nobody comes or goes meanwhile.
pub fn set_back<'r, D: RecordedDevice>(
    record: &RecordOf<D>,
    others: impl IntoIterator<Item = &'r RecordOf<D>>,
) -> Vec<Step> {
    let own = record.devices.iter().filter_map(D::time_slice);
    let mut gpus: BTreeMap<&GpuUuid, Interval> = own.collect();
    gpus.retain(|_, interval| *interval != Interval::Default);
    let others = others.into_iter();
    let others = others.filter(|other| other.claim.uid != record.claim.uid);
    for other in others.filter(|other| other.phase != Phase::Released) {
        for (gpu, _) in other.devices.iter().filter_map(D::time_slice) {
            gpus.remove(gpu);
        }
    }
    let was_set = record.phase == Phase::Prepared;
    gpus.into_keys()
        .map(|gpu| Step::ResetTimeSlice {
            gpu: gpu.clone(),
            was_set,
        })
        .collect()
}

#[cfg(test)]
mod tests;
