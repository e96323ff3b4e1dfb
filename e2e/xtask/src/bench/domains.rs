//! What compute domains cost: a slot's preparation, a domain of two nodes beside the same pods without one, writes to the
//! API, and the memory of what serves them.
//!
//! On two simulated GB200 nodes that share an NVLink fabric. Rounds without a domain and with one follow each other, so
//! that what else the machine does meets both.

mod counts;
mod rounds;
mod slots;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tessera_cluster::images::{TesseraImage, WORKLOAD};
use tessera_cluster::progress::{Screen, step};
use tessera_cluster::{Drivers, Options};
use tessera_scenarios::Ground;
use tessera_scenarios::kubernetes::Kubernetes;
use tessera_scenarios::release;

use self::counts::Writes;
use self::rounds::Rounds;
use self::slots::Slots;
use super::memory::Memory;
use super::report::{Row, memory, row, spread, started};
use super::summary::Summary;
use super::{Arguments, idle, namespace};

/// Nodes of the domain, one pod on each.
const NODES: u8 = 2;

/// GPUs of a node.
const GPUS: u32 = 4;

const NAMESPACE: &str = "bench-domains";

/// What a session, a domain or an end may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(2);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Everything that was measured.
pub(super) struct Figures {
    rounds: Rounds,
    slots: Slots,
}

/// The cluster that is measured on.
pub(super) fn options() -> Options {
    Options {
        nodes: NODES,
        drivers: Drivers::Profiles(vec!["gb200".to_owned()]),
        racks: 1,
        ..Options::default()
    }
}

/// Installs the driver and measures.
pub(super) fn measure(
    kubernetes: Kubernetes<'_>,
    image: &TesseraImage,
    arguments: &Arguments,
) -> anyhow::Result<Figures> {
    step(&Screen, "install the driver", || {
        kubernetes.cluster().import_image(&image.archive)?;
        release::install_on(Ground::Racks, kubernetes, image)
    })?;
    step(&Screen, "wait for the NVLink session", || {
        let cliques = "/apis/tessera-dra.github.io/v1alpha1/nvlinkcliques";
        until("the NVLink session to be ready", || {
            let cliques = read(kubernetes, cliques)?;
            let items = cliques["items"].as_array();
            Ok(items.is_some_and(|items| !items.is_empty() && items.iter().all(is_ready)))
        })
    })?;
    namespace(kubernetes, NAMESPACE)?;
    let what = "run two pods without a domain and with one, in turns";
    let rounds = step(&Screen, what, || {
        rounds::run(kubernetes, usize::from(arguments.rounds))
    })?;
    let slots = step(&Screen, "prepare claims for slots", || {
        slots::measure(kubernetes, usize::from(arguments.claims))
    })?;
    Ok(Figures { rounds, slots })
}

/// Whether an object's condition `Ready` is true.
fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn read(kubernetes: Kubernetes<'_>, path: &str) -> anyhow::Result<Value> {
    let text = kubernetes.raw(path)?;
    serde_json::from_str(&text).with_context(|| format!("read what {path} answers"))
}

/// Looks again and again until it is so.
fn until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() >= end {
            bail!("wait for {what}: not so after {LIMIT:?}");
        }
        idle::wait(LOOK_AGAIN)?;
    }
    Ok(())
}

/// A domain over all nodes, and a pod for each of them that takes `gpus` of its GPUs and, with a domain, its channel.
fn manifest(name: &str, gpus: u32, with_domain: bool) -> String {
    let domain = if with_domain {
        format!(
            "apiVersion: resource.nvidia.com/v1beta1
kind: ComputeDomain
metadata: {{name: {name}}}
spec: {{numNodes: {NODES}, channel: {{resourceClaimTemplate: {{name: {name}-channel}}}}}}
"
        )
    } else {
        String::new()
    };
    let pods = (0..NODES).map(|rank| pod(name, rank, gpus, with_domain));
    domain + &pods.collect::<String>()
}

fn pod(name: &str, rank: u8, gpus: u32, with_domain: bool) -> String {
    let (claims, claim) = if with_domain {
        (
            format!(
                "resourceClaims: [{{name: channel, resourceClaimTemplateName: {name}-channel}}]"
            ),
            "claims: [{name: channel}]",
        )
    } else {
        (String::new(), "")
    };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}-{rank}, labels: {{gang: {name}}}}}
spec:
  {claims}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 5
  affinity: {{podAntiAffinity: {{requiredDuringSchedulingIgnoredDuringExecution:
    [{{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{gang: {name}}}}}}}]}}}}
  containers:
    - name: main
      image: {WORKLOAD}
      imagePullPolicy: Never
      command: [/bin/sh, -c, \"trap 'exit 0' TERM; sleep 1000 & wait\"]
      resources:
        limits: {{nvidia.com/gpu: {gpus}}}
        {claim}
"
    )
}

/// The figures beside their budgets. The reference driver's is that of its version 0.5-dev on a cluster of the same kind.
pub(super) fn rows(figures: &Figures) -> Vec<Row> {
    let Figures { rounds, slots } = figures;
    let mut rows = vec![row(
        "Prepare of a slot while the session is ready, one at a time, on the socket",
        spread(&slots.timings.prepare),
        "p99 ≤ 15 ms",
        "",
    )];
    rows.extend(starts(rounds));
    rows.extend(writes(rounds));
    rows.push(row(
        "resident memory of the controller with two domains of 2 nodes",
        memory(slots.controller),
        "≤ 20 MiB",
        "",
    ));
    for (what, sizes) in [
        ("session host, process that works", &slots.session_hosts),
        ("session host, its keeper", &slots.keepers),
    ] {
        rows.push(row(
            format!("resident memory of the {what}, the largest of {NODES} nodes"),
            largest(sizes).map_or_else(|| "not seen".to_owned(), memory),
            "both together ≤ 10 MiB",
            "",
        ));
    }
    rows
}

fn largest(sizes: &[Memory]) -> Option<Memory> {
    sizes.iter().copied().max_by_key(|memory| memory.resident)
}

fn starts(rounds: &Rounds) -> Vec<Row> {
    let median = |series: &[Duration]| Summary::of(series).map(|all| all.p50.as_secs_f64());
    let (without, with) = (median(&rounds.without), median(&rounds.with));
    let beyond = with.zip(without).map(|(with, without)| with - without);
    vec![
        row(
            "2 pods with 4 GPUs each, from apply to both Running, without a domain",
            started(&rounds.without),
            "",
            "",
        ),
        row(
            "the same pods with a domain of 2 nodes in the same apply",
            started(&rounds.with),
            "",
            "",
        ),
        row(
            "what the domain adds, between the medians",
            beyond.map_or_else(|| "not seen".to_owned(), |beyond| format!("{beyond:.2} s")),
            "≤ 2 s",
            "4 s",
        ),
    ]
}

fn writes(rounds: &Rounds) -> Vec<Row> {
    let each = |of: fn(&Writes) -> f64| {
        let most = rounds.writes.iter().map(of).fold(0.0, f64::max);
        let sum: f64 = rounds.writes.iter().map(of).sum();
        let count = rounds.writes.len();
        #[allow(clippy::cast_precision_loss, reason = "rounds are few")]
        let mean = sum / count as f64;
        format!("mean {mean:.1}, most {most:.0} (n={count})")
    };
    let what = rounds.writes.last().map_or_else(String::new, Writes::told);
    vec![
        row(
            "API writes of the controller for a domain of 2 nodes, events among them",
            each(Writes::of_controller),
            "all of the driver ≤ 6 + 1·2",
            "",
        ),
        row(
            "API writes of the kubelet plugins for it: which channels their nodes hold",
            each(Writes::of_plugins),
            "",
            "",
        ),
        row(
            "of these, without effect: conflicts and others",
            each(Writes::without_effect),
            "0",
            "",
        ),
        row("what the controller wrote in the last round", what, "", ""),
        row(
            "API writes by anyone beyond those for the same pods without a domain, leases and the state of nodes left out",
            format!("mean {:.1}", rounds.beyond),
            "",
            "",
        ),
    ]
}

/// Removes a domain with its pods, and returns when nothing of it holds a node.
fn remove(kubernetes: Kubernetes<'_>, domains: &[&str]) -> anyhow::Result<()> {
    kubernetes.delete(NAMESPACE, &["pods", "--all"])?;
    for domain in domains {
        kubernetes.delete(NAMESPACE, &["computedomain", domain])?;
    }
    until("no node to be held", || {
        let nodes = read(kubernetes, "/api/v1/nodes")?;
        let nodes = nodes["items"].as_array().into_iter().flatten();
        let taints = nodes.filter_map(|node| node["spec"]["taints"].as_array());
        let held = |taint: &Value| taint["key"] == "tessera-dra.github.io/domain";
        Ok(!taints.flatten().any(held))
    })
}

/// Waits until a domain is ready, and returns its UID.
fn domain_ready(kubernetes: Kubernetes<'_>, name: &str) -> anyhow::Result<String> {
    let path =
        format!("/apis/resource.nvidia.com/v1beta1/namespaces/{NAMESPACE}/computedomains/{name}");
    until("the domain to be ready", || {
        Ok(is_ready(&read(kubernetes, &path)?))
    })?;
    let domain = read(kubernetes, &path)?;
    let uid = domain["metadata"]["uid"].as_str().unwrap_or_default();
    ensure!(!uid.is_empty(), "find the UID of domain {name}");
    Ok(uid.to_owned())
}
