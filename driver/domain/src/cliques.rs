//! The NVLink cliques of the cluster: who is in them, in which order, and how their sessions fare.
//!
//! Each clique of which a node tells is an `NVLinkClique`. Its members and their order are the controller's;
//! what stands in its status under `sessions` is written by the session host of each node, and read here.
//!
//! # Guarantees
//! - A member keeps its index until its node leaves the cluster, tells of another clique, or tells that it is
//!   part of no fabric. A node that tells of no clique for another reason, as while its fabric is down or its
//!   plugin away, stays where it was.
//! - No two members have one index, a newcomer has the lowest that is free, and the room never shrinks.
//! - The epoch grows with each change of members, and with nothing else.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::json;
use tessera_api::{
    NVLinkClique, NVLinkCliqueMember, NVLinkCliqueSession, NVLinkCliqueSpec, OWN_API_VERSION,
};
use tessera_session::report::NOT_INSTALLED;
use tessera_session::roster::{HIGHEST_INDEX, object_name, room_for};

use crate::decide::Decision;
use crate::facts::ObjectName;
use crate::situation::{Names, Said};
use crate::status;
use crate::world::{Kind, World};
use crate::write::{Verb, Write};

/// The condition that is all others in one.
const READY: &str = "Ready";

/// Who runs the NVLink sessions of cliques.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionsBy {
    /// The session hosts of this driver.
    SessionHosts,
    /// Whoever administers the hosts: nothing of ours knows of members.
    Administrators,
}

/// What is to be written about cliques now.
pub fn cliques(world: &World, by: SessionsBy, now: Timestamp) -> Vec<Decision> {
    let wanted = match by {
        SessionsBy::SessionHosts => members(world),
        SessionsBy::Administrators => BTreeMap::new(),
    };
    let mut decisions: Vec<Decision> = wanted
        .iter()
        .map(|(clique, nodes)| of_one(world, clique, nodes, now))
        .collect();
    let over = world
        .cliques()
        .filter(|stored| !wanted.contains_key(stored.spec.clique_id.as_str()));
    decisions.extend(over.map(|stored| alone(end(stored))));
    decisions.retain(|decision| !decision.writes.is_empty());
    decisions
}

/// The nodes of each clique.
fn members(world: &World) -> BTreeMap<&str, BTreeSet<&str>> {
    let fabric = world.fabric();
    let mut former: BTreeMap<&str, &str> = BTreeMap::new();
    for clique in world.cliques() {
        for member in &clique.spec.members {
            former
                .entry(&member.node_name)
                .or_insert(&clique.spec.clique_id);
        }
    }
    let mut cliques: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in world.nodes() {
        let fabric = fabric.get(node.name.as_str());
        if fabric.is_some_and(|fabric| fabric.is_none_between_nodes()) {
            continue;
        }
        let told = fabric.and_then(|fabric| fabric.clique.as_deref());
        let clique = told
            .filter(|clique| object_name(clique).is_some())
            .or_else(|| former.get(node.name.as_str()).copied());
        if let Some(clique) = clique {
            cliques.entry(clique).or_default().insert(&node.name);
        }
    }
    cliques
}

fn of_one(world: &World, clique: &str, nodes: &BTreeSet<&str>, now: Timestamp) -> Decision {
    let Some(name) = object_name(clique) else {
        return Decision::default();
    };
    let name = ObjectName::new("", &name);
    let stored = world.clique(&name);
    let spec = renewed(stored, clique, nodes);
    let write = |verb| Write {
        kind: Kind::Clique,
        name: name.clone(),
        verb,
    };
    let Some(stored) = stored else {
        return alone(write(Verb::Create(json!({
            "apiVersion": OWN_API_VERSION, "kind": "NVLinkClique",
            "metadata": {"name": name.name}, "spec": spec,
        }))));
    };
    if spec != stored.spec {
        let version = stored.metadata.resource_version.clone();
        return alone(write(Verb::Merge(json!({
            "metadata": {"resourceVersion": version}, "spec": spec,
        }))));
    }
    let before = stored.status.as_ref();
    let stored_conditions = before.map_or(&[][..], |status| &status.conditions);
    let generation = stored.metadata.generation;
    let ready = status::renewed(
        READY,
        said(stored),
        stored_conditions.iter().find(|it| it.type_ == READY),
        generation,
        now,
    );
    let same = before.is_some_and(|status| {
        status.observed_generation == generation && status.conditions == [ready.clone()]
    });
    if same {
        return Decision::default();
    }
    let status = json!({"conditions": [ready], "observedGeneration": generation});
    alone(write(Verb::Status(json!({"status": status}))))
}

/// The members as they should be: those that are there still, with their indices, and those that are new.
fn renewed(
    stored: Option<&NVLinkClique>,
    clique: &str,
    nodes: &BTreeSet<&str>,
) -> NVLinkCliqueSpec {
    let before = stored.map(|stored| &stored.spec);
    let mut taken: BTreeMap<u32, NVLinkCliqueMember> = BTreeMap::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for member in before.iter().flat_map(|spec| &spec.members) {
        let free = member.index <= HIGHEST_INDEX && !taken.contains_key(&member.index);
        let stays = nodes.contains(member.node_name.as_str());
        if free && stays && known.insert(&member.node_name) {
            taken.insert(member.index, member.clone());
        }
    }
    for node in nodes.iter().filter(|node| !known.contains(*node)) {
        let mut indices = 0..=HIGHEST_INDEX;
        let Some(index) = indices.find(|index| !taken.contains_key(index)) else {
            break;
        };
        let member = NVLinkCliqueMember {
            node_name: (*node).to_owned(),
            index,
            address: String::new(),
        };
        taken.insert(index, member);
    }
    for member in taken.values_mut() {
        let session = stored.and_then(|stored| session(stored, &member.node_name));
        if let Some(session) = session.filter(|session| !session.address.is_empty()) {
            member.address.clone_from(&session.address);
        }
    }
    let highest = taken.last_key_value().map(|(index, _)| *index);
    let members: Vec<NVLinkCliqueMember> = taken.into_values().collect();
    let (epoch, room) = before.map_or((0, 0), |spec| (spec.epoch, spec.room));
    let changed = before.is_none_or(|spec| spec.members != members);
    NVLinkCliqueSpec {
        clique_id: clique.to_owned(),
        epoch: if changed {
            epoch.saturating_add(1)
        } else {
            epoch
        },
        room: room.max(room_for(highest).min(HIGHEST_INDEX + 1)),
        members,
    }
}

fn session<'a>(clique: &'a NVLinkClique, node: &str) -> Option<&'a NVLinkCliqueSession> {
    let mut sessions = clique.status.iter().flat_map(|status| &status.sessions);
    sessions.find(|session| session.node_name == node)
}

/// How the sessions of a clique fare, all in one.
fn said(clique: &NVLinkClique) -> Said {
    let (mut missing, mut unready, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for member in &clique.spec.members {
        let node = &member.node_name;
        match session(clique, node) {
            Some(session) if session.state == NOT_INSTALLED => missing.push(node.clone()),
            session => match Standing::of(session) {
                Standing::Unready(state) => unready.push(format!("{node} ({state})")),
                Standing::Ready(session) => {
                    let members = clique.spec.members.iter().map(|it| it.node_name.as_str());
                    let lost = lost(session, members);
                    if !lost.is_empty() {
                        apart.push(no_connection(node, &lost));
                    }
                }
            },
        }
    }
    let no = |reason, message| Said {
        holds: false,
        reason,
        message,
    };
    if !unready.is_empty() {
        let nodes = Names("node", &unready);
        return no(
            "SessionNotReady",
            format!("the NVLink session is not ready on {nodes}"),
        );
    }
    if !apart.is_empty() {
        let nodes = Names("node", &apart);
        return no(
            "PeerUnreachable",
            format!("sessions have lost each other: {nodes}"),
        );
    }
    if !missing.is_empty() {
        let nodes = Names("node", &missing);
        return no(
            "NotInstalled",
            format!(
                "the driver installation has no nvidia-imex on {nodes}; install it there, or set \
                 resources.computeDomains.imex.mode=hostManaged where somebody else runs it"
            ),
        );
    }
    Said {
        holds: true,
        reason: "SessionsReady",
        message: format!(
            "the NVLink sessions of {} nodes are ready and connected",
            clique.spec.members.len()
        ),
    }
}

/// How the session of a member stands.
enum Standing<'a> {
    /// Not ready, for what it says of itself.
    Unready(&'a str),
    Ready(&'a NVLinkCliqueSession),
}

impl<'a> Standing<'a> {
    fn of(session: Option<&'a NVLinkCliqueSession>) -> Self {
        match session {
            None => Self::Unready("nothing is heard of it"),
            // What nobody here runs is not waited for.
            Some(session) if matches!(session.state.as_str(), "READY" | NOT_INSTALLED) => {
                Self::Ready(session)
            }
            Some(session) => Self::Unready(&session.state),
        }
    }
}

/// Those of `others` to which a session has no connection.
fn lost<'a>(session: &NVLinkCliqueSession, others: impl Iterator<Item = &'a str>) -> Vec<String> {
    let unreachable = |node: &&str| session.unreachable.iter().any(|other| other == node);
    others.filter(unreachable).map(str::to_owned).collect()
}

fn no_connection(node: &str, lost: &[String]) -> String {
    format!("{node} (no connection to {})", Names("node", lost))
}

/// What the session hosts say, by node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions<'a>(BTreeMap<&'a str, Option<&'a NVLinkCliqueSession>>);

impl<'a> Sessions<'a> {
    /// Of everything that is known.
    pub(crate) fn of(world: &'a World) -> Self {
        let mut sessions = BTreeMap::new();
        for clique in world.cliques() {
            for member in &clique.spec.members {
                let node = member.node_name.as_str();
                sessions.insert(node, session(clique, node));
            }
        }
        Self(sessions)
    }

    /// Whether a node's session can be used, as far as there is to be one.
    pub(crate) fn is_ready(&self, node: &str) -> bool {
        let session = self.0.get(node);
        session.is_none_or(|session| matches!(Standing::of(*session), Standing::Ready(_)))
    }

    /// Where a node's session listens.
    pub(crate) fn address(&self, node: &str) -> Option<&'a str> {
        self.0
            .get(node)
            .copied()
            .flatten()
            .map(|session| session.address.as_str())
    }

    /// What is wrong with a node's session for one that is to share memory with `others`.
    pub(crate) fn wrong<'n>(
        &self,
        node: &str,
        others: impl Iterator<Item = &'n str>,
    ) -> Option<String> {
        match Standing::of(*self.0.get(node)?) {
            Standing::Unready(state) => Some(format!("{node} (session: {state})")),
            Standing::Ready(session) => {
                let lost = lost(session, others);
                (!lost.is_empty()).then(|| no_connection(node, &lost))
            }
        }
    }
}

/// The end of a clique's object.
pub(crate) fn end(clique: &NVLinkClique) -> Write {
    Write {
        kind: Kind::Clique,
        name: ObjectName::of(&clique.metadata),
        verb: Verb::Delete(clique.metadata.uid.clone()),
    }
}

fn alone(write: Write) -> Decision {
    Decision {
        writes: vec![write],
        ..Decision::default()
    }
}

#[cfg(test)]
mod tests;
