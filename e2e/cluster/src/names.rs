//! Every name and address of the cluster, in one place, so that teardown can find by name what bring-up made.
//!
//! Links, cgroups and mounts outside the nodes carry one prefix, which nothing else on a machine uses.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// What every link and cgroup on the host starts with.
pub(crate) const PREFIX: &str = "tess-";
/// The host's end of its cable to the cluster's network.
pub(crate) const HOST_LINK: &str = "tess-host";
/// The bridge that joins the nodes. It lives in the control plane's network namespace.
pub(crate) const BRIDGE: &str = "tess-br0";
/// Where the control plane listens: the bridge's own address.
pub(crate) const CONTROL_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The host's address in the cluster's network.
pub(crate) const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// The `kubernetes` Service. The control plane holds this address itself, so pods reach it without kube-proxy.
pub(crate) const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The `kube-dns` Service. The control plane holds this address too, and `CoreDNS` listens at it.
pub(crate) const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// What the names of Services end in.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// Where Services get their addresses.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Where pods get their addresses; each node has a part of it.
pub(crate) const POD_RANGE: &str = "10.244.0.0/16";
/// How many nodes fit in the cluster's network and the pods' range.
pub const MOST_NODES: u8 = 64;

/// A node's place in the cluster, from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct NodeIndex(u8);

impl NodeIndex {
    /// The first `count` nodes, or none at all when so many do not fit.
    pub(crate) fn first(count: u8) -> Option<Vec<Self>> {
        (1..=MOST_NODES)
            .contains(&count)
            .then(|| (0..count).map(Self).collect())
    }

    /// The place as a number.
    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }

    /// The node's name in Kubernetes and its host name.
    pub(crate) fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// The node's own address in the cluster's network.
    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, 0, 10 + self.0)
    }

    /// The node's own hardware address. A node that reboots keeps it, and so do its neighbours' tables.
    pub(crate) fn hardware_address(self) -> String {
        let [a, b, c, d] = self.address().octets();
        // The 2 says that it is one of this machine's making (IEEE 802, locally administered).
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// Where the node's pods get their addresses.
    pub(crate) fn pod_range(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    /// The node's cgroup, relative to the root of each hierarchy. All its pods run below it.
    pub(crate) fn cgroup(self) -> String {
        format!("{PREFIX}node{}", self.0)
    }

    /// The bridge's end of the node's cable.
    pub(crate) fn link(self) -> String {
        format!("{PREFIX}node{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_node_has_its_names_and_addresses_by_its_place() {
        let nodes = NodeIndex::first(3).unwrap();
        let seen: Vec<_> = nodes
            .iter()
            .map(|n| {
                (
                    n.name(),
                    n.address().to_string(),
                    n.pod_range(),
                    n.cgroup(),
                    n.link(),
                )
            })
            .collect();
        let row = |name: &str, address: &str, pods: &str, group: &str| {
            (
                name.to_owned(),
                address.to_owned(),
                pods.to_owned(),
                group.to_owned(),
                group.to_owned(),
            )
        };
        assert_eq!(
            seen,
            [
                row("node0", "10.200.0.10", "10.244.0.0/24", "tess-node0"),
                row("node1", "10.200.0.11", "10.244.1.0/24", "tess-node1"),
                row("node2", "10.200.0.12", "10.244.2.0/24", "tess-node2"),
            ]
        );
    }

    #[test]
    fn as_many_nodes_as_fit_have_addresses_of_their_own() {
        let nodes = NodeIndex::first(MOST_NODES).unwrap();
        let mut addresses: HashSet<_> = nodes.iter().map(|n| n.address()).collect();
        addresses.extend([CONTROL_ADDRESS, HOST_ADDRESS]);
        assert_eq!(addresses.len(), usize::from(MOST_NODES) + 2);
        assert_eq!(NodeIndex::first(MOST_NODES + 1), None);
        assert_eq!(NodeIndex::first(0), None);
    }

    #[test]
    fn a_link_name_fits_the_kernels_fifteen_bytes() {
        let nodes = NodeIndex::first(MOST_NODES).unwrap();
        let longest = nodes.iter().map(|n| n.link().len()).max().unwrap();
        assert!(longest.max(HOST_LINK.len()).max(BRIDGE.len()) <= 15);
    }
}
