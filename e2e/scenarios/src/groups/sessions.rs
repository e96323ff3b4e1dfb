//! NVLink sessions: `nvidia-imex` of each node of a clique, and what pods, peers and users hear of it.
//!
//! The two nodes are given a common fabric for the time of a scenario. `nvidia-imex` is a simulated one.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tessera_cluster::{IMEX, Node};

use super::domains::{
    channel_of, device_node, domain, end, from_template, kubectl, pod, there, uid_of, wait,
};
use super::guide;
use super::racks::node_of;
use crate::account::{Account, ServiceAccount};
use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, nothing, same};
use crate::kubernetes::{Objects, Scope, name, runs};
use crate::release::RELEASE;
use crate::simulated::Driver;

/// The partition of the fabric that the nodes are in.
const CLIQUE: u32 = 7;

/// From the fabric of the nodes to a session among them: the plugins look at it, the daemons start, and each looks at its
/// peers once in ten seconds.
const SESSION_LIMIT: Duration = Duration::from_secs(45);

/// Time between two looks at processes, which nothing watches.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The DaemonSet of the session hosts, and their account.
const SET: &str = "tessera-session-host";

const KEEPER: &str = "session-keeper";

/// Two nodes that share a fabric, and a session.
struct Rack<'a> {
    context: &'a Context<'a>,
    drivers: Vec<Driver<'a>>,
    clique: String,
}

impl<'a> Rack<'a> {
    /// Gives all nodes a fabric named after the scenario, and returns when their sessions are ready.
    fn join(context: &'a Context<'a>) -> Result<Self, Failure> {
        let mut rack = Self {
            context,
            drivers: Vec::new(),
            clique: tessera_hw::clique_of_rack(context.namespace(), CLIQUE),
        };
        for node in context.nodes() {
            let mut driver = Driver::of(node)?;
            driver.join_fabric(context.namespace(), CLIQUE)?;
            rack.drivers.push(driver);
        }
        let object = format!("nvlinkclique/{}", rack.clique);
        rack.kubectl(&["wait", "--for=create", &object, "--timeout=25s"])?;
        rack.is_ready()?;
        Ok(rack)
    }

    /// Takes the fabric away, and returns when nothing of the session is left.
    fn leave(mut self) -> Result<(), Failure> {
        for driver in &mut self.drivers {
            driver.leave_fabric()?;
        }
        let object = format!("nvlinkclique/{}", self.clique);
        self.kubectl(&["wait", "--for=delete", &object, "--timeout=25s"])?;
        for node in self.context.nodes() {
            let what = format!("nvidia-imex of {} to end", node.name());
            eventually(&what, || node.contained(IMEX[0]).is_empty())?;
        }
        Ok(())
    }

    /// Waits until the condition of the clique, its reason and its message, says all of this.
    fn says(&self, words: &[&str]) -> Result<(), Failure> {
        let object = format!("nvlinkclique/{}", self.clique);
        let ready = |field: &str| format!(r#"{{.status.conditions[?(@.type=="Ready")].{field}}}"#);
        let both = format!("jsonpath={}: {}", ready("reason"), ready("message"));
        let mut said = String::new();
        let held = within(SESSION_LIMIT, || {
            said = self
                .kubectl(&["get", &object, "-o", &both])
                .unwrap_or_default();
            words.iter().all(|word| said.contains(word))
        });
        if held {
            return Ok(());
        }
        Err(Failure::wrong(format!(
            "waited {SESSION_LIMIT:?} for {words:?} of {object}; it says {said:?}"
        )))
    }

    /// Waits until the sessions of all nodes are ready and connected.
    fn is_ready(&self) -> Result<(), Failure> {
        let all = format!("of {} nodes", self.context.nodes().len());
        self.says(&["SessionsReady", &all])
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.context
            .kubernetes()
            .command("default", arguments, None)
    }
}

pub(crate) fn the_session_of_a_clique_is_ready_before_a_pod_asks_and_outlives_what_runs_it(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let rack = Rack::join(context)?;
    let nodes: Vec<&Node> = context.nodes().iter().collect();
    context.apply(&domain("train", 2))?;
    // One on each node: GPUs would see to that, but not every release serves limits of them.
    let apart = "affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
                 [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {gang: train}}}]}}";
    for name in ["worker-0", "worker-1"] {
        let worker = pod(name, &from_template("train"), apart);
        let worker = worker.replace("metadata:\n", "metadata:\n  labels: {gang: train}\n");
        context.apply(&worker)?;
    }
    context.running(&["worker-0", "worker-1"])?;
    has_its_channel(context, "worker-1", "train")?;
    same(
        "the sessions' pods by the reference's label",
        &labelled(context)?,
        &nodes.len(),
    )?;

    // The process that supervises dies: the daemon does not.
    let daemon = the_one(nodes[0], IMEX[0])?;
    let worker = worker(nodes[0])?;
    nodes[0].kill(&[worker]);
    eventually("another process to supervise", || {
        self::worker(nodes[0]).is_ok_and(|now| now != worker)
    })?;
    adopted(context, nodes[0])?;
    same(
        "the daemon's process",
        &the_one(nodes[0], IMEX[0])?,
        &daemon,
    )?;

    // The daemon dies: it is started again.
    nodes[0].kill(&[daemon]);
    eventually("another nvidia-imex", || {
        the_one(nodes[0], IMEX[0]).is_ok_and(|now| now != daemon)
    })?;
    rack.is_ready()?;

    end(context, "train", &["worker-0", "worker-1"])?;
    rack.leave()
}

pub(crate) fn a_pod_waits_for_the_session_of_its_node_and_a_peer_that_is_away_is_named(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let rack = Rack::join(context)?;
    let (here, away) = (&context.nodes()[0], &context.nodes()[1]);
    let stopped = away.stop(away.contained(IMEX[0]));
    let named = format!("{} (", away.name());
    rack.says(&["SessionNotReady", &named])?;
    context.apply(&domain("follow", 0))?;
    for (pod_name, node) in [("ready", here), ("waits", away)] {
        context.apply(&pod(
            pod_name,
            &from_template("follow"),
            &there(node.name()),
        ))?;
    }
    // The session of the other node is ready, so its pod does not wait.
    context.running(&["ready"])?;
    context.event(
        context.scope(),
        "the pod to wait for its session",
        |event| event.reason.as_deref() == Some("WaitingForSession"),
    )?;
    drop(stopped);
    context.running(&["waits"])?;
    same(
        "preparations that failed",
        &context.failed_preparations()?,
        &Vec::new(),
    )?;
    rack.is_ready()?;

    end(context, "follow", &["ready", "waits"])?;
    rack.leave()
}

pub(crate) fn a_session_host_says_how_its_own_node_is_and_nothing_else(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let rack = Rack::join(context)?;
    let (own, other) = (&context.nodes()[0], &context.nodes()[1]);
    let kubernetes = context.kubernetes();
    let account = ServiceAccount {
        namespace: RELEASE,
        name: SET,
    };
    let host = Account::in_pod(kubernetes, account, &session_host(context, own)?)?;
    let session =
        |node: &Node| json!({"sessions": [{"nodeName": node.name(), "state": "STOPPED"}]});
    let status = |status: &Value| {
        let version = "tessera-dra.github.io/v1alpha1";
        let metadata = json!({"name": rack.clique});
        json!({"apiVersion": version, "kind": "NVLinkClique", "metadata": metadata, "status": status}).to_string()
    };
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=tried",
        "--validate=false",
        "--filename=-",
        "--subresource=status",
    ];
    let dry: Vec<&str> = apply.into_iter().chain(["--dry-run=server"]).collect();
    host.kubectl(&dry, Some(&status(&session(own))))?;
    let theirs = "may not say how the session of another node is";
    host.refused(&apply, Some(&status(&session(other))), &[theirs])?;
    let ready = json!({"type": "Ready", "status": "True", "reason": "Tried", "message": "",
                       "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let alone = "but its own node's session";
    let conditions = json!({"conditions": [ready]});
    host.refused(&apply, Some(&status(&conditions)), &[alone])?;
    let unbound = Account::nowhere(kubernetes, account)?;
    unbound.refused(
        &apply,
        Some(&status(&session(own))),
        &["the token names no node"],
    )?;
    rack.leave()
}

/// Where the hosts' nvidia-imex is asked, in a folder that the chart makes.
pub(crate) const HOST_SOCKET: &str = "/run/host-imex/control.sock";

/// The nvidia-imex of a host, as its administrator would run it. It ends with the value.
struct OfHost<'a>(&'a Node);

impl<'a> OfHost<'a> {
    fn start(node: &'a Node) -> Result<Self, Failure> {
        let address = node.address();
        let config = format!(
            "DAEMONIZE=0\nIMEX_CMD_ENABLED=1\nIMEX_CMD_UNIX_DOMAIN_PATH={HOST_SOCKET}\n\
             IMEX_NODE_CONFIG_FILE=/run/host-imex/nodes.cfg\nBIND_INTERFACE_IP={address}\n"
        );
        let folder = node.path("/run/host-imex");
        let written = fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join("nodes.cfg"), format!("{address}\n")))
            .and_then(|()| fs::write(folder.join("config.cfg"), config));
        let started = written.and_then(|()| {
            node.enter("/run/nvidia/driver/usr/bin/nvidia-imex")
                .args(["--config", "/run/host-imex/config.cfg"])
                .args(["--state", "/run/host-imex"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        started
            .map(|_| Self(node))
            .map_err(|error| Failure::wrong(format!("start nvidia-imex on the host: {error}")))
    }
}

impl Drop for OfHost<'_> {
    fn drop(&mut self) {
        self.0.kill(&self.0.processes(IMEX[0]));
        let _ = fs::remove_dir_all(self.0.path("/run/host-imex"));
    }
}

pub(crate) fn where_the_hosts_run_nvidia_imex_a_pod_waits_until_that_of_its_node_is_ready(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = &context.nodes()[0];
    let worker = pod("worker", &from_template("train"), &there(node.name()));
    context.apply(&(domain("train", 1) + &worker))?;
    context.event(
        context.scope(),
        "the pod to be told what is missing of the host's nvidia-imex",
        |event| {
            let told = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("WaitingForSession") && told.contains(HOST_SOCKET)
        },
    )?;
    let imex = OfHost::start(node)?;
    context.running(&["worker"])?;
    has_its_channel(context, "worker", "train")?;
    nothing("preparations have failed", &context.failed_preparations()?)?;
    end(context, "train", &["worker"])?;
    drop(imex);
    Ok(())
}

pub(crate) fn where_each_domain_has_its_session_the_guides_pod_runs_and_another_waits_for_the_node(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let guide = "imex-channel-injection";
    context.apply(guide::INJECTION)?;
    let pods = context.running(&[guide])?;
    let node = node_of(&pods[guide]).unwrap_or_default().to_owned();
    let first = uid_of(context, guide)?;
    has_session_of(context, &first, &node)?;
    for condition in ["FabricReady", "Ready"] {
        let condition = format!("condition={condition}");
        wait(context, &condition, &format!("computedomain/{guide}"))?;
    }
    let imex = context.nodes().iter().filter(|on| on.name() == node);
    let daemons: Vec<u32> = imex.flat_map(|node| node.contained(IMEX[0])).collect();
    same("the daemons on the node", &daemons.len(), &1)?;

    // It asks for no GPU either: the node itself is what it waits for.
    let rival = pod("rival", &from_template("rival"), &there(&node));
    context.apply(&(domain("rival", 1) + &rival))?;
    let whose = format!(
        "ComputeDomain {}/{guide} (node {node})",
        context.namespace()
    );
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].message}"#;
    eventually("the domain to be told whose the node is", || {
        let said = kubectl(context, &["get", "computedomain/rival", "-o", ready]);
        said.is_ok_and(|said| said.contains(&whose))
    })?;

    let domain = format!("computedomain/{guide}");
    kubectl(context, &["delete", &format!("pod/{guide}"), &domain])?;
    context.running(&["rival"])?;
    let second = uid_of(context, "rival")?;
    has_session_of(context, &second, &node)?;
    has_its_channel(context, "rival", "rival")?;
    nothing("preparations have failed", &context.failed_preparations()?)?;
    end(context, "rival", &["rival"])?;
    // With the domain goes its daemon, and the node is nobody's.
    eventually("no nvidia-imex to be left", || {
        let left = context.nodes().iter().flat_map(|it| it.contained(IMEX[0]));
        left.count() == 0
    })
}

/// Waits until the pod of the one session that there is, that of this domain, is found by the domain's UID on its node.
fn has_session_of(context: &Context<'_>, domain: &str, node: &str) -> Result<(), Failure> {
    let label = "resource.nvidia.com/computeDomain";
    let found = |selector: &str| {
        let shown = "jsonpath={.items[*].spec.nodeName}";
        let command = ["get", "pods", "-A", "-l", selector, "-o", shown];
        kubectl(context, &command).unwrap_or_default()
    };
    let own = format!("{label}={domain}");
    eventually("the session's pod to be found by its domain", || {
        found(&own) == node && found(label) == node
    })
}

/// Holds if the pod has the channel of this domain and no other.
fn has_its_channel(context: &Context<'_>, pod: &str, domain: &str) -> Result<(), Failure> {
    let channel = channel_of(context, &uid_of(context, domain)?)?;
    let written = context.written(pod, "main")?;
    same(
        "the channels in the pod",
        &written,
        &vec![device_node(channel)],
    )
}

/// How many pods run under the label by which the reference's daemons are found.
fn labelled(context: &Context<'_>) -> Result<usize, Failure> {
    let pods: Objects<Pod> = context.kubernetes().list(Scope::Namespace(RELEASE))?;
    let label = "resource.nvidia.com/computeDomain";
    let is_labelled = |pod: &&Pod| {
        pod.metadata
            .labels
            .iter()
            .flatten()
            .any(|(key, _)| key == label)
    };
    Ok(pods
        .values()
        .filter(is_labelled)
        .filter(|pod| runs(pod))
        .count())
}

/// The pod of a node's session host.
fn session_host(context: &Context<'_>, node: &Node) -> Result<String, Failure> {
    let pods: Objects<Pod> = context.kubernetes().list(Scope::Namespace(RELEASE))?;
    let on = |pod: &&Pod| {
        let spec = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let mut owners = pod.metadata.owner_references.iter().flatten();
        spec == Some(node.name()) && owners.any(|owner| owner.name == SET)
    };
    let pod = pods.values().find(on).map(name);
    pod.ok_or_else(|| Failure::wrong(format!("no session host is on {}", node.name())))
}

/// Waits until the session host of a node says that it has gone on with a daemon.
fn adopted(context: &Context<'_>, node: &Node) -> Result<(), Failure> {
    let pod = session_host(context, node)?;
    let page = format!("/api/v1/namespaces/{RELEASE}/pods/{pod}:8082/proxy/metrics");
    eventually("the session host to go on with the daemon", || {
        let page = context.kubernetes().raw(&page).unwrap_or_default();
        page.lines()
            .any(|line| line == "tessera_session_adoptions_total 1")
    })
}

/// The one process of a node's containers that runs a program.
fn the_one(node: &Node, program: &str) -> Result<u32, Failure> {
    let processes = node.contained(program);
    match processes[..] {
        [process] => Ok(process),
        _ => Err(Failure::wrong(format!(
            "{program} on {}: {processes:?}",
            node.name()
        ))),
    }
}

/// The process of the session host that does the work.
fn worker(node: &Node) -> Result<u32, Failure> {
    let mut processes = node.contained("tessera-session-host");
    processes.retain(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() != KEEPER)
    });
    let first = processes.first().copied();
    first.ok_or_else(|| Failure::wrong(format!("no session host is on {}", node.name())))
}

fn eventually(what: &str, holds: impl FnMut() -> bool) -> Result<(), Failure> {
    if within(START_LIMIT, holds) {
        return Ok(());
    }
    Err(Failure::wrong(format!("waited {START_LIMIT:?} for {what}")))
}

/// Whether something holds before the time is up.
fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let limit = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= limit {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
    true
}
