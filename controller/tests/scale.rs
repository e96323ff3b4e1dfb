//! A large cluster through the real watches: lists as an API server writes them, decoded by the real decoder, and a first
//! plan.
//!
//! `TESSERA_CLUSTER_NODES` says how many nodes there are; the figures are printed with `--nocapture`. The API server is a
//! function of this process, so what it takes to write its answers is measured and told apart.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use http::{Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tessera_controller::domains::watch::changes;
use tessera_domain::testing::{domain_json, fabric_json, pod_json};
use tessera_domain::{Kind, Levels, Rules, Verb, World, decide};
use tower::{BoxError, service_fn};

/// Nodes without a word of the environment: as many as a test run has patience for.
const NODES: u64 = 2_000;

/// Nodes of a clique.
const CLIQUE: u64 = 18;

/// Pods of each node that concern nobody here, as a fleet's agents are.
const OTHERS: u64 = 5;

/// What the controller may keep resident for 100,000 nodes.
const BUDGET: u64 = 1 << 30;

/// What a process takes beside its nodes.
const FIXED: u64 = 64 << 20;

fn nodes() -> u64 {
    let text = std::env::var("TESSERA_CLUSTER_NODES");
    text.map_or(NODES, |text| text.parse().unwrap())
}

/// A node as large as those of a cloud: thirty labels, annotations, conditions and fifty images.
fn node(at: u64) -> Value {
    let name = name(at);
    let mut labels = json!({
        "kubernetes.io/hostname": name,
        "topology.kubernetes.io/region": "us-east-1",
        "topology.kubernetes.io/zone": format!("us-east-1{}", at % 3),
        "node.kubernetes.io/instance-type": "p6e-gb200.36xlarge",
        "nvidia.com/gpu.clique": format!("cluster.{}", at / CLIQUE),
    });
    for more in 0..25 {
        labels[format!("feature.node.example.com/capability-{more}")] = json!("true");
    }
    let image = |image: u64| {
        let name = format!("registry.example.com/team/program-{image}");
        let digest = format!("{name}@sha256:{image:064x}");
        json!({"names": [digest, format!("{name}:v1.2.{image}")], "sizeBytes": 123_456_789})
    };
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "False", "reason": "KubeletHasSufficient", "message": "kubelet has enough of it",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let images: Vec<Value> = (0..50).map(image).collect();
    let conditions = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].map(condition);
    json!({
        "metadata": {
            "name": name, "uid": format!("node-{at}"), "resourceVersion": "1", "labels": labels,
            "annotations": {"volumes.example.com/attached": "true".repeat(50)},
        },
        "spec": {"providerID": format!("aws:///us-east-1a/i-{at:017x}")},
        "status": {
            "capacity": {"cpu": "144", "memory": "960Gi"}, "allocatable": {"cpu": "143", "memory": "950Gi"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "conditions": conditions, "images": images,
        },
    })
}

fn name(at: u64) -> String {
    let (high, middle, low) = (at >> 16, (at >> 8) & 255, at & 255);
    format!("ip-10-{high}-{middle}-{low}.ec2.internal")
}

/// The pods of each node, which concern nobody here, but that in three cliques of four one has all GPUs of its node; and
/// after these the pods of a domain of a clique's size.
fn pod(at: u64) -> Value {
    let per_node = OTHERS + 1;
    let (of, which) = (at / per_node, at % per_node);
    if of >= nodes() {
        return pod_json(&format!("worker-{at}"), "train", 4);
    }
    let mut pod = pod_json(&format!("pod-{at}"), "nobody", 4);
    pod["spec"]["nodeName"] = json!(name(of));
    pod["spec"]["resourceClaims"] = json!([]);
    pod["status"]["phase"] = json!("Running");
    let whole = which == OTHERS && of / CLIQUE % 4 != 3;
    if !whole {
        let container = json!({"name": "main", "image": "example.com/agent:1", "resources": {}});
        pod["spec"]["containers"] = json!([container]);
    }
    pod["metadata"]["annotations"] = json!({"example.com/configuration": "x".repeat(1500)});
    pod
}

/// How many objects of a list there are, and the one of a number.
fn list(path: &str) -> (u64, fn(u64) -> Value) {
    match path.rsplit('/').next().unwrap() {
        "nodes" => (nodes(), node),
        "resourceslices" => (nodes(), |at| {
            fabric_json(&name(at), Some(&format!("cluster.{}", at / CLIQUE)))
        }),
        "pods" => (nodes() * (OTHERS + 1) + CLIQUE, pod),
        "computedomains" => (1, |_| domain_json("train", 18)),
        _ => (0, |_| Value::Null),
    }
}

/// What an API server answers; a watch is never answered.
async fn answer(
    request: Request<Body>,
    writing: Arc<AtomicU64>,
) -> Result<Response<Body>, BoxError> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    if query.contains("watch=true") {
        std::future::pending::<()>().await;
    }
    let begun = Instant::now();
    let number = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(key, _)| *key == name);
        found.and_then(|(_, value)| value.parse::<u64>().ok())
    };
    let (count, one) = list(request.uri().path());
    let first = number("continue").unwrap_or(0);
    let end = (first + number("limit").unwrap_or(count)).min(count);
    let rest = if end < count {
        end.to_string()
    } else {
        String::new()
    };
    let items: Vec<Value> = (first..end).map(one).collect();
    let metadata = json!({"resourceVersion": "1", "continue": rest});
    let page = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items});
    let body = Body::from(page.to_string().into_bytes());
    let spent = u64::try_from(begun.elapsed().as_micros()).unwrap();
    writing.fetch_add(spent, Ordering::Relaxed);
    Ok(Response::new(body))
}

/// Memory of this process that is resident, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn a_large_cluster_is_known_within_its_memory_and_planned_in() {
    let writing = Arc::new(AtomicU64::new(0));
    let counted = writing.clone();
    let service = service_fn(move |request| answer(request, counted.clone()));
    let client = Client::new(service, "default");
    let (mut world, mut all) = (World::default(), changes(&client));
    let (before, begun) = (resident(), Instant::now());
    while !world.is_complete() {
        all.next().await.unwrap().apply(&mut world);
    }
    let (known, kept) = (begun.elapsed(), resident().saturating_sub(before));
    let rules = Rules {
        levels: Levels::preset("zones").unwrap(),
        ..Rules::default()
    };
    let begun = Instant::now();
    let decisions = decide(&world, &rules, Timestamp::UNIX_EPOCH);
    let planned = begun.elapsed();
    let mut writes = decisions.each.iter().flat_map(|it| &it.writes);
    let slice = writes.find_map(|write| match &write.verb {
        Verb::Create(slice) if write.kind == Kind::Slice => Some(slice),
        _ => None,
    });
    let terms = &slice.unwrap()["spec"]["nodeSelector"]["nodeSelectorTerms"];
    let chosen = terms[0]["matchExpressions"][0]["values"]
        .as_array()
        .unwrap();
    assert_eq!(chosen.len() as u64, CLIQUE);
    assert_eq!(world.nodes().count() as u64, nodes());
    let whole = resident().saturating_sub(before);
    println!(
        "{} nodes, {} pods: known after {known:?}, of which {:?} went into writing the answers; planned in {planned:?}; \
         {} MiB kept of what was listed, {} MiB with the plan",
        nodes(),
        nodes() * (OTHERS + 1),
        Duration::from_micros(writing.load(Ordering::Relaxed)),
        kept >> 20,
        whole >> 20,
    );
    let budget = FIXED + BUDGET * nodes() / 100_000;
    assert!(whole <= budget, "{whole} bytes of {budget}");
}
