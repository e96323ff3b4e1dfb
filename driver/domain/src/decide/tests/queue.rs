//! Whose turn it is, and what is kept for whom.

use super::*;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;

/// A cluster in which what is decided is done, statuses too, and every pod is bound at once.
struct Queue {
    known: Known,
    /// Seconds since the beginning.
    time: i64,
    domains: BTreeMap<String, Value>,
    pods: BTreeMap<String, Value>,
}

impl Queue {
    /// Cliques of so many nodes: `a0`, `a1` and so on are in the first.
    fn cliques(sizes: &[u32]) -> Self {
        let letters = ["a", "b", "c", "d"];
        let nodes = sizes.iter().zip(letters).flat_map(|(size, clique)| {
            (0..*size).map(move |at| (format!("{clique}{at}"), format!("{clique}.0")))
        });
        let nodes: Vec<(String, String)> = nodes.collect();
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(node, clique)| (node.as_str(), Some(clique.as_str())))
            .collect();
        Self {
            known: Known::nodes(&nodes),
            time: 0,
            domains: BTreeMap::new(),
            pods: BTreeMap::new(),
        }
    }

    fn now(&self) -> Timestamp {
        later(self.time)
    }

    /// A domain and its pods are made.
    fn comes(&mut self, name: &str, nodes: u32, priority: i32) {
        self.known = std::mem::take(&mut self.known).accepted(name, nodes);
        let mut domain = domain_json(name, nodes);
        domain["metadata"]["finalizers"] = json!([keys::FINALIZER]);
        domain["metadata"]["creationTimestamp"] = json!(self.now());
        self.known.put(Kind::Domain, domain.clone());
        self.domains.insert(name.to_owned(), domain);
        for rank in 0..nodes {
            let mut pod = pod_json(&format!("{name}-{rank}"), name, 4);
            pod["spec"]["priority"] = json!(priority);
            self.pod(pod);
        }
    }

    fn pod(&mut self, pod: Value) {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        self.known.put(Kind::Pod, pod.clone());
        self.pods.insert(name, pod);
    }

    /// The pods of a domain, and it.
    fn ends(&mut self, name: &str) {
        let of = |pod: &String| pod.rsplit_once('-').is_some_and(|(of, _)| of == name);
        let gone: Vec<String> = self.pods.keys().filter(|pod| of(pod)).cloned().collect();
        for pod in gone {
            self.pods.remove(&pod);
            let pod = ObjectName::new("team", &pod);
            self.known.world.remove(Kind::Pod, &pod);
        }
        self.domains.remove(name);
        let domain = ObjectName::new("team", name);
        self.known.world.remove(Kind::Domain, &domain);
    }

    /// A domain is deleted, and its pods with it: they have their grace period.
    fn is_ending(&mut self, name: &str) {
        let mut domain = self.domains[name].clone();
        domain["metadata"]["deletionTimestamp"] = json!(self.now());
        self.known.put(Kind::Domain, domain.clone());
        self.domains.insert(name.to_owned(), domain);
        let of = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().starts_with(name);
        for mut pod in self.pods.clone().into_values().filter(of) {
            pod["metadata"]["deletionTimestamp"] = json!(self.now());
            self.pod(pod);
        }
    }

    /// Some time later everything that is decided is done, until nothing more is.
    fn after(&mut self, seconds: i64) {
        self.time += seconds;
        for _ in 0..20 {
            let mut done = self.bind();
            for write in writes(&self.known.world, self.now()) {
                match (write.kind, write.verb) {
                    (Kind::Slice, verb) => {
                        self.known.slice(Write { verb, ..write });
                        done = true;
                    }
                    (Kind::Domain, Verb::Status(status)) => {
                        let domain = self.domains.get_mut(&write.name.name).unwrap();
                        domain["status"] = status["status"].clone();
                        domain["status"]["nodes"] = json!([]);
                        self.known.put(Kind::Domain, domain.clone());
                    }
                    _ => {}
                }
            }
            if !done {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Every pod of a domain that has nodes gets one. Says whether any did.
    fn bind(&mut self) -> bool {
        let mut bound = false;
        for (nodes, slots) in self.offered() {
            for (rank, node) in nodes.iter().enumerate() {
                let pod = self.pods.get(&format!("{}-{rank}", slots.name.name));
                let Some(mut pod) = pod.filter(|pod| pod["spec"]["nodeName"].is_null()).cloned()
                else {
                    continue;
                };
                pod["spec"]["nodeName"] = json!(node);
                self.pod(pod);
                bound = true;
            }
        }
        bound
    }

    fn offered(&self) -> Vec<(BTreeSet<String>, Slots)> {
        super::offered(&self.known.world)
    }

    /// The nodes that a domain has, in one word.
    fn nodes(&self, name: &str) -> String {
        let offered = self.offered().into_iter();
        let mut own = offered.filter(|(_, slots)| slots.name.name == name);
        own.next().map_or(String::new(), |(nodes, _)| {
            nodes.into_iter().collect::<Vec<_>>().join(" ")
        })
    }

    /// Reason and message of the condition `Ready`, as it is stored.
    fn said(&self, name: &str) -> (String, String) {
        let ready = &self.domains[name]["status"]["conditions"][0];
        let text = |field: &str| ready[field].as_str().unwrap().to_owned();
        (text("reason"), text("message"))
    }
}

#[test]
fn a_small_domain_goes_ahead_of_a_large_one_on_other_nodes_and_later_on_no_others() {
    let mut queue = Queue::cliques(&[4, 2]);
    queue.comes("first", 3, 0);
    queue.after(0);
    assert_eq!(queue.nodes("first").len(), "a0 a1 a2".len());
    queue.comes("large", 4, 0);
    queue.comes("s1", 1, 0);
    queue.after(1);
    assert_eq!(queue.said("large").0, "InsufficientFree");
    // Alone it had the last node of the other clique, which fits best.
    assert!(queue.nodes("s1").starts_with('b'), "{}", queue.nodes("s1"));
    queue.comes("s2", 1, 0);
    queue.after(1);
    assert!(queue.nodes("s2").starts_with('b'), "{}", queue.nodes("s2"));
    // As long as nobody knows when the large one begins, nothing stands still for it.
    queue.comes("s3", 1, 0);
    queue.after(1);
    assert!(queue.nodes("s3").starts_with('a'), "{}", queue.nodes("s3"));
    queue.ends("s3");
    queue.after(10 * MINUTE);
    queue.comes("s4", 1, 0);
    queue.after(0);
    let (reason, message) = queue.said("s4");
    assert_eq!(
        (reason.as_str(), queue.nodes("s4").as_str()),
        ("BlockedByShadow", "")
    );
    assert!(
        message.contains("kept for ComputeDomain team/large,"),
        "{message}"
    );
    queue.ends("first");
    queue.after(0);
    assert_eq!(queue.nodes("large"), "a0 a1 a2 a3");
    assert_eq!(
        queue.said("s4").0,
        "InsufficientFree",
        "nobody is before it any more"
    );
}

#[test]
fn nodes_that_are_about_to_be_free_are_kept_at_once_and_those_beside_them_are_not() {
    let mut queue = Queue::cliques(&[4, 1]);
    queue.comes("first", 3, 0);
    queue.after(0);
    queue.comes("large", 4, 0);
    queue.is_ending("first");
    for small in ["s1", "s2"] {
        queue.comes(small, 1, 0);
    }
    queue.after(0);
    assert_eq!(queue.nodes("s1"), "b0");
    let (reason, message) = queue.said("s2");
    assert_eq!(reason, "BlockedByShadow", "{message}");
    assert!(message.contains("ComputeDomain team/large"), "{message}");
    // Who is more important is not behind it.
    queue.comes("urgent", 1, 9);
    queue.after(0);
    assert_eq!(queue.nodes("urgent").len(), 2);
    queue.ends("urgent");
    queue.ends("first");
    queue.after(0);
    assert_eq!(queue.nodes("large"), "a0 a1 a2 a3");
}

#[test]
fn who_has_waited_for_half_a_day_comes_before_who_is_more_important() {
    for (hours, begins) in [(11, "urgent"), (12, "patient")] {
        let mut queue = Queue::cliques(&[2]);
        queue.comes("first", 2, 0);
        queue.after(0);
        queue.comes("patient", 2, 0);
        queue.after(0);
        queue.after(hours * HOUR);
        queue.comes("urgent", 2, 9);
        queue.ends("first");
        queue.after(0);
        assert_eq!(queue.nodes(begins), "a0 a1", "after {hours} hours");
    }
}

#[test]
fn a_domain_waits_from_when_its_pods_are_there_and_is_looked_at_when_its_time_comes() {
    let mut queue = Queue::cliques(&[2]);
    queue.comes("first", 2, 0);
    queue.comes("second", 2, 0);
    let pods = std::mem::take(&mut queue.pods);
    let (second, first) = pods
        .into_iter()
        .partition(|(name, _)| name.starts_with("second"));
    let second: BTreeMap<String, Value> = second;
    queue.pods = first;
    for pod in second.keys() {
        queue
            .known
            .world
            .remove(Kind::Pod, &ObjectName::new("team", pod));
    }
    queue.after(0);
    queue.after(HOUR);
    assert_eq!(queue.said("second").0, "AwaitingPods");
    for pod in second.into_values() {
        queue.pod(pod);
    }
    queue.after(0);
    let due = |queue: &Queue| decide(&queue.known.world, &rules(), queue.now()).look_again;
    assert_eq!(due(&queue), Some(later(HOUR + 10 * MINUTE)));
    queue.after(10 * MINUTE);
    assert_eq!(due(&queue), Some(later(HOUR + 12 * HOUR)));
}

#[test]
fn a_domain_that_runs_and_lost_a_node_gets_one_that_is_kept() {
    let mut queue = Queue::cliques(&[5]);
    queue.known = queue.known.policy("default", &json!({"replacement": {}}));
    queue.comes("first", 3, 0);
    queue.after(0);
    queue.comes("large", 4, 9);
    queue.after(0);
    queue.after(10 * MINUTE);
    queue.comes("small", 1, 0);
    queue.after(0);
    assert_eq!(queue.said("small").0, "BlockedByShadow");
    let lost = queue.pods["first-0"]["spec"]["nodeName"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut node = node_json(&lost);
    node["spec"]["unschedulable"] = json!(true);
    queue.known.put(Kind::Node, node);
    queue.pods.remove("first-0");
    queue
        .known
        .world
        .remove(Kind::Pod, &ObjectName::new("team", "first-0"));
    queue.after(0);
    let nodes = queue.nodes("first");
    assert!(
        !nodes.contains(&lost) && nodes.len() == "a0 a1 a2".len(),
        "{nodes}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// L1: whatever comes, as domains end one after the other, everyone that fits the empty cluster gets its turn, the same that waits
    /// has no nodes, and a second decision on the same facts is the first.
    #[test]
    fn l1_every_domain_that_can_run_gets_its_turn(
        gangs in prop::collection::vec((1_u32..5, 0..3_i32, 0..15_i64), 2..9),
    ) {
        let mut queue = Queue::cliques(&[4, 2]);
        let mut waits = BTreeSet::new();
        for (at, (nodes, priority, minutes)) in gangs.iter().enumerate() {
            queue.comes(&format!("g{at}"), *nodes, *priority);
            waits.insert(format!("g{at}"));
            queue.after(minutes * MINUTE);
        }
        for _ in 0..=gangs.len() {
            let running: Vec<String> = queue.offered().into_iter().map(|(_, slots)| slots.name.name).collect();
            for gang in &running {
                waits.remove(gang);
            }
            let again = || decide(&queue.known.world, &rules(), queue.now());
            prop_assert_eq!(again(), again());
            let Some(ends) = running.first() else { break };
            queue.ends(ends);
            queue.after(MINUTE);
        }
        prop_assert_eq!(waits, BTreeSet::new());
    }
}
