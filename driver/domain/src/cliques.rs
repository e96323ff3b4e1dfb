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
//! - Whose sessions are changes while no container of the clique can have a channel, because it ends all of them.

mod sessions;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::json;
use tessera_api::{
    NVLinkClique, NVLinkCliqueMember, NVLinkCliqueSession, NVLinkCliqueSpec, OWN_API_VERSION,
    SessionsOf,
};
use tessera_session::roster::{HIGHEST_INDEX, object_name, room_for};

use self::sessions::said;
pub(crate) use self::sessions::{Flaw, Sessions, Sharer};

use crate::decide::Decision;
use crate::facts::ObjectName;
use crate::status;
use crate::tenants::{Tenants, may_be_used};
use crate::world::{Kind, World};
use crate::write::{Verb, Write};

/// The condition that is all others in one.
const READY: &str = "Ready";

/// Who runs the NVLink sessions of cliques.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionsBy {
    /// The session hosts of this driver: one for each clique, or for each domain.
    SessionHosts(SessionsOf),
    /// Whoever administers the hosts: nothing of ours knows of members.
    Administrators,
}

/// What is to be written about cliques now.
pub fn cliques(world: &World, by: SessionsBy, now: Timestamp) -> Vec<Decision> {
    let (wanted, sessions_of) = match by {
        SessionsBy::SessionHosts(sessions_of) => (members(world), sessions_of),
        SessionsBy::Administrators => (BTreeMap::new(), SessionsOf::default()),
    };
    let apart = [sessions_of, world.sessions_of()].contains(&SessionsOf::Domain);
    let tenants = if apart {
        Tenants::of(world, &world.slots())
    } else {
        Tenants::default()
    };
    let cast = |nodes| Cast {
        nodes,
        sessions_of,
        tenants: &tenants,
    };
    let mut decisions: Vec<Decision> = wanted
        .iter()
        .map(|(clique, nodes)| of_one(world, clique, &cast(nodes), now))
        .collect();
    let over = world
        .cliques()
        .filter(|stored| !wanted.contains_key(stored.spec.clique_id.as_str()));
    decisions.extend(over.map(|stored| alone(end(stored))));
    decisions.retain(|decision| !decision.writes.is_empty());
    decisions
}

/// Who is to be in a clique.
struct Cast<'a> {
    nodes: &'a BTreeSet<&'a str>,
    sessions_of: SessionsOf,
    tenants: &'a Tenants<'a>,
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

fn of_one(world: &World, clique: &str, cast: &Cast<'_>, now: Timestamp) -> Decision {
    let Some(name) = object_name(clique) else {
        return Decision::default();
    };
    let name = ObjectName::new("", &name);
    let stored = world.clique(&name);
    let sessions_of = stored.map_or(cast.sessions_of, |stored| {
        sessions_of(world, &stored.spec, cast.sessions_of)
    });
    let spec = renewed(
        stored,
        clique,
        &Cast {
            sessions_of,
            ..*cast
        },
    );
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

/// Whose the sessions of a clique are: as it is wanted, once no container can have a channel there.
fn sessions_of(world: &World, stored: &NVLinkCliqueSpec, wanted: SessionsOf) -> SessionsOf {
    if stored.sessions_of == wanted {
        return wanted;
    }
    let fabric = world.fabric();
    let mut members = stored.members.iter();
    let in_use = members.any(|member| {
        world.node(&member.node_name).is_some()
            && may_be_used(fabric.get(member.node_name.as_str()).copied())
    });
    if in_use { stored.sessions_of } else { wanted }
}

/// The members as they should be: those that are there still, with their indices, and those that are new.
fn renewed(stored: Option<&NVLinkClique>, clique: &str, cast: &Cast<'_>) -> NVLinkCliqueSpec {
    let nodes = cast.nodes;
    // A server with a resource definition from before drops what it does not know, and then no domain is written either.
    let keeps_domains = stored.is_some_and(|it| it.spec.sessions_of == SessionsOf::Domain);
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
            ..NVLinkCliqueMember::default()
        };
        taken.insert(index, member);
    }
    for member in taken.values_mut() {
        let session = stored.and_then(|stored| session(stored, &member.node_name));
        if let Some(session) = session.filter(|session| !session.address.is_empty()) {
            member.address.clone_from(&session.address);
        }
        let tenant = match cast.sessions_of {
            SessionsOf::Domain if keeps_domains => cast.tenants.of_node(&member.node_name),
            SessionsOf::Domain | SessionsOf::Clique => None,
        };
        tenant.unwrap_or_default().clone_into(&mut member.domain);
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
        sessions_of: cast.sessions_of,
        members,
    }
}

fn session<'a>(clique: &'a NVLinkClique, node: &str) -> Option<&'a NVLinkCliqueSession> {
    let mut sessions = clique.status.iter().flat_map(|status| &status.sessions);
    sessions.find(|session| session.node_name == node)
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
