//! Shares and nodes for tests.

use tessera_claim::ClaimRef;

use crate::holder::Holder;
use crate::mechanisms::{CgroupVersion, NodeFacts};
use crate::tier::SwapMechanism;

/// The only share of the claim `name`.
pub(crate) fn holder(name: &str) -> Holder {
    Holder {
        claim: ClaimRef {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: format!("{name}-uid").parse().unwrap(),
        },
        share: None,
    }
}

/// A node that has every mechanism.
pub(crate) fn everything() -> NodeFacts {
    NodeFacts {
        native_limits: true,
        cgroup: CgroupVersion::V2,
        mps: true,
        shim: true,
        swap: SwapMechanism::Checkpoint,
        restore_mib_per_second: Some(4096),
    }
}

/// A node that has none.
pub(crate) fn bare() -> NodeFacts {
    NodeFacts {
        native_limits: false,
        cgroup: CgroupVersion::V2,
        mps: false,
        shim: false,
        swap: SwapMechanism::None,
        restore_mib_per_second: None,
    }
}
