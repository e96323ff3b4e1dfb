//! The shares of prepared claims, as the journal tells.

use std::collections::BTreeMap;

use tessera_claim::{ClaimRef, ClaimUid};
use tessera_device::{Bytes, GpuUuid};
use tessera_prepare::record::{Phase, PreparedDevice, Record, View};
use tessera_sharing::{SharePlace, Tier};

use crate::journal::Contents;

/// A prepared claim with shares.
#[derive(Debug)]
pub(super) struct PreparedClaim {
    pub(super) claim: ClaimRef,
    pub(super) shares: Vec<PreparedShare>,
}

/// A prepared share.
#[derive(Debug)]
pub(super) struct PreparedShare {
    /// By a name that is its own on the node.
    pub(super) name: String,
    pub(super) place: SharePlace,
    pub(super) gpu: GpuUuid,
    /// The memory that was counted for it.
    pub(super) guarantee: Bytes,
    pub(super) tier: Tier,
}

/// The claims of `driver` that are prepared and have shares. What only a copy tells of is told of when its record is
/// made good.
pub(super) fn prepared(contents: &Contents, driver: &str) -> BTreeMap<ClaimUid, PreparedClaim> {
    let records = contents.records.iter();
    let records = records.filter(|record| record.phase == Phase::Prepared);
    let claims = records.map(|record| claim(record, driver));
    claims
        .filter(|claim| !claim.shares.is_empty())
        .map(|claim| (claim.claim.uid.clone(), claim))
        .collect()
}

fn claim(record: &Record, driver: &str) -> PreparedClaim {
    let shares = record.devices.iter();
    PreparedClaim {
        claim: record.claim.clone(),
        shares: shares.filter_map(|device| share(device, driver)).collect(),
    }
}

fn share(device: &PreparedDevice, driver: &str) -> Option<PreparedShare> {
    let View::Share(share) = device.view else {
        return None;
    };
    let (_, name) = device.cdi_id.split_once('=')?;
    Some(PreparedShare {
        name: name.to_owned(),
        place: SharePlace {
            driver: driver.to_owned(),
            pool: device.pool.clone(),
            device: device.device.to_string(),
            share: device.share_id.clone(),
        },
        gpu: device.gpu.clone(),
        guarantee: device.memory_limit.unwrap_or(share.amounts.memory),
        tier: match device.memory_limit {
            Some(_) => Tier::Native,
            None => Tier::None,
        },
    })
}
