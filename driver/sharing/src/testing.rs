//! Shares and nodes for tests.

use tessera_claim::ClaimRef;

use crate::holder::Holder;
use tessera_device::MemoryLimiting;

use crate::consumable::ConsumableShares;
use crate::mechanisms::NodeFacts;
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
        native: MemoryLimiting::PerCgroup,
        sharing: ConsumableShares::Memory,
        moves_limits: true,
        mps: true,
        shim: true,
        swap: SwapMechanism::Checkpoint,
        restore_mib_per_second: Some(4096),
    }
}

/// A node that has none.
pub(crate) fn bare() -> NodeFacts {
    NodeFacts {
        native: MemoryLimiting::NoCall,
        sharing: ConsumableShares::Memory,
        moves_limits: false,
        mps: false,
        shim: false,
        swap: SwapMechanism::None,
        restore_mib_per_second: None,
    }
}
