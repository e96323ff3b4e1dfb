//! The controller against a stand-in for the API server, killed at each of its writes.

mod preemption;
mod server;

use std::rc::Rc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tessera_domain::notice::Notice;
use tessera_domain::testing::{domain_json, fabric_json, node_json, pod_json};
use tessera_domain::{Kind, Object, Rules, SessionsBy, SessionsOf, World, Write, keys};

use self::server::{Death, Server, schedule};
use super::Settings;
use super::api::{Api, WriteError, Written, read};
use super::metrics::Metrics;
use super::writer::{Round, Writer};

const START: Timestamp = Timestamp::constant(1_767_225_600, 0);

impl Api for Rc<Server> {
    async fn write(&self, write: &Write) -> Result<Written, WriteError> {
        (**self).write(write).await
    }

    async fn tell(&self, notice: &Notice) -> Result<(), WriteError> {
        (**self).tell(notice).await
    }
}

/// Four nodes with four GPUs each, in two cliques.
fn cluster() -> Rc<Server> {
    let server = Server::default();
    for (node, clique) in [("n0", "c.0"), ("n1", "c.0"), ("n2", "c.1"), ("n3", "c.1")] {
        server.put(Kind::Node, node_json(node));
        server.put(Kind::Slice, fabric_json(node, Some(clique)));
    }
    Rc::new(server)
}

/// A process of the controller: it dies with the server's word, and what follows knows nothing of it.
struct Process {
    server: Rc<Server>,
    writer: Writer<Rc<Server>>,
    world: World,
    sessions: SessionsBy,
}

impl Process {
    fn start(server: &Rc<Server>) -> Self {
        Self::start_with(server, SessionsBy::Administrators)
    }

    fn start_with(server: &Rc<Server>, sessions: SessionsBy) -> Self {
        Self {
            server: Rc::clone(server),
            writer: Writer::new(
                Rc::clone(server),
                Settings {
                    sessions,
                    namespace: "tessera".to_owned(),
                    rules: Rules {
                        preemption: true,
                        sessions_of: match sessions {
                            SessionsBy::SessionHosts(sessions_of) => sessions_of,
                            SessionsBy::Administrators => SessionsOf::Clique,
                        },
                        ..Rules::default()
                    },
                },
                Metrics::default(),
            ),
            world: server.world(),
            sessions,
        }
    }

    /// What watches bring.
    fn watch(&mut self) {
        for kind in Kind::ALL {
            self.world.begin_list(kind);
            for object in self.server.list(kind) {
                self.world.apply(read(kind, object).unwrap());
            }
            self.world.end_list(kind);
        }
    }

    /// Runs, beside a scheduler, until nothing is to be done any more.
    async fn settle(&mut self, now: Timestamp) {
        for _ in 0..100 {
            self.watch();
            let (round, _) = self.writer.round(&mut self.world, now, || true).await;
            if self.server.dead.replace(false) {
                self.server.death.set(None);
                *self = Self::start_with(&self.server, self.sessions);
                continue;
            }
            let before = self.server.end();
            schedule(&self.server);
            if round == Round::Quiet && self.server.end() == before {
                return;
            }
        }
        panic!("it never comes to rest: {:#?}", self.server.log.borrow());
    }
}

fn after(seconds: i64) -> Timestamp {
    START + SignedDuration::from_secs(seconds)
}

fn ready(server: &Server, domain: &str) -> (String, String) {
    let domain = server.get(Kind::Domain, "team", domain).unwrap();
    let conditions = domain["status"]["conditions"].as_array().unwrap();
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready");
    let text = |name: &str| ready.unwrap()[name].as_str().unwrap().to_owned();
    (text("reason"), text("message"))
}

fn nodes_of_pods(server: &Server) -> Vec<String> {
    let pods = server.list(Kind::Pod);
    let node = |pod: &Value| {
        pod["spec"]["nodeName"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    };
    pods.iter().map(node).collect()
}

/// Does the same as before on a new cluster for each death that the writer can die of what it wrote in `calm`, before a write
/// and after it.
async fn at_each_death(calm: &Server, again: impl AsyncFn(&Rc<Server>, Death)) {
    let writes = calm.log.borrow().len();
    for death in (0..writes).flat_map(|at| [Death::Before(at), Death::After(at)]) {
        let server = cluster();
        server.death.set(Some(death));
        again(&server, death).await;
        assert_eq!(server.death.get(), None, "{death:?} was not reached");
    }
}

/// A domain with its two pods comes, runs, and goes.
async fn life(server: &Rc<Server>) -> Value {
    let mut process = Process::start(server);
    server.put(Kind::Domain, domain_json("train", 2));
    for pod in ["w0", "w1"] {
        server.put(Kind::Pod, pod_json(pod, "train", 4));
    }
    process.settle(START).await;
    let middle = json!(server.end());
    let mut nodes = nodes_of_pods(server);
    nodes.sort();
    assert!(nodes == ["n0", "n1"] || nodes == ["n2", "n3"], "{nodes:?}");
    assert_eq!(ready(server, "train").0, "NodesReady");

    server.delete(Kind::Domain, "team", "train");
    process.settle(after(60)).await;
    assert_eq!(ready(server, "train").0, "InUse");
    for pod in ["w0", "w1"] {
        server.remove(Kind::Pod, "team", pod);
        server.remove(Kind::Claim, "team", &format!("{pod}-channel"));
    }
    process.settle(after(120)).await;
    assert!(server.get(Kind::Domain, "team", "train").is_none());
    process.settle(after(140)).await;
    middle
}

#[tokio::test(start_paused = true)]
async fn a_domain_comes_and_goes_and_leaves_nothing() {
    let server = cluster();
    let before = server.end().len();
    life(&server).await;
    let objects = server.end();
    assert_eq!(objects.len(), before, "{objects:#?}");
    for node in server.list(Kind::Node) {
        let taints = node["spec"]["taints"].as_array();
        assert!(taints.is_none_or(Vec::is_empty), "{node}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_domain_of_n_nodes_costs_at_most_six_writes_and_two_for_each_node() {
    let server = cluster();
    let mut process = Process::start(&server);
    server.put(Kind::Domain, domain_json("train", 2));
    process.settle(START).await;
    for pod in ["w0", "w1"] {
        server.put(Kind::Pod, pod_json(pod, "train", 4));
    }
    process.settle(START).await;
    assert_eq!(ready(&server, "train").0, "NodesReady");
    let writes = server.log.borrow().len() + server.events.borrow().len();
    assert!(writes <= 6 + 2 * 2, "{:#?}", server.log.borrow());
}

/// I8, for the writer.
#[tokio::test(start_paused = true)]
async fn wherever_the_writer_dies_the_end_is_the_same() {
    let calm = cluster();
    let middle = life(&calm).await;
    assert!(calm.log.borrow().len() > 10, "{:?}", calm.log);
    at_each_death(&calm, async |server, death| {
        let log = || server.log.borrow();
        assert_eq!(life(server).await, middle, "{death:?} {:#?}", log());
        assert_eq!(server.end(), calm.end(), "{death:?}");
    })
    .await;
}

/// A domain loses a node, which another of the farther clique replaces while its other pod runs on.
async fn life_of_a_loss(server: &Rc<Server>) -> Value {
    let mut process = Process::start(server);
    let spec = json!({"cliquePolicy": "Preferred", "replacement": {}});
    let metadata = json!({"name": "default", "namespace": "team"});
    server.put(Kind::Policy, json!({"metadata": metadata, "spec": spec}));
    server.put(Kind::Domain, domain_json("train", 2));
    for pod in ["w0", "w1"] {
        server.put(Kind::Pod, pod_json(pod, "train", 4));
    }
    process.settle(START).await;
    let lost = nodes_of_pods(server)[0].clone();
    server.remove(Kind::Node, "", &lost);
    server.remove(Kind::Slice, "", &format!("{lost}-fabric"));
    server.remove(Kind::Claim, "team", "w0-channel");
    server.put(Kind::Pod, pod_json("w0", "train", 4));
    process.settle(after(10)).await;
    let nodes = nodes_of_pods(server);
    assert!(
        !nodes.contains(&lost) && !nodes.contains(&"none".to_owned()),
        "{nodes:?}"
    );
    assert_eq!(ready(server, "train").0, "NodesReady");
    json!(server.end())
}

/// I8, for the replacement of nodes.
#[tokio::test(start_paused = true)]
async fn wherever_the_writer_dies_a_lost_node_is_replaced_all_the_same() {
    let calm = cluster();
    let end = life_of_a_loss(&calm).await;
    at_each_death(&calm, async |server, death| {
        assert_eq!(life_of_a_loss(server).await, end, "{death:?}");
    })
    .await;
}

/// Cliques come, a node leaves one, its session hosts say where they are, and in the end nobody keeps them.
async fn life_of_cliques(server: &Rc<Server>) -> Vec<Value> {
    let mut process = Process::start_with(server, SessionsBy::SessionHosts(SessionsOf::Clique));
    process.settle(START).await;
    for (node, address) in [("n0", "10.0.0.1"), ("n1", "10.0.0.2")] {
        let mut clique = server.get(Kind::Clique, "", "c.0").unwrap();
        let session = json!({"nodeName": node, "state": "READY", "epoch": 1, "address": address});
        let sessions = &mut clique["status"]["sessions"];
        *sessions = match sessions.as_array() {
            Some(there) => json!([there.as_slice(), &[session]].concat()),
            None => json!([session]),
        };
        server.put(Kind::Clique, clique);
        process.settle(START).await;
    }
    server.remove(Kind::Node, "", "n3");
    process.settle(START).await;
    let cliques = server.list(Kind::Clique);
    let mut process = Process::start(server);
    process.settle(START).await;
    cliques
}

/// I8, for cliques.
#[tokio::test(start_paused = true)]
async fn wherever_the_writer_of_cliques_dies_their_members_are_the_same() {
    let calm = cluster();
    let cliques = life_of_cliques(&calm).await;
    assert_eq!(cliques.len(), 2);
    let ready = &cliques[0]["status"]["conditions"][0];
    assert_eq!(ready["reason"], "SessionsReady", "{ready}");
    assert_eq!(cliques[0]["spec"]["members"][1]["address"], "10.0.0.2");
    assert_eq!(cliques[1]["spec"]["members"].as_array().unwrap().len(), 1);
    assert!(calm.list(Kind::Clique).is_empty());
    let spec = |cliques: &[Value]| -> Vec<Value> {
        let spec = cliques.iter().map(|clique| clique["spec"].clone());
        spec.collect()
    };
    at_each_death(&calm, async |server, death| {
        let end = life_of_cliques(server).await;
        assert_eq!(spec(&end), spec(&cliques), "{death:?}");
        assert_eq!(server.end(), calm.end(), "{death:?}");
    })
    .await;
}

/// Two domains want the same two nodes, each for a session of its own; the first goes, and the second has them.
async fn life_of_own_sessions(server: &Rc<Server>) -> Vec<Value> {
    for node in ["n2", "n3"] {
        server.remove(Kind::Node, "", node);
    }
    let by = SessionsBy::SessionHosts(SessionsOf::Domain);
    let mut process = Process::start_with(server, by);
    process.settle(START).await;
    let idle = |node: &str| json!({"nodeName": node, "state": "NO_DOMAIN"});
    let status = json!({"status": {"sessions": [idle("n0"), idle("n1")]}});
    server.change(Kind::Clique, "", "c.0", &status);
    for name in ["a", "b"] {
        server.put(Kind::Domain, domain_json(name, 2));
        server.put(Kind::Pod, pod_json(&format!("{name}-w"), name, 0));
        process.settle(START).await;
    }
    let tenants = |server: &Server| -> Vec<Value> {
        let clique = server.get(Kind::Clique, "", "c.0").unwrap();
        let members = clique["spec"]["members"].as_array().unwrap().iter();
        members.map(|member| member["domain"].clone()).collect()
    };
    let first = tenants(server);
    let (reason, message) = ready(server, "b");
    assert_eq!(reason, "InsufficientFree");
    assert!(
        message.contains("ComputeDomain team/a (nodes n0, n1)"),
        "{message}"
    );
    server.remove(Kind::Pod, "team", "a-w");
    server.remove(Kind::Claim, "team", "a-w-channel");
    server.delete(Kind::Domain, "team", "a");
    for seconds in [1, 20, 40] {
        process.settle(after(seconds)).await;
    }
    [first, tenants(server)].concat()
}

/// I8, for domains with a session of their own.
#[tokio::test(start_paused = true)]
async fn wherever_the_writer_dies_no_node_is_taken_from_the_session_of_a_domain_for_another() {
    let calm = cluster();
    let tenants = life_of_own_sessions(&calm).await;
    assert_eq!(tenants, ["a-uid", "a-uid", "b-uid", "b-uid"]);
    at_each_death(&calm, async |server, death| {
        assert_eq!(life_of_own_sessions(server).await, tenants, "{death:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_two_gangs_that_do_not_both_fit_one_runs_whole_and_the_other_holds_nothing() {
    let server = cluster();
    let mut process = Process::start(&server);
    for node in ["n2", "n3"] {
        server.remove(Kind::Node, "", node);
    }
    for domain in ["first", "second"] {
        server.put(Kind::Domain, domain_json(domain, 2));
        for pod in 0..2 {
            server.put(Kind::Pod, pod_json(&format!("{domain}-{pod}"), domain, 4));
        }
    }
    process.settle(START).await;
    assert_eq!(nodes_of_pods(&server), ["n0", "n1", "none", "none"]);
    let (reason, message) = ready(&server, "second");
    assert_eq!(reason, "InsufficientFree");
    assert!(message.contains("0 fit now"), "{message}");
    assert!(server.get(Kind::Slice, "", "domain-second-uid-0").is_none());
    let events = server.events.borrow();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event.reason == "InsufficientFree")
        .map(|event| event.about.kind.as_str())
        .collect();
    assert_eq!(told, ["ComputeDomain", "MPIJob"]);
}

/// I9.
#[tokio::test(start_paused = true)]
async fn two_domains_in_one_clique_have_different_channels_and_a_number_is_quarantined() {
    let server = cluster();
    let mut process = Process::start(&server);
    let channel = |domain: &str| {
        let slice = server
            .get(Kind::Slice, "", &format!("domain-{domain}-uid-0"))
            .unwrap();
        slice["metadata"]["annotations"][keys::CHANNEL_ANNOTATION].clone()
    };
    for node in ["n2", "n3"] {
        server.remove(Kind::Node, "", node);
    }
    for domain in ["a", "b"] {
        server.put(Kind::Domain, domain_json(domain, 2));
        server.put(Kind::Pod, pod_json(&format!("{domain}-0"), domain, 1));
    }
    process.settle(START).await;
    let (a, b) = (channel("a"), channel("b"));
    assert_ne!(a, b);
    // A node still has the channel of the first, though its pod and claim are gone from the API.
    let mut fabric = server.get(Kind::Slice, "", "n0-fabric").unwrap();
    let held = &mut fabric["spec"]["devices"][0]["attributes"]["heldChannels"];
    *held = json!({"string": a});
    server.put(Kind::Slice, fabric);
    server.remove(Kind::Pod, "team", "a-0");
    server.remove(Kind::Claim, "team", "a-0-channel");
    server.delete(Kind::Domain, "team", "a");
    process.settle(after(1)).await;
    assert!(server.get(Kind::Domain, "team", "a").is_none());
    server.put(Kind::Domain, domain_json("c", 2));
    server.put(Kind::Pod, pod_json("c-0", "c", 1));
    process.settle(after(600)).await;
    let c = channel("c");
    assert!(c != a && c != b, "{a} {b} {c}");
    server.put(Kind::Slice, fabric_json("n0", Some("c.0")));
    process.settle(after(601)).await;
    assert!(server.get(Kind::Slice, "", "domain-a-uid-0").is_none());
    server.put(Kind::Domain, domain_json("d", 2));
    server.put(Kind::Pod, pod_json("d-0", "d", 1));
    process.settle(after(602)).await;
    assert_eq!(channel("d"), a);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_lead_writes_nothing() {
    let server = cluster();
    server.put(Kind::Domain, domain_json("train", 0));
    let mut process = Process::start(&server);
    let (round, _) = process
        .writer
        .round(&mut process.world, START, || false)
        .await;
    assert_eq!(round, Round::Deposed);
    assert_eq!(server.log.borrow()[..], [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_again_later_and_others_go_on() {
    let server = cluster();
    let mut process = Process::start(&server);
    server.put(Kind::Domain, domain_json("train", 0));
    server.put(Kind::Domain, domain_json("other", 0));
    // The API server has a template that the watches have not brought yet.
    process.watch();
    let foreign = json!({"metadata": {"name": "other-channel", "namespace": "team"}});
    server.put(Kind::Template, foreign);
    let (round, _) = process
        .writer
        .round(&mut process.world, START, || true)
        .await;
    assert_eq!(round, Round::Wrote);
    assert_eq!(ready(&server, "train").0, "FollowsPods");
    assert!(process.writer.next_try().is_some());
    process.settle(after(1)).await;
    tokio::time::advance(std::time::Duration::from_mins(1)).await;
    process.settle(after(60)).await;
    assert_eq!(ready(&server, "other").0, "TemplateNotOurs");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_known_before_the_watch_brings_it() {
    let server = cluster();
    server.put(Kind::Domain, domain_json("train", 0));
    let mut process = Process::start(&server);
    let old: Object = read(Kind::Domain, server.list(Kind::Domain).remove(0)).unwrap();
    let (round, _) = process
        .writer
        .round(&mut process.world, START, || true)
        .await;
    assert_eq!(round, Round::Wrote);
    // A watch that lags behind brings what was before.
    process.world.apply(old);
    let (round, _) = process
        .writer
        .round(&mut process.world, START, || true)
        .await;
    assert_eq!(round, Round::Quiet);
    assert_eq!(server.log.borrow().len(), 4, "{:#?}", server.log.borrow());
}
