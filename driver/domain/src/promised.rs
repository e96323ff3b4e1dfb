//! What is promised to domains: what is stored, and what was decided since.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tessera_api::{ComputeDomain, SessionsOf};
use tessera_gang::{CliqueId, Cluster, NodeName};

use crate::facts::{NodeFacts, ObjectName};
use crate::place::{nodes, template_name};
use crate::slots::{Holds, Slots};
use crate::world::{StoredSlots, World};

/// The slots of every domain, each with the template that its pods name.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    slots: BTreeMap<String, (Slots, ObjectName)>,
    /// The cluster with all of that held, from when it is first asked for: to look at every node takes longer than
    /// to plan, and most domains see the same cluster.
    cluster: OnceCell<RefCell<Cluster>>,
    /// The cliques in which each domain may have its channel, as far as somebody has asked: each domain that is placed asks for
    /// those of all others.
    cliques: RefCell<BTreeMap<String, Rc<BTreeSet<CliqueId>>>>,
    /// Whether domains have nodes as a whole, because each has a session of its own.
    in_whole_nodes: bool,
}

impl Promised {
    /// What is stored.
    pub(crate) fn of(
        stored: &BTreeMap<&str, StoredSlots>,
        world: &World,
        sessions_of: SessionsOf,
    ) -> Self {
        let templates: BTreeMap<&str, &ComputeDomain> = world
            .domains()
            .filter_map(|domain| Some((domain.metadata.uid.as_deref()?, domain)))
            .collect();
        let all = stored.iter().map(|(uid, stored)| {
            let template = templates.get(uid).map_or_else(
                || ObjectName::new(&stored.slots.name.namespace, ""),
                |domain| template_name(domain),
            );
            (
                stored.slots.domain.clone(),
                (stored.slots.clone(), template),
            )
        });
        Self {
            slots: all.collect(),
            cluster: OnceCell::new(),
            cliques: RefCell::default(),
            in_whole_nodes: sessions_of == SessionsOf::Domain,
        }
    }

    /// With what was decided for one more.
    pub(crate) fn put(&mut self, world: &World, slots: Slots, template: ObjectName) {
        if self.in_whole_nodes || !slots.are_offered() {
            // GPUs that its pods go on using are used by somebody else from now on: that is counted anew. So is what is
            // held where that is more than slots say.
            self.cluster.take();
        }
        if let Some(cluster) = self.cluster.get_mut() {
            hold(cluster.get_mut(), world, &slots);
        }
        self.cliques.get_mut().remove(&slots.domain);
        self.slots.insert(slots.domain.clone(), (slots, template));
    }

    /// A look at the cluster in which what was decided is held, made by `make` if nobody has asked for it yet. Who holds
    /// more in it lets that go again.
    pub(crate) fn with_cluster<R>(
        &self,
        make: impl FnOnce() -> Cluster,
        look: impl FnOnce(&mut Cluster) -> R,
    ) -> R {
        let cluster = self.cluster.get_or_init(|| RefCell::new(make()));
        look(&mut cluster.borrow_mut())
    }

    /// The cliques in which somebody may have the channel of slots that are promised, found by `find` if nobody has asked yet.
    pub(crate) fn cliques(
        &self,
        slots: &Slots,
        find: impl FnOnce() -> BTreeSet<CliqueId>,
    ) -> Rc<BTreeSet<CliqueId>> {
        let mut known = self.cliques.borrow_mut();
        let cliques = known.entry(slots.domain.clone());
        cliques.or_insert_with(|| Rc::new(find())).clone()
    }

    /// The slots that are offered to a domain.
    pub(crate) fn offered_to(&self, domain: &str) -> Option<&Slots> {
        let (slots, _) = self.slots.get(domain)?;
        slots.are_offered().then_some(slots)
    }

    /// The name of a domain that has slots, or had until now.
    pub(crate) fn name_of(&self, domain: &str) -> Option<String> {
        let (slots, _) = self.slots.get(domain)?;
        Some(format!("ComputeDomain {}", slots.name))
    }

    /// Whether a domain has slots.
    pub(crate) fn is_offered(&self, domain: &str) -> bool {
        self.offered_to(domain).is_some()
    }

    /// The nodes that are held as a whole, whomever for.
    pub(crate) fn whole_nodes<'a>(&'a self, world: &'a World) -> BTreeSet<&'a str> {
        let slots = self.offered().map(|(slots, _)| slots);
        slots
            .filter(|slots| slots.holds == Holds::WholeNodes)
            .flat_map(|slots| held(world, slots))
            .map(|node| node.name.as_str())
            .collect()
    }

    /// Offered slots, each with the template of its domain.
    pub(crate) fn offered(&self) -> impl Iterator<Item = &(Slots, ObjectName)> {
        self.known().filter(|(slots, _)| slots.are_offered())
    }

    /// All slots, withdrawn ones too, each with the template of its domain.
    pub(crate) fn known(&self) -> impl Iterator<Item = &(Slots, ObjectName)> {
        self.slots.values()
    }

    /// All slots, withdrawn ones too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Slots> {
        self.known().map(|(slots, _)| slots)
    }
}

/// Holds in `cluster` what is offered to a domain.
pub(crate) fn hold(cluster: &mut Cluster, world: &World, slots: &Slots) {
    let names = held(world, slots).map(|node| NodeName::from(node.name.as_str()));
    let gang = slots.domain.as_str().into();
    cluster.restore(&gang, names, slots.gpus_per_node);
}

/// The nodes that are kept for a domain, as far as they are there: those of its slots and its spares.
pub(crate) fn held<'a>(
    world: &'a World,
    slots: &'a Slots,
) -> impl Iterator<Item = &'a NodeFacts> + 'a {
    let spares = slots.spares.iter();
    let spares = spares.filter_map(|hostname| world.node_by_hostname(hostname));
    nodes(world, slots).chain(spares)
}
