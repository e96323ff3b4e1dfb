//! A cluster in which what is decided is done, and gangs for it.

use std::collections::BTreeMap;

use tessera_api::POLICY_ANNOTATION;

use super::super::*;
use crate::facts::PodFacts;

/// Whole nodes have so many GPUs.
const GPUS: u32 = 4;

/// A gang.
#[derive(Clone, Debug)]
pub(super) struct Gang {
    pub(super) name: &'static str,
    pub(super) nodes: u32,
    pub(super) priority: i32,
    pub(super) preempts: bool,
    pub(super) preemptible: bool,
}

/// One of which others have nothing to fear.
pub(super) fn meek(name: &'static str, nodes: u32, priority: i32) -> Gang {
    Gang {
        name,
        nodes,
        priority,
        preempts: false,
        preemptible: true,
    }
}

pub(super) fn bold(name: &'static str, nodes: u32, priority: i32) -> Gang {
    Gang {
        preempts: true,
        ..meek(name, nodes, priority)
    }
}

impl Gang {
    pub(super) fn pod(&self, rank: u32) -> Value {
        let mut pod = pod_json(&format!("{}-{rank}", self.name), self.name, GPUS);
        pod["spec"]["priority"] = json!(self.priority);
        pod
    }
}

/// A cluster in which what is decided is done, and a scheduler and kubelets that do their part at once.
pub(super) struct Cluster {
    pub(super) known: Known,
    pub(super) pods: BTreeMap<String, Value>,
    /// The pods that were evicted, each with the gang for which its domain was ended.
    pub(super) evicted: Vec<(String, String)>,
    /// What was said of each domain, in its order and without repetition.
    pub(super) said: BTreeMap<String, Vec<String>>,
}

impl Cluster {
    pub(super) fn of(known: Known) -> Self {
        Self {
            known,
            pods: BTreeMap::new(),
            evicted: Vec::new(),
            said: BTreeMap::new(),
        }
    }

    /// Two cliques of two nodes.
    pub(super) fn racks() -> Self {
        let nodes = [("n0", "c.0"), ("n1", "c.0"), ("n2", "c.1"), ("n3", "c.1")];
        Self::of(Known::nodes(&nodes.map(|(node, of)| (node, Some(of)))))
    }

    pub(super) fn rules() -> Rules {
        Rules {
            preemption: true,
            ..rules()
        }
    }

    pub(super) fn comes(&mut self, gang: &Gang) {
        let known = std::mem::take(&mut self.known);
        let spec = json!({"preempts": gang.preempts, "preemptible": gang.preemptible});
        self.known = known
            .accepted(gang.name, gang.nodes)
            .policy(gang.name, &spec);
        let mut domain = domain_json(gang.name, gang.nodes);
        domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
        domain["metadata"]["annotations"] = json!({POLICY_ANNOTATION: gang.name});
        self.known.put(Kind::Domain, domain);
        for rank in 0..gang.nodes {
            self.put(gang.pod(rank));
        }
    }

    pub(super) fn put(&mut self, pod: Value) {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        self.known.put(Kind::Pod, pod.clone());
        self.pods.insert(name, pod);
    }

    pub(super) fn goes(&mut self, pod: &str) {
        self.known
            .world
            .remove(Kind::Pod, &ObjectName::new("team", pod));
        self.pods.remove(pod);
    }

    /// Does what is decided, once. Says whether anything was.
    pub(super) fn round(&mut self, now: Timestamp) -> bool {
        let decisions = decide(&self.known.world, &Self::rules(), now).each;
        let mut done = false;
        for write in decisions.into_iter().flat_map(|decision| decision.writes) {
            match (write.kind, write.verb) {
                (Kind::Slice, Verb::Create(slice)) => self.known.put(Kind::Slice, slice),
                (Kind::Slice, Verb::Merge(mut patch)) => {
                    patch["metadata"]["name"] = json!(write.name.name);
                    let annotations = patch["metadata"]["annotations"].as_object_mut();
                    annotations.unwrap().retain(|_, value| !value.is_null());
                    self.known.put(Kind::Slice, patch);
                }
                (Kind::Slice, Verb::Delete(_)) => {
                    self.known.world.remove(Kind::Slice, &write.name);
                }
                (Kind::Pod, Verb::Evict(uid)) => self.evict(&write.name.name, &uid),
                (Kind::Domain, Verb::Status(status)) => {
                    let ready = &status["status"]["conditions"][0];
                    let said = self.said.entry(write.name.name).or_default();
                    let reason = ready["reason"].as_str().unwrap().to_owned();
                    if said.last() != Some(&reason) {
                        said.push(reason);
                    }
                    continue;
                }
                // Taints and tolerations.
                (Kind::Node | Kind::Pod, Verb::Json(_)) => continue,
                (kind, verb) => panic!("{kind:?} {verb:?}"),
            }
            done = true;
        }
        done
    }

    /// A pod ends, and whoever made it makes it again.
    pub(super) fn evict(&mut self, pod: &str, uid: &str) {
        let ended = self.pods[pod].clone();
        assert_eq!(ended["metadata"]["uid"], uid);
        let victim = format!("{}-uid", domain_of(pod));
        let waiting = self.known.world.slots();
        let by = waiting
            .values()
            .find(|it| it.slots.wait() && it.slots.awaits.contains(&victim));
        let by = by.expect("nobody is ended for nobody").slots.clone();
        self.assert_whole(&by);
        self.evicted.push((pod.to_owned(), by.name.name));
        self.goes(pod);
        let mut again = ended;
        again["spec"]["nodeName"] = Value::Null;
        self.put(again);
    }

    /// Nobody but those whose end these slots wait for is on their nodes.
    pub(super) fn assert_whole(&self, slots: &Slots) {
        let name = &slots.name.name;
        let domain = self.known.world.domains();
        let domain = domain
            .into_iter()
            .find(|it| it.metadata.name.as_ref() == Some(name));
        let wanted = domain.unwrap().spec.num_nodes;
        assert_eq!(
            i64::try_from(slots.hostnames.len()).unwrap(),
            i64::from(wanted)
        );
        for pod in self.pods.values() {
            let on = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            let owner = format!(
                "{}-uid",
                domain_of(pod["metadata"]["name"].as_str().unwrap())
            );
            let on_these = slots.hostnames.iter().any(|node| node == on);
            assert!(
                !on_these || slots.awaits.contains(&owner),
                "{pod} {slots:?}"
            );
        }
    }

    /// Gives pods the nodes of their slots.
    pub(super) fn schedule(&mut self) -> bool {
        let offered: BTreeMap<String, Slots> = self
            .known
            .world
            .slots()
            .into_values()
            .map(|stored| (stored.slots.name.name.clone(), stored.slots))
            .collect();
        let pending: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod["spec"]["nodeName"].is_null())
            .map(|(name, _)| name.clone())
            .collect();
        let mut bound = false;
        for name in pending {
            let slots = offered.get(domain_of(&name));
            let Some(slots) = slots.filter(|slots| slots.count > 0) else {
                continue;
            };
            let free = |node: &&String| {
                let mut pods = self.pods.values();
                !pods.any(|pod| pod["spec"]["nodeName"] == json!(node))
            };
            let Some(node) = slots.hostnames.iter().find(free).cloned() else {
                continue;
            };
            let mut pod = self.pods[&name].clone();
            pod["spec"]["nodeName"] = json!(node);
            self.put(pod);
            bound = true;
        }
        bound
    }

    /// Until nothing happens any more.
    pub(super) fn settle(&mut self, now: Timestamp) {
        for _ in 0..200 {
            let (decided, bound) = (self.round(now), self.schedule());
            if !decided && !bound {
                return;
            }
        }
        panic!("it never comes to rest: {:?} {:?}", self.evicted, self.said);
    }

    pub(super) fn runs(&self, gang: &str) -> bool {
        let mut own = self.pods.iter().filter(|(name, _)| domain_of(name) == gang);
        own.all(|(_, pod)| !pod["spec"]["nodeName"].is_null())
    }

    pub(super) fn facts(&self, pod: &str) -> &PodFacts {
        let mut pods = self.known.world.pods();
        pods.find(|facts| facts.name.name == pod).unwrap()
    }

    pub(super) fn message(&self, domain: &str) -> String {
        let decisions = decide(&self.known.world, &Self::rules(), NOW).each;
        let status = decisions
            .into_iter()
            .flat_map(|decision| decision.writes)
            .find_map(|write| match write.verb {
                Verb::Status(status) if write.name.name == domain => Some(status),
                _ => None,
            });
        let ready = &status.unwrap()["status"]["conditions"][0];
        ready["message"].as_str().unwrap().to_owned()
    }
}

pub(super) fn domain_of(pod: &str) -> &str {
    pod.rsplit_once('-').unwrap().0
}
