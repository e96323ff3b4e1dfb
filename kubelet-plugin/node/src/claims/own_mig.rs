//! Which MIG devices the driver has made, as the offer has to know them.

use std::sync::Arc;

use tessera_device::mig::MigLayouts;
use tessera_offer::MadeDevices;
use tessera_shell::logging::chain;
use tokio::sync::watch;
use tracing::warn;

use super::Claims;
use crate::claim_reader::ClaimReader;
use crate::executor::Node;
use crate::journal::Records;
use crate::mig::OwnMig;

impl<A: ClaimReader, R: Records, N: Node> Claims<A, R, N> {
    /// Who cuts the GPUs.
    pub fn mig_layouts(&self) -> MigLayouts {
        self.identity.mig_layouts
    }

    /// Rings when what claims have made of GPUs is to be offered in another way.
    pub fn offer_changes(&self) -> watch::Sender<()> {
        self.busy.changes()
    }
}

/// The MIG devices that the driver has made.
///
/// A look at the hardware may be from before a device was destroyed, or from when half of it was, when no record tells of it any more;
/// so they are remembered for longer than their records are there ([`Node::own_mig`]): what the driver has made
/// must not be taken for somebody else's, which would withdraw the GPU for a moment.
pub struct OwnMigDevices<C> {
    claims: Arc<C>,
}

impl<A: ClaimReader, R: Records, N: Node> OwnMigDevices<Claims<A, R, N>> {
    /// Those of these claims.
    pub fn of(claims: Arc<Claims<A, R, N>>) -> Self {
        Self { claims }
    }

    /// Those that a look of late may have shown.
    pub fn now(&self) -> MadeDevices {
        let contents = self.claims.records.read_all();
        let contents = contents.inspect_err(|error| {
            warn!(error = %chain(error), "it is not known which MIG devices are the driver's own");
        });
        let records = contents
            .map(|contents| contents.records)
            .unwrap_or_default();
        let busy = self.claims.busy.claims();
        let mut made = MadeDevices::default();
        let mut recorded = OwnMig::default();
        for record in &records {
            let is_busy = busy.contains(&record.claim.uid);
            for device in record.made() {
                let place = (device.gpu.clone(), device.placement);
                if is_busy {
                    made.busy.insert(place.clone());
                }
                made.places.insert(place);
                recorded.add(device);
            }
        }
        let OwnMig { devices, places } = self.claims.node.own_mig(recorded);
        MadeDevices {
            devices,
            ended: places,
            ..made
        }
    }
}
