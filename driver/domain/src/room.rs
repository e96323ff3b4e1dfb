//! How many GPUs of each node others use.
//!
//! GPUs that the pods of a domain use on nodes which the domain holds are not among them: they are held
//! already. What the classic device plugin gives out counts like any other use.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{HeldDevice, ObjectName, PodFacts, PodStage};
use crate::world::World;

/// The nodes that a domain holds, for pods of its namespace that name its template.
#[derive(Clone, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) template: &'a str,
    pub(crate) nodes: BTreeSet<&'a str>,
}

impl Holder<'_> {
    fn has(&self, pod: &PodFacts) -> bool {
        pod.name.namespace == self.namespace
            && pod.templates.contains(self.template)
            && pod
                .node
                .as_ref()
                .is_some_and(|node| self.nodes.contains(node.as_str()))
    }
}

/// GPUs that are used on each node by others than the holders' pods.
pub(crate) fn used(world: &World, holders: &[Holder<'_>]) -> BTreeMap<String, u32> {
    let members: BTreeSet<&ObjectName> = world
        .pods()
        .filter(|pod| holders.iter().any(|holder| holder.has(pod)))
        .map(|pod| &pod.name)
        .collect();
    let devices: BTreeSet<&HeldDevice> = world
        .claims()
        .filter(|claim| {
            let user = |user: &String| ObjectName::new(&claim.name.namespace, user);
            !claim
                .users
                .iter()
                .map(user)
                .any(|user| members.contains(&user))
        })
        .flat_map(|claim| &claim.gpus)
        .collect();
    let mut used: BTreeMap<String, u32> = BTreeMap::new();
    for device in devices {
        let count = used.entry(device.pool.clone()).or_default();
        *count = count.saturating_add(1);
    }
    let classic = world
        .pods()
        .filter(|pod| pod.stage == PodStage::Bound && !pod.limits_have_claim);
    for pod in classic.filter(|pod| !members.contains(&pod.name)) {
        let node = pod.node.clone().unwrap_or_default();
        let count = used.entry(node).or_default();
        *count = count.saturating_add(pod.gpus);
    }
    used
}
