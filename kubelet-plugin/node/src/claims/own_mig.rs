//! Which MIG devices the driver has made, as the offer has to know them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tessera_device::mig::MigLayouts;
use tessera_device::{Inventory, MigUuid};
use tessera_offer::MadeDevices;
use tessera_prepare::record::Record;
use tessera_shell::logging::chain;
use tracing::warn;

use super::Claims;
use crate::claim_reader::ClaimReader;
use crate::executor::Node;
use crate::journal::Records;

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// Who cuts the GPUs.
    pub fn mig_layouts(&self) -> MigLayouts {
        self.identity.mig_layouts
    }
}

/// The MIG devices that the driver has made.
///
/// A look at the hardware may be from before a device was destroyed, when no record tells of it any more.
/// So identities are kept until no look shows them, and for a while those of what was destroyed: what the driver has made must not be taken for
/// somebody else's, which would withdraw the GPU for a moment.
pub struct OwnMigDevices<C> {
    claims: Arc<C>,
    remembered: Mutex<BTreeSet<MigUuid>>,
}

impl<A: ClaimReader, R: Records, N: Node> OwnMigDevices<Claims<A, R, N>> {
    /// Those of these claims.
    pub fn of(claims: Arc<Claims<A, R, N>>) -> Self {
        Self {
            claims,
            remembered: Mutex::default(),
        }
    }

    /// Those that there may be among what a look has shown.
    pub fn seen_beside(&self, inventory: &Inventory) -> MadeDevices {
        let contents = self.claims.records.read_all();
        let contents = contents.inspect_err(|error| {
            warn!(error = %chain(error), "it is not known which MIG devices are the driver's own");
        });
        let records = contents
            .map(|contents| contents.records)
            .unwrap_or_default();
        let mut made = MadeDevices::default();
        let mut devices = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let shown: BTreeSet<&MigUuid> = inventory
            .gpus()
            .iter()
            .filter_map(|gpu| gpu.mig.as_ref())
            .flat_map(|mig| &mig.instances)
            .map(|instance| &instance.uuid)
            .collect();
        devices.retain(|device| shown.contains(device));
        for device in records.iter().flat_map(Record::made) {
            made.places.insert((device.gpu.clone(), device.placement));
            devices.extend(
                device
                    .identity
                    .as_ref()
                    .map(|identity| identity.uuid.clone()),
            );
        }
        made.devices.clone_from(&devices);
        // Between two looks a claim may have come and gone, also at the start, when nothing was remembered.
        made.devices.extend(self.claims.node.destroyed_mig());
        made
    }
}
