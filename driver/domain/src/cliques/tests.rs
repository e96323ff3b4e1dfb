use proptest::prelude::*;
use serde_json::Value;
use tessera_session::report::NOT_INSTALLED;

use super::*;
use crate::testing::{fabric_json, node_json};
use crate::world::Object;

const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// A cluster that does as it is told.
#[derive(Default)]
struct Known {
    world: World,
    version: u64,
    sessions_of: SessionsOf,
}

impl Known {
    fn put(&mut self, object: Object) {
        self.world.apply(object);
    }

    fn node(&mut self, node: &str, clique: Option<&str>) {
        self.version += 1;
        let (mut object, mut slice) = (node_json(node), fabric_json(node, clique));
        for object in [&mut object, &mut slice] {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        self.put(Object::Node(serde_json::from_value(object).unwrap()));
        self.put(Object::Slice(serde_json::from_value(slice).unwrap()));
    }

    fn without_fabric(&mut self, node: &str) {
        self.version += 1;
        let mut slice = fabric_json(node, None);
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
        slice["spec"]["devices"][0]["attributes"]["fabricState"] =
            json!({"string": "NotSupported"});
        self.put(Object::Slice(serde_json::from_value(slice).unwrap()));
    }

    fn leaves(&mut self, node: &str) {
        self.world.remove(Kind::Node, &ObjectName::new("", node));
    }

    /// What a node's session host says.
    fn says(&mut self, clique: &str, session: &Value) {
        let mut stored = self.stored(clique);
        let mut status = stored.status.take().unwrap_or_default();
        let session: NVLinkCliqueSession = serde_json::from_value(session.clone()).unwrap();
        status
            .sessions
            .retain(|other| other.node_name != session.node_name);
        status.sessions.push(session);
        stored.status = Some(status);
        self.put(Object::Clique(Box::new(Self::newer(stored))));
    }

    fn newer(mut clique: NVLinkClique) -> NVLinkClique {
        let version = clique.metadata.resource_version.as_deref();
        let version: u64 = version.map_or(0, |version| version.parse().unwrap());
        clique.metadata.resource_version = Some((version + 1).to_string());
        clique
    }

    fn stored(&self, clique: &str) -> NVLinkClique {
        self.world
            .clique(&ObjectName::new("", clique))
            .unwrap()
            .clone()
    }

    /// Writes until nothing is to be written; says how many writes it took.
    fn settle(&mut self) -> usize {
        for done in 0..40 {
            let decisions = cliques(&self.world, SessionsBy::SessionHosts(self.sessions_of), NOW);
            let Some(write) = decisions.into_iter().flat_map(|it| it.writes).next() else {
                return done;
            };
            self.write(&write);
        }
        panic!("it never comes to rest");
    }

    fn write(&mut self, write: &Write) {
        let patched = |known: &Self, patch: &Value, field: &str| {
            let mut object = json!(known.stored(&write.name.name));
            for (key, value) in patch[field].as_object().unwrap() {
                object[field][key] = value.clone();
            }
            Self::newer(serde_json::from_value(object).unwrap())
        };
        let clique = match &write.verb {
            Verb::Create(object) => Self::newer(serde_json::from_value(object.clone()).unwrap()),
            Verb::Merge(patch) => patched(self, patch, "spec"),
            Verb::Status(patch) => patched(self, patch, "status"),
            other => {
                assert!(matches!(other, Verb::Delete(_)));
                return self.world.remove(Kind::Clique, &write.name);
            }
        };
        self.put(Object::Clique(Box::new(clique)));
    }

    fn members(&self, clique: &str) -> Vec<(String, u32, String)> {
        let members = self.stored(clique).spec.members.into_iter();
        members
            .map(|it| (it.node_name, it.index, it.address))
            .collect()
    }

    fn ready(&self, clique: &str) -> (String, String) {
        let ready = self.stored(clique).status.unwrap().conditions.remove(0);
        (ready.reason, ready.message)
    }
}

fn pair() -> Known {
    let mut known = Known::default();
    known.node("n1", Some("c.1"));
    known.node("n0", Some("c.1"));
    known.node("lone", None);
    known.settle();
    known
}

fn of(node: &str, state: &str, unreachable: &[&str]) -> Value {
    json!({"nodeName": node, "state": state, "unreachable": unreachable, "address": "10.0.0.9"})
}

#[test]
fn a_clique_lists_its_nodes_and_learns_where_their_sessions_listen() {
    let mut known = pair();
    let place = |node: &str, index, address: &str| (node.to_owned(), index, address.to_owned());
    assert_eq!(
        known.members("c.1"),
        [place("n0", 0, ""), place("n1", 1, "")]
    );
    assert_eq!(known.stored("c.1").spec.epoch, 1);
    assert_eq!(known.stored("c.1").spec.room, 18);
    known.says("c.1", &of("n1", "READY", &[]));
    known.settle();
    assert_eq!(
        known.members("c.1"),
        [place("n0", 0, ""), place("n1", 1, "10.0.0.9")]
    );
    assert_eq!(known.stored("c.1").spec.epoch, 2);
    assert_eq!(known.settle(), 0);
}

#[test]
fn a_member_stays_while_nothing_is_known_of_its_fabric_and_goes_with_its_node() {
    let mut known = pair();
    known.node("n0", None);
    assert_eq!(known.settle(), 0);
    known.without_fabric("n0");
    known.settle();
    assert_eq!(known.members("c.1"), [("n1".to_owned(), 1, String::new())]);
    known.node("n0", Some("c.1"));
    known.settle();
    known.leaves("n0");
    known.settle();
    assert_eq!(known.members("c.1"), [("n1".to_owned(), 1, String::new())]);
    known.node("a-new-one", Some("c.1"));
    known.settle();
    assert_eq!(
        known.members("c.1")[0],
        ("a-new-one".to_owned(), 0, String::new())
    );
    assert_eq!(known.stored("c.1").spec.epoch, 5);
    for node in ["n1", "a-new-one"] {
        known.leaves(node);
    }
    known.settle();
    assert_eq!(known.world.cliques().count(), 0);
}

#[test]
fn a_node_that_tells_of_another_clique_changes_over() {
    let mut known = pair();
    known.node("n0", Some("c.2"));
    known.settle();
    assert_eq!(known.members("c.1").len(), 1);
    assert_eq!(known.members("c.2").len(), 1);
}

#[test]
fn a_clique_says_what_is_wrong_with_its_sessions() {
    let mut known = pair();
    for (states, reason, mentions) in [
        (
            [of("n0", "READY", &[]), of("n1", "READY", &[])],
            "SessionsReady",
            "2 nodes",
        ),
        (
            [
                of("n0", "READY", &[]),
                of("n1", "WAITING_FOR_RECOVERY", &[]),
            ],
            "SessionNotReady",
            "n1 (WAITING_FOR_RECOVERY)",
        ),
        (
            [of("n0", "READY", &["n1"]), of("n1", "READY", &[])],
            "PeerUnreachable",
            "n0 (no connection to node n1)",
        ),
        // One that left the clique is nobody's peer.
        (
            [of("n0", "READY", &["gone"]), of("n1", "READY", &[])],
            "SessionsReady",
            "2 nodes",
        ),
        (
            [of("n0", "READY", &[]), of("n1", NOT_INSTALLED, &[])],
            "NotInstalled",
            "hostManaged",
        ),
    ] {
        for state in &states {
            known.says("c.1", state);
        }
        known.settle();
        let (said, message) = known.ready("c.1");
        assert_eq!(said, reason, "{message}");
        assert!(message.contains(mentions), "{message}");
    }
}

#[test]
fn a_nodes_session_is_used_when_it_is_ready_or_nobody_here_runs_it() {
    let mut known = pair();
    for (said, ready) in [("READY", true), (NOT_INSTALLED, true), ("STOPPED", false)] {
        known.says("c.1", &of("n0", said, &[]));
        assert_eq!(Sessions::of(&known.world).is_ready("n0"), ready, "{said}");
    }
    let sessions = Sessions::of(&known.world);
    assert!(!sessions.is_ready("n1"), "nothing is heard of it");
    assert!(sessions.is_ready("lone") && sessions.is_ready("unknown"));
    let sharer = Sharer {
        domain: "d",
        chosen: true,
    };
    assert_eq!(sessions.wrong("lone", sharer, std::iter::empty()), None);
    known.says("c.1", &of("n0", "READY", &["n1", "n2"]));
    let sessions = Sessions::of(&known.world);
    assert_eq!(sessions.wrong("n0", sharer, ["n3"].into_iter()), None);
    let wrong = sessions.wrong("n0", sharer, ["n1", "n3"].into_iter());
    let named = Flaw::Unready("n0 (no connection to node n1)".to_owned());
    assert_eq!(wrong, Some(named));
}

#[test]
fn where_administrators_run_the_sessions_no_clique_is_kept() {
    let mut known = pair();
    let decisions = cliques(&known.world, SessionsBy::Administrators, NOW);
    for write in decisions.into_iter().flat_map(|decision| decision.writes) {
        known.write(&write);
    }
    assert_eq!(known.world.cliques().count(), 0);
    assert_eq!(cliques(&known.world, SessionsBy::Administrators, NOW), []);
}

#[test]
fn an_id_that_no_object_can_be_named_after_is_no_clique() {
    let mut known = Known::default();
    known.node("n0", Some("../nodes/n0"));
    assert_eq!(known.settle(), 0);
}

#[derive(Clone, Debug)]
enum Event {
    Tells(usize, Option<usize>),
    Leaves(usize),
    Listens(usize, u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0usize..8, prop::option::of(0usize..2))
            .prop_map(|(node, clique)| Event::Tells(node, clique)),
        (0usize..8).prop_map(Event::Leaves),
        (0usize..8, 1u8..4).prop_map(|(node, address)| Event::Listens(node, address)),
    ]
}

proptest! {
    #[test]
    fn indices_never_move_and_are_never_shared_and_epochs_grow_with_members(
        events in prop::collection::vec(event(), 1..30),
    ) {
        let mut known = Known::default();
        for event in events {
            let before: Vec<NVLinkClique> = known.world.cliques().cloned().collect();
            match event {
                Event::Tells(node, clique) => {
                    known.node(&format!("n{node}"), clique.map(|clique| ["c.0", "c.1"][clique]));
                }
                Event::Leaves(node) => known.leaves(&format!("n{node}")),
                Event::Listens(node, address) => {
                    let node = format!("n{node}");
                    let of = before.iter().find(|it| it.spec.members.iter().any(|it| it.node_name == node));
                    if let Some(clique) = of {
                        let said = json!({"nodeName": node, "state": "READY", "address": format!("10.0.0.{address}")});
                        known.says(&clique.spec.clique_id, &said);
                    }
                }
            }
            known.settle();
            for before in &before {
                let name = ObjectName::of(&before.metadata);
                let Some(after) = known.world.clique(&name) else { continue };
                let (old, new) = (&before.spec, &after.spec);
                prop_assert_eq!(old.members != new.members, old.epoch != new.epoch);
                prop_assert!(old.epoch <= new.epoch && old.room <= new.room);
                for member in &old.members {
                    let mut same = new.members.iter().filter(|it| it.node_name == member.node_name);
                    prop_assert!(same.all(|it| it.index == member.index));
                }
            }
            for clique in known.world.cliques() {
                let indices: BTreeSet<u32> = clique.spec.members.iter().map(|it| it.index).collect();
                prop_assert_eq!(indices.len(), clique.spec.members.len());
                prop_assert!(indices.iter().all(|index| *index < clique.spec.room));
                prop_assert!(!clique.spec.members.is_empty());
            }
        }
    }
}
