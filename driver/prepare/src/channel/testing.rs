//! Claims for channels and their records.

use serde_json::Map;
use tessera_api::{AllocationMode, ComputeDomainChannelConfig, Config};
use tessera_claim::{AllocatedDevice, Allocation};

use super::{
    ChannelGuard, ChannelRecord, Channels, DomainUid, Granted, PreparedChannel, channel_kind,
};
use crate::cdi;
use crate::record::{Phase, RecordOf};
use crate::step::Effect;
use crate::testing::{boot, claim};

#[derive(Debug)]
pub(super) struct AllLocked;

impl ChannelGuard for AllLocked {}

pub(super) fn domain(uid: &str) -> DomainUid {
    uid.parse().unwrap()
}

/// One device, with a configuration that names this domain.
pub(super) fn allocation(name: &str, pool: &str, device: &str, domain: Option<&str>) -> Allocation {
    let config = |uid: &str| {
        Config::ComputeDomainChannel(ComputeDomainChannelConfig {
            domain_id: uid.to_owned(),
            allocation_mode: AllocationMode::Single,
        })
    };
    Allocation {
        claim: claim(name),
        devices: vec![AllocatedDevice {
            request: "channel".to_owned(),
            pool: pool.to_owned(),
            device: device.parse().unwrap(),
            admin_access: false,
            share_id: None,
            consumed: tessera_claim::Consumed::default(),
            configuration: domain.map(config),
            share_configuration: None,
        }],
    }
}

/// The same allocation, of all channels.
pub(super) fn all_of(mut allocation: Allocation) -> Allocation {
    for device in &mut allocation.devices {
        if let Some(Config::ComputeDomainChannel(config)) = &mut device.configuration {
            config.allocation_mode = AllocationMode::All;
        }
    }
    allocation
}

/// Slot 0 of a domain.
pub(super) fn granted(uid: &str, channels: Channels) -> Granted {
    let pool = format!("domain-{uid}");
    let mut allocation = allocation("any", &pool, "slot-0", Some(uid));
    Granted {
        allocated: allocation.devices.remove(0),
        domain: domain(uid),
        channels,
    }
}

/// The record of a prepared claim that holds slot 0 of a domain.
pub(super) fn record(name: &str, uid: &str, channels: Channels) -> ChannelRecord {
    let (claim, kind) = (claim(name), channel_kind());
    let device = granted(uid, channels).allocated;
    RecordOf {
        boot: boot(),
        phase: Phase::Prepared,
        effects: vec![Effect::CdiFile {
            file: cdi::file_name(&kind, &claim.uid),
            crc32: 7,
        }],
        devices: vec![PreparedChannel {
            request: device.request,
            pool: device.pool,
            share_id: None,
            domain: domain(uid),
            channels,
            cdi_id: cdi::device_id(&kind, &claim.uid, &device.device, None),
            device: device.device,
            unknown: Map::new(),
        }],
        unknown: Map::new(),
        claim,
    }
}
