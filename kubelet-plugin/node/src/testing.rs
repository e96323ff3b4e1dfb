//! Values and doubles for the tests of this crate.

mod errors_page;
pub(crate) mod machine;

use serde_json::Map;
use tessera_claim::ClaimRef;
use tessera_device::{DeviceName, GpuUuid};
use tessera_prepare::record::{BootId, Phase, PreparedDevice, Record, View};
use tessera_prepare::step::Effect;

/// The UUID of the test GPU with this minor number.
pub(crate) fn gpu_uuid(minor: u32) -> GpuUuid {
    format!("GPU-{minor:08x}-0000-0000-0000-000000000000")
        .parse()
        .unwrap()
}

/// A claim whose UID is made from its name.
pub(crate) fn claim(name: &str) -> ClaimRef {
    ClaimRef {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("{name}-uid").parse().unwrap(),
    }
}

/// The record of a prepared claim that holds these GPUs.
pub(crate) fn record(name: &str, minors: &[u32]) -> Record {
    let claim = claim(name);
    let uid = &claim.uid;
    Record {
        boot: BootId("boot".to_owned()),
        phase: Phase::Prepared,
        devices: minors
            .iter()
            .map(|minor| PreparedDevice {
                request: "gpu".to_owned(),
                pool: "node0".to_owned(),
                device: DeviceName::whole_gpu(*minor),
                share_id: None,
                gpu: gpu_uuid(*minor),
                view: View::Whole,
                cdi_id: format!("k8s.gpu.nvidia.com/claim={uid}-gpu-{minor}"),
                unknown: Map::new(),
            })
            .collect(),
        effects: vec![Effect::CdiFile {
            file: format!("{uid}.json"),
            crc32: 7,
        }],
        unknown: Map::new(),
        claim,
    }
}
