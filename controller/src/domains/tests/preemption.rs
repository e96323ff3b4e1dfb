//! Gangs that get the nodes of others of lower priority.

use super::*;

/// A gang of two whole nodes, of which there are no more, with pods of this priority.
fn comes(server: &Server, domain: &str, priority: i32) {
    server.put(Kind::Domain, domain_json(domain, 2));
    for rank in 0..2 {
        let mut pod = pod_json(&format!("{domain}-{rank}"), domain, 4);
        pod["spec"]["priority"] = json!(priority);
        server.put(Kind::Pod, pod);
    }
}

/// The half of the cluster, with a gang on it; and a policy by which others are ended.
async fn occupied(server: &Rc<Server>) -> Process {
    for node in ["n2", "n3"] {
        server.remove(Kind::Node, "", node);
    }
    let metadata = json!({"name": "default", "namespace": "team"});
    let policy = json!({"metadata": metadata, "spec": {"preempts": true}});
    server.put(Kind::Policy, policy);
    let mut process = Process::start(server);
    comes(server, "low", 1);
    process.settle(START).await;
    assert_eq!(nodes_of_pods(server), ["n0", "n1"]);
    process
}

/// A gang of higher priority replaces one whole, whose pods come again and wait.
async fn life_of_a_preemption(server: &Rc<Server>) -> Value {
    let mut process = occupied(server).await;
    comes(server, "high", 9);
    process.settle(after(10)).await;
    let pods = server.list(Kind::Pod);
    let names: Vec<_> = pods.iter().map(|pod| &pod["metadata"]["name"]).collect();
    assert_eq!(names, ["high-0", "high-1"]);
    assert_eq!(nodes_of_pods(server), ["n0", "n1"]);
    assert_eq!(ready(server, "high").0, "NodesReady");
    comes(server, "low", 1);
    process.settle(after(20)).await;
    assert_eq!(ready(server, "low").0, "InsufficientFree");
    json!(server.end())
}

/// I8, for preemption.
#[tokio::test(start_paused = true)]
async fn wherever_the_writer_dies_a_gang_replaces_another_all_the_same() {
    let calm = cluster();
    let end = life_of_a_preemption(&calm).await;
    let evictions = |server: &Server| -> Vec<String> {
        let log = server.log.borrow();
        let evictions = log.iter().filter(|line| line.starts_with("evict"));
        evictions.cloned().collect()
    };
    assert_eq!(
        evictions(&calm),
        ["evict pod team/low-0", "evict pod team/low-1"]
    );
    let told = |reason: &str| -> Vec<String> {
        let events = calm.events.borrow();
        let told = events.iter().filter(|event| event.reason == reason);
        told.map(|event| format!("{} {}", event.about.name, event.note))
            .collect()
    };
    let (preempted, preempting) = (told("Preempted"), told("Preempting"));
    assert_eq!((preempted.len(), preempting.len()), (2, 1));
    assert!(preempted[0].starts_with("team/low ") && preempted[0].contains("team/high"));
    assert!(preempting[0].starts_with("team/high ") && preempting[0].contains("team/low"));
    at_each_death(&calm, async |server, death| {
        assert_eq!(life_of_a_preemption(server).await, end, "{death:?}");
        let again = evictions(server);
        assert!((2..=3).contains(&again.len()), "{death:?} {again:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_a_budget_keeps_is_told_and_asked_for_again_later() {
    let server = cluster();
    let mut process = occupied(&server).await;
    server.kept.borrow_mut().push("low-0".to_owned());
    comes(&server, "high", 9);
    process.settle(after(10)).await;
    process.settle(after(10)).await;
    let (reason, message) = ready(&server, "high");
    assert_eq!(reason, "PreemptionRefused");
    assert!(
        message.contains("pod team/low-0: Cannot evict pod"),
        "{message}"
    );
    assert_eq!(ready(&server, "low").0, "Preempted");
    // Of a gang that cannot end whole nobody is ended.
    assert_eq!(server.list(Kind::Pod).len(), 4);
    server.kept.borrow_mut().clear();
    process.settle(after(10)).await;
    assert_eq!(server.list(Kind::Pod).len(), 4, "it is not asked at once");
    tokio::time::advance(std::time::Duration::from_mins(1)).await;
    process.settle(after(70)).await;
    assert_eq!(ready(&server, "high").0, "NodesReady");
}
