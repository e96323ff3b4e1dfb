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

/// The holders, by namespace and template.
type Holders<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Holder<'a>>>;

/// Whether a pod is of a holder, on a node that this one holds.
fn is_of(holders: &Holders<'_>, pod: &PodFacts) -> bool {
    let Some(node) = pod.node.as_deref() else {
        return false;
    };
    pod.templates.iter().any(|template| {
        let named = holders.get(&(pod.name.namespace.as_str(), template.as_str()));
        let mut named = named.into_iter().flatten();
        named.any(|holder| holder.nodes.contains(node))
    })
}

/// GPUs that are used on each node by others than the holders' pods.
pub(crate) fn used(world: &World, holders: &[Holder<'_>]) -> BTreeMap<String, u32> {
    let mut named = Holders::new();
    for holder in holders {
        let holders = named.entry((holder.namespace, holder.template));
        holders.or_default().push(holder);
    }
    let members: BTreeSet<&ObjectName> = world
        .pods()
        .filter(|pod| is_of(&named, pod))
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
