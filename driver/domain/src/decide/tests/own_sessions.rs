//! Domains with an NVLink session of their own, and with their nodes to themselves.

use tessera_api::NVLinkCliqueMember;

use super::*;
use crate::cliques::{SessionsBy, cliques};

fn own() -> Rules {
    Rules {
        sessions_of: SessionsOf::Domain,
        preemption: true,
        ..rules()
    }
}

/// A cluster that does as it is told about slots and cliques, with session hosts that start what they are to.
struct Site {
    known: Known,
    now: Timestamp,
}

impl Site {
    fn new(known: Known) -> Self {
        let mut site = Self { known, now: NOW };
        site.rest();
        site.sessions_are("READY");
        site
    }

    fn put(&mut self, kind: Kind, object: Value) {
        self.known.put(kind, object);
        self.rest();
    }

    fn passes(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.rest();
    }

    /// A domain, and its pod on no node yet.
    fn comes(&mut self, name: &str, nodes: u32) {
        self.comes_with(name, nodes, 0);
    }

    /// The same, with a pod of this priority.
    fn comes_with(&mut self, name: &str, nodes: u32, priority: i32) {
        let known = std::mem::take(&mut self.known);
        let mut pod = pod_json(&format!("{name}-pod"), name, 0);
        pod["spec"]["priority"] = json!(priority);
        self.known = known.accepted(name, nodes).with(Kind::Pod, pod);
        self.rest();
    }

    /// The domain's pod has a slot and runs on a node.
    fn runs(&mut self, name: &str, node: &str) {
        let pod = format!("{name}-pod");
        self.known.put(Kind::Claim, slot_claim_json(&pod, name));
        let mut object = pod_json(&pod, name, 0);
        object["spec"]["nodeName"] = json!(node);
        self.put(Kind::Pod, object);
    }

    /// The domain's pod is gone from the API.
    fn ends(&mut self, name: &str) {
        let of = |suffix: &str| ObjectName::new("team", &format!("{name}-{suffix}"));
        self.known.world.remove(Kind::Pod, &of("pod"));
        self.known.world.remove(Kind::Claim, &of("pod-channel"));
        self.rest();
    }

    /// The domain's pod ends, and the domain is deleted.
    fn goes(&mut self, name: &str) {
        self.ends(name);
        let domain = ObjectName::new("team", name);
        self.known.world.remove(Kind::Domain, &domain);
        self.rest();
    }

    /// What a node says of the channels in its containers; nothing where it does not say.
    fn holds(&mut self, node: &str, held: Option<&str>) {
        let mut slice = fabric_json(node, Some("c.0"));
        let attributes = &mut slice["spec"]["devices"][0]["attributes"];
        match held {
            Some(held) => attributes["heldChannels"] = json!({"string": held}),
            None => drop(attributes.as_object_mut().unwrap().remove("heldChannels")),
        }
        self.put(Kind::Slice, slice);
    }

    /// Writes until nothing is to be written.
    fn rest(&mut self) {
        for _ in 0..60 {
            let by = SessionsBy::SessionHosts(SessionsOf::Domain);
            let mut each = decide(&self.known.world, &own(), self.now).each;
            each.extend(cliques(&self.known.world, by, self.now));
            let writes = each.into_iter().flat_map(|it| it.writes);
            let writes = writes.filter(|it| matches!(it.kind, Kind::Slice | Kind::Clique));
            let Some(write) = writes.into_iter().next() else {
                return;
            };
            self.write(write);
        }
        panic!("it never comes to rest");
    }

    fn write(&mut self, write: Write) {
        let stored = |site: &Self| {
            let clique = site.known.world.clique(&write.name).unwrap();
            json!({"metadata": clique.metadata, "spec": clique.spec, "status": clique.status})
        };
        match write.verb {
            Verb::Create(object) => self.known.put(write.kind, object),
            Verb::Delete(_) => self.known.world.remove(write.kind, &write.name),
            Verb::Merge(mut patch) if write.kind == Kind::Slice => {
                patch["metadata"]["name"] = json!(write.name.name);
                let annotations = patch["metadata"]["annotations"].as_object_mut();
                annotations.unwrap().retain(|_, value| !value.is_null());
                self.known.put(Kind::Slice, patch);
            }
            Verb::Merge(patch) => {
                let mut object = stored(self);
                object["spec"] = patch["spec"].clone();
                self.known.put(Kind::Clique, object);
            }
            Verb::Status(patch) => {
                let mut object = stored(self);
                object["status"]["conditions"] = patch["status"]["conditions"].clone();
                self.known.put(Kind::Clique, object);
            }
            other => panic!("slices and cliques are not written so: {other:?}"),
        }
    }

    /// The session hosts have done what the members want of them.
    fn sessions_are(&mut self, state: &str) {
        let Some(clique) = self.known.world.clique(&ObjectName::new("", "c.0")) else {
            return;
        };
        let mut object = json!({
            "metadata": clique.metadata, "spec": clique.spec, "status": clique.status,
        });
        let told = |member: &NVLinkCliqueMember| {
            let state = if member.domain.is_empty() {
                "NO_DOMAIN"
            } else {
                state
            };
            json!({"nodeName": member.node_name, "state": state, "domain": member.domain, "address": "10.0.0.1"})
        };
        let members = &clique.spec.members;
        object["status"]["sessions"] = members.iter().map(told).collect();
        self.put(Kind::Clique, object);
    }

    /// Whose each node is.
    fn tenants(&self) -> Vec<String> {
        let clique = self.known.world.clique(&ObjectName::new("", "c.0"));
        let members = clique.into_iter().flat_map(|clique| &clique.spec.members);
        members.map(|member| member.domain.clone()).collect()
    }

    fn ready(&self, name: &str) -> (String, String) {
        let decisions = decide(&self.known.world, &own(), self.now).each;
        let of = ObjectName::new("team", name);
        let decision = decisions
            .into_iter()
            .find(|it| it.domain.as_ref() == Some(&of));
        let writes = decision.unwrap().writes.into_iter();
        let status = writes.rev().find_map(|write| match write.verb {
            Verb::Status(body) => Some(body),
            _ => None,
        });
        let conditions = status.unwrap()["status"]["conditions"].take();
        let mut conditions = conditions.as_array().unwrap().iter();
        let ready = conditions.find(|it| it["type"] == "Ready").unwrap();
        let text = |field: &str| ready[field].as_str().unwrap().to_owned();
        (text("reason"), text("message"))
    }
}

#[test]
fn a_domain_has_its_nodes_to_itself_and_another_is_told_whose_they_are() {
    let mut site = Site::new(Known::pair());
    site.sessions_are("READY");
    site.comes("one", 2);
    assert_eq!(site.tenants(), ["one-uid", "one-uid"]);
    // It asks for no GPU, and no channel is missing: what it lacks is a node of its own.
    site.comes("two", 1);
    let (reason, message) = site.ready("two");
    assert_eq!(reason, "InsufficientFree", "{message}");
    let whose = "ComputeDomain team/one (nodes n0, n1)";
    assert!(message.contains(whose), "{message}");

    site.runs("one", "n0");
    site.holds("n0", Some("1"));
    site.goes("one");
    site.passes(60);
    // The pod is gone from the API, and its container is not: the session stays.
    assert_eq!(site.tenants(), ["one-uid", "one-uid"]);
    assert_eq!(site.ready("two").0, "InsufficientFree");
    site.holds("n0", Some(""));
    site.passes(1);
    assert!(site.tenants().contains(&"two-uid".to_owned()));
    assert!(!site.tenants().contains(&"one-uid".to_owned()));
}

#[test]
fn a_node_that_says_nothing_keeps_the_session_of_its_domain() {
    let mut site = Site::new(Known::pair());
    site.comes("one", 2);
    site.runs("one", "n0");
    site.holds("n0", None);
    site.goes("one");
    site.passes(3600);
    assert_eq!(site.tenants(), ["one-uid", ""]);
    site.holds("n0", Some(""));
    assert_eq!(site.tenants(), ["", ""]);
}

#[test]
fn a_domain_that_follows_its_pods_has_the_nodes_on_which_they_are() {
    let mut site = Site::new(Known::pair());
    site.comes("follows", 0);
    assert_eq!(site.tenants(), ["", ""]);
    site.runs("follows", "n0");
    assert_eq!(site.tenants(), ["follows-uid", ""]);
    site.sessions_are("READY");
    site.comes("pair", 2);
    let (reason, message) = site.ready("pair");
    assert_eq!(reason, "InsufficientFree", "{message}");
    assert!(message.contains("team/follows (node n0)"), "{message}");
    site.comes("single", 1);
    assert_eq!(site.tenants(), ["follows-uid", "single-uid"]);
    let slots = site.known.world.slots();
    let follows = &slots["follows-uid"].slots;
    assert_eq!(follows.hostnames, ["n0"], "n1 is the other's now");
}

#[test]
fn a_domain_is_ready_when_its_own_session_is_and_its_start_is_no_warning() {
    let mut site = Site::new(Known::pair());
    site.sessions_are("READY");
    site.comes("one", 2);
    let (reason, message) = site.ready("one");
    assert_eq!(reason, "SessionStarting", "{message}");
    assert!(message.contains("n0 (NO_DOMAIN)"), "{message}");
    let each = decide(&site.known.world, &own(), site.now).each;
    let notices: Vec<_> = each.iter().flat_map(|it| &it.notices).collect();
    assert_eq!(notices.len(), 1);
    assert!(!notices[0].warning);
    site.sessions_are("INITIALIZING");
    assert_eq!(site.ready("one").0, "SessionStarting");
    site.sessions_are("READY");
    assert_eq!(site.ready("one").0, "NodesReady");
}

#[test]
fn one_of_higher_priority_gets_the_nodes_first_and_the_session_when_the_other_has_let_go() {
    let known = Known::pair().policy("default", &json!({"preempts": true}));
    let mut site = Site::new(known);
    site.comes("one", 2);
    site.runs("one", "n0");
    site.holds("n0", Some("1"));
    site.comes_with("two", 2, 10);
    assert_eq!(site.ready("two").0, "Preempting");
    assert_eq!(site.ready("one").0, "Preempted");
    site.ends("one");
    let offered = |site: &Site| site.known.world.slots()["two-uid"].slots.count > 0;
    assert!(offered(&site), "its pods may come, and wait on the nodes");
    site.passes(60);
    assert_eq!(site.tenants(), ["one-uid", "one-uid"]);
    site.holds("n0", Some(""));
    site.passes(1);
    assert_eq!(site.tenants(), ["two-uid", "two-uid"]);
}

#[test]
fn a_node_without_a_clique_is_everybodys() {
    let mut site = Site::new(Known::nodes(&[("n0", None)]));
    for domain in ["one", "two"] {
        site.comes(domain, 1);
        assert_eq!(site.ready(domain).0, "NodesReady");
    }
}

#[test]
fn sessions_become_those_of_domains_when_no_container_of_the_clique_has_a_channel() {
    let mut known = Known::pair();
    known.put(
        Kind::Clique,
        json!({
            "metadata": {"name": "c.0"},
            "spec": {"cliqueID": "c.0", "epoch": 7, "room": 18, "members": [
                {"nodeName": "n0", "index": 0}, {"nodeName": "n1", "index": 1},
            ]},
        }),
    );
    let mut held = fabric_json("n1", Some("c.0"));
    held["spec"]["devices"][0]["attributes"]["heldChannels"] = json!({"string": "3"});
    known.put(Kind::Slice, held);
    let mut site = Site::new(known);
    assert_eq!(site.known.world.sessions_of(), SessionsOf::Clique);
    site.comes("one", 2);
    assert_eq!(site.tenants(), ["", ""]);
    site.holds("n1", Some(""));
    assert_eq!(site.known.world.sessions_of(), SessionsOf::Domain);
    assert_eq!(site.tenants(), ["one-uid", "one-uid"]);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Comes(usize, u32),
    Runs(usize, usize),
    Goes(usize),
    Holds(usize, bool),
    Passes(i64),
}

const DOMAINS: [&str; 3] = ["one", "two", "three"];
const NODES: [&str; 3] = ["n0", "n1", "n2"];

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0usize..3, 0u32..3).prop_map(|(domain, nodes)| Event::Comes(domain, nodes)),
        (0usize..3, 0usize..3).prop_map(|(domain, node)| Event::Runs(domain, node)),
        (0usize..3).prop_map(Event::Goes),
        (0usize..3, any::<bool>()).prop_map(|(node, held)| Event::Holds(node, held)),
        (1i64..400).prop_map(Event::Passes),
    ]
}

/// Does what happens; what cannot happen does not.
fn happens(site: &mut Site, event: Event) {
    let there = |site: &Site, name: &str| {
        let domain = site.known.world.domain_of_uid(&format!("{name}-uid"));
        domain.is_some()
    };
    match event {
        Event::Comes(at, nodes) if !there(site, DOMAINS[at]) => site.comes(DOMAINS[at], nodes),
        Event::Runs(at, node) => {
            // The scheduler binds a pod that is pending, to a node that the slots name.
            let uid = format!("{}-uid", DOMAINS[at]);
            let slots = site.known.world.slots();
            let named = slots.get(uid.as_str()).is_some_and(|stored| {
                let slots = &stored.slots;
                slots.count > 0 && slots.hostnames.iter().any(|it| it == NODES[node])
            });
            let pod = ObjectName::new("team", &format!("{}-pod", DOMAINS[at]));
            let mut pods = site.known.world.pods();
            let pending = pods.any(|it| it.name == pod && it.stage == PodStage::Pending);
            drop(pods);
            if named && pending {
                site.runs(DOMAINS[at], NODES[node]);
            }
        }
        Event::Goes(at) if there(site, DOMAINS[at]) => site.goes(DOMAINS[at]),
        Event::Holds(node, held) => site.holds(NODES[node], Some(if held { "1" } else { "" })),
        Event::Passes(seconds) => site.passes(seconds),
        Event::Comes(..) | Event::Goes(_) => {}
    }
}

proptest! {
    #[test]
    fn no_session_ends_while_something_may_use_it_and_no_node_is_two_domains(
        events in prop::collection::vec(event(), 1..25),
    ) {
        let nodes = NODES.map(|node| (node, Some("c.0")));
        let mut site = Site::new(Known::nodes(&nodes));
        for event in events {
            let before = site.tenants();
            happens(&mut site, event);
            site.sessions_are("READY");
            let slots = site.known.world.slots();
            let fabric = site.known.world.fabric();
            for ((node, was), is) in NODES.iter().zip(&before).zip(site.tenants()) {
                let may_be_used = slots.contains_key(was.as_str()) || !fabric[node].held.as_ref().unwrap().is_none();
                prop_assert!(was.is_empty() || *was == is || !may_be_used, "{} of {} became {}", node, was, is);
            }
            let offered = slots.values().map(|stored| &stored.slots).filter(|it| it.are_offered());
            let mut named: Vec<(&str, &str)> = Vec::new();
            for slots in offered {
                let domain = site.known.world.domain_of_uid(&slots.domain).unwrap();
                if domain.spec.size() != DomainSize::FollowsPods {
                    named.extend(slots.hostnames.iter().map(|it| (it.as_str(), slots.domain.as_str())));
                }
            }
            for (node, domain) in &named {
                prop_assert_eq!(named.iter().filter(|(other, _)| other == node).count(), 1);
                let at = NODES.iter().position(|it| it == node).unwrap();
                prop_assert_eq!(&site.tenants()[at], domain);
            }
        }
    }
}
