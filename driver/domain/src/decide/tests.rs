//! Each decision by itself.

mod channels;
mod life;
mod own_sessions;
mod placing;
mod policies;
mod preemption;
mod queue;
mod recovery;
mod sessions;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{domain_json, fabric_json, node_json, pod_json, slot_claim_json};
use crate::world::Object;

const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

fn later(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

/// The topology levels of tests; nobody is ended.
fn rules() -> Rules {
    Rules {
        levels: Levels::new(["zone".to_owned(), "block".to_owned()]).unwrap(),
        ..Rules::default()
    }
}

/// What is known in a test.
#[derive(Default)]
struct Known {
    world: World,
    version: u64,
}

impl Known {
    /// Nodes in a clique, four GPUs each.
    fn nodes(nodes: &[(&str, Option<&str>)]) -> Self {
        let mut known = Self::default();
        for (node, clique) in nodes {
            known = known
                .with(Kind::Node, node_json(node))
                .with(Kind::Slice, fabric_json(node, *clique));
        }
        known
    }

    fn pair() -> Self {
        Self::nodes(&[("n0", Some("c.0")), ("n1", Some("c.0"))])
    }

    #[must_use]
    fn with(mut self, kind: Kind, object: Value) -> Self {
        self.put(kind, object);
        self
    }

    fn put(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.world.apply(Object::read(kind, object).unwrap());
    }

    /// A domain that has been accepted, with its template.
    fn accepted(self, name: &str, nodes: u32) -> Self {
        let mut domain = domain_json(name, nodes);
        domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
        let typed: ComputeDomain = serde_json::from_value(domain.clone()).unwrap();
        self.with(Kind::Domain, domain)
            .with(Kind::Template, json!(template::template(&typed)))
    }

    /// A policy in the namespace of the domains.
    #[must_use]
    fn policy(self, name: &str, spec: &Value) -> Self {
        let metadata = json!({"name": name, "namespace": "team"});
        self.with(Kind::Policy, json!({"metadata": metadata, "spec": spec}))
    }

    /// As after everything that is decided about slots has been written, for as long as there is something.
    fn settle(&mut self, now: Timestamp) {
        for _ in 0..20 {
            let slices = writes(&self.world, now)
                .into_iter()
                .filter(|write| write.kind == Kind::Slice);
            let slices: Vec<Write> = slices.collect();
            if slices.is_empty() {
                return;
            }
            for write in slices {
                self.slice(write);
            }
        }
        panic!("it never comes to rest: {:#?}", writes(&self.world, now));
    }

    /// As after a slice has been written.
    fn slice(&mut self, write: Write) {
        match write.verb {
            Verb::Create(slice) => self.put(Kind::Slice, slice),
            Verb::Merge(mut patch) => {
                patch["metadata"]["name"] = json!(write.name.name);
                let annotations = patch["metadata"]["annotations"].as_object_mut();
                annotations.unwrap().retain(|_, value| !value.is_null());
                self.put(Kind::Slice, patch);
            }
            Verb::Delete(_) => self.world.remove(Kind::Slice, &write.name),
            Verb::Json(_) | Verb::Status(_) | Verb::Evict(_) => {
                unreachable!("slices are not patched so")
            }
        }
    }

    /// As after the slots that are decided now have been written.
    fn placed(mut self, now: Timestamp) -> Self {
        for write in writes(&self.world, now) {
            if let (Kind::Slice, Verb::Create(slice)) = (write.kind, write.verb) {
                self.put(Kind::Slice, slice);
            }
        }
        self
    }
}

fn writes(world: &World, now: Timestamp) -> Vec<Write> {
    let each = decide(world, &rules(), now).each;
    each.into_iter()
        .flat_map(|decision| decision.writes)
        .collect()
}

/// The writes in short.
fn told(world: &World, now: Timestamp) -> Vec<String> {
    writes(world, now)
        .iter()
        .map(|write| {
            format!(
                "{} {} {}",
                write.verb.as_str(),
                write.kind.as_str(),
                write.name
            )
        })
        .collect()
}

/// Reason and message of the condition `kind` in the status that is written.
fn said(known: &Known, domain: &str, kind: &str) -> (String, String) {
    let status = writes(&known.world, NOW)
        .into_iter()
        .find_map(|write| match write.verb {
            Verb::Status(status) if write.name.name == domain => Some(status),
            _ => None,
        });
    let status = status.expect("a status is written");
    let conditions = status["status"]["conditions"].as_array().unwrap();
    let condition = conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap();
    let text = |name: &str| condition[name].as_str().unwrap().to_owned();
    (text("reason"), text("message"))
}

#[test]
fn a_new_domain_gets_a_finalizer_a_template_and_a_status() {
    let known = Known::pair().with(Kind::Domain, domain_json("train", 2));
    assert_eq!(
        told(&known.world, NOW),
        [
            "patch computedomain team/train",
            "create resourceclaimtemplate team/train-channel",
            "status computedomain team/train",
        ]
    );
    let (reason, message) = said(&known, "train", "Ready");
    assert_eq!(reason, "AwaitingPods");
    assert!(message.contains("team/train-channel"), "{message}");
}

#[test]
fn the_same_world_gives_the_same_decisions_and_a_settled_one_gives_none() {
    let known = Known::pair()
        .accepted("train", 2)
        .with(Kind::Pod, pod_json("w0", "train", 4));
    assert_eq!(
        decide(&known.world, &rules(), NOW),
        decide(&known.world, &rules(), NOW)
    );
    let empty = Known::pair();
    assert_eq!(decide(&empty.world, &rules(), NOW).each, []);
}

/// Nodes of a gang by their names, and its slots.
fn offered(world: &World) -> Vec<(BTreeSet<String>, Slots)> {
    let stored = world.slots().into_values().map(|stored| stored.slots);
    stored
        .filter(Slots::are_offered)
        .map(|slots| (slots.hostnames.iter().cloned().collect(), slots))
        .collect()
}

proptest! {
    /// I9, and that no GPU is promised twice: whatever domains come in whatever order.
    #[test]
    fn domains_never_share_a_channel_in_a_clique_nor_a_gpu_that_is_held(
        domains in prop::collection::vec((1_u32..4, 0_u32..6, any::<bool>()), 1..10),
    ) {
        let nodes: Vec<String> = (0..6).map(|at| format!("n{at}")).collect();
        let clique = |node: &str| if node < "n3" { "c.0" } else { "c.1" };
        let pairs: Vec<_> = nodes.iter().map(|node| (node.as_str(), Some(clique(node)))).collect();
        let mut known = Known::nodes(&pairs);
        for (at, (size, gpus, early)) in domains.into_iter().enumerate() {
            let name = format!("d{at}");
            known = known
                .accepted(&name, size)
                .with(Kind::Pod, pod_json(&format!("p{at}"), &name, gpus));
            if early {
                known = known.placed(NOW);
            }
        }
        let known = known.placed(NOW);
        let offered = offered(&known.world);
        for (at, (nodes, slots)) in offered.iter().enumerate() {
            let cliques: BTreeSet<_> = nodes.iter().map(|node| clique(node)).collect();
            prop_assert_eq!(cliques.len(), 1);
            for (others, other) in &offered[..at] {
                let meet = others.iter().any(|node| cliques.contains(clique(node)));
                prop_assert!(!meet || slots.channel != other.channel, "{slots:?} {other:?}");
            }
        }
        for node in &nodes {
            let held = offered.iter().filter(|(nodes, _)| nodes.contains(node));
            let held: u32 = held.map(|(_, slots)| slots.gpus_per_node).sum();
            prop_assert!(held <= 4, "{node} has 4 GPUs, and {held} are promised");
        }
    }
}
