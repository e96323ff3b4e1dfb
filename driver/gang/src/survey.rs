//! How much room each clique has for one gang: what a person looks at who wants to know why it waits.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::demand::Demand;
use crate::names::CliqueId;

/// The nodes of one clique as one gang sees them; of nodes without fabric, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// How many there are.
    pub nodes: u32,
    /// How many the gang's pods may be put on, free or not.
    pub eligible: u32,
    /// How many have room for them now.
    pub free: u32,
}

/// The room of every clique; under none, that of nodes without fabric.
pub fn survey(cluster: &Cluster, demand: &Demand) -> BTreeMap<Option<CliqueId>, Room> {
    let mut rooms: BTreeMap<Option<CliqueId>, Room> = BTreeMap::new();
    cluster.with_view(&demand.shape, &demand.policy.capacity, |view| {
        for clique in cluster.cliques.iter().flatten() {
            let room = rooms.entry(clique.id.clone()).or_default();
            for &at in &clique.members {
                room.nodes += 1;
                room.eligible += u32::from(view.is_eligible(at));
                room.free += u32::from(view.fits(at, cluster.node(at)));
            }
        }
    });
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place;
    use crate::testing::{cliques, demand, node};

    #[test]
    fn what_others_hold_is_not_free_and_what_is_too_small_is_not_eligible() {
        let mut cluster = cliques(&[3, 2]);
        let placement = place(&cluster, &demand("a", 2)).unwrap();
        cluster.hold(&"a".into(), &placement).unwrap();
        let mut small = node("alone", None);
        small.gpus = 1;
        cluster.upsert(small);
        let rooms = survey(&cluster, &demand("b", 1));
        let told = |id: Option<&str>| {
            let room = rooms[&id.map(Into::into)];
            (room.nodes, room.eligible, room.free)
        };
        assert_eq!(told(Some("c0")), (3, 3, 3));
        assert_eq!(told(Some("c1")), (2, 2, 0));
        assert_eq!(told(None), (1, 0, 0));
    }
}
