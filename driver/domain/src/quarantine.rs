//! When a channel may be given to another domain.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::facts::FabricFacts;
use crate::slots::Slots;
use crate::world::World;

/// How long a channel stays in quarantine at least: what a node says of the channels in its containers
/// follows them by moments.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(10);

/// How long a node is waited for that does not say which channels it has. Longer than any grace period that
/// pods commonly have, and than the kubelet takes to end a pod that was deleted by force.
pub const UNTOLD: SignedDuration = SignedDuration::from_secs(300);

/// The times at which a quarantine may end even if nothing happens.
pub(crate) fn ends(slots: &Slots) -> impl Iterator<Item = Timestamp> {
    let released = slots.released.into_iter();
    released.flat_map(|released| {
        let after = move |pause| released.checked_add(pause).ok();
        [SETTLE, UNTOLD].into_iter().filter_map(after)
    })
}

/// Whether the channel of withdrawn slots is on no node any more. That no claim has a slot of them is the
/// caller's to know.
pub(crate) fn is_over(
    world: &World,
    fabric: &BTreeMap<&str, &FabricFacts>,
    slots: &Slots,
    now: Timestamp,
) -> bool {
    let Some(released) = slots.released else {
        return false;
    };
    let elapsed = now.duration_since(released);
    let let_go = |hostname: &str| {
        // A node that left the cluster has no containers.
        let Some(node) = world.node_by_hostname(hostname) else {
            return true;
        };
        let told = fabric
            .get(node.name.as_str())
            .and_then(|fabric| fabric.held.as_ref());
        told.map_or(elapsed >= UNTOLD, |held| !held.may_have(slots.channel))
    };
    elapsed >= SETTLE && slots.may_have_channel().all(let_go)
}
