//! The manifests of the AWS guide for P6e-GB200, byte by byte as the guide prints them.
//!
//! The images that they name are not the real ones: the nodes hold an image of the test cluster under these names.

use k8s_openapi::api::core::v1::Pod;

use super::domains::{channel_of, kubectl, no_slots, uid_of, wait};
use super::racks::{cliques, node_of};
use crate::context::{Context, START_LIMIT};
use crate::failure::{Failure, same};
use crate::kubernetes::Objects;
use crate::mpi;

/// A domain of one node, and a pod with its channel.
pub(super) const INJECTION: &str = include_str!("../../guide/imex-channel-injection.yaml");

/// A domain of two nodes, and a job of two workers. The guide leaves the launcher out.
const JOB: &str = include_str!("../../guide/nvbandwidth-test-job.yaml");

/// The launcher of the reference driver's demo, but for two things: it does not bind ranks to cores, of which the machine has
/// fewer than a node of the guide; and it runs as root, because the guide's job mounts its keys where only root reads them.
const LAUNCHER: &str = "    Launcher:
      replicas: 1
      template:
        spec:
          containers:
            - image: ghcr.io/nvidia/k8s-samples:nvbandwidth-v0.7-8d103163
              name: mpi-launcher
              command: [mpirun]
              args: [--bind-to, none, --map-by, 'ppr:4:node', -np, '8', --report-bindings, -q,
                nvbandwidth, -t, multinode_device_to_device_memcpy_read_ce]
";

/// How long the test of the reference driver waits for the launcher, and then for its end.
const JOB_LIMIT: &str = "--timeout=60s";

/// The directory of the channels' device nodes.
const CHANNELS: &str = "/dev/nvidia-caps-imex-channels";

pub(crate) fn the_guides_pod_has_the_channel_of_its_domain(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let name = "imex-channel-injection";
    context.apply(INJECTION)?;
    context.running(&[name])?;
    let channel = format!("channel{}", channel_of(context, &uid_of(context, name)?)?);
    let what = "the list of channels";
    let shows = |line: &String| line.ends_with(&channel) && line.starts_with('c');
    context.kubernetes().lines(
        context.namespace(),
        (name, "ctr"),
        what,
        START_LIMIT,
        |lines| lines.iter().any(shows),
    )?;
    let listed = context.execute(name, "ctr", &["ls", CHANNELS])?;
    same("the channels in the pod", &listed.trim(), &channel.as_str())?;
    wait(context, "condition=Ready", &format!("computedomain/{name}"))?;
    let domain = format!("computedomain/{name}");
    kubectl(context, &["delete", &format!("pod/{name}"), &domain])?;
    no_slots(context)
}

pub(crate) fn the_guides_job_runs_to_its_end_in_one_clique(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let (before, after) = JOB
        .split_once("mpiReplicaSpecs:\n")
        .ok_or_else(|| Failure::wrong("the guide's job has no mpiReplicaSpecs"))?;
    let with_launcher = format!("{before}mpiReplicaSpecs:\n{LAUNCHER}{after}");
    mpi::tended(context, || {
        context.apply(&with_launcher)?;
        let launcher = "job/nvbandwidth-test-launcher";
        for condition in ["create", "condition=complete"] {
            let condition = format!("--for={condition}");
            kubectl(context, &["wait", &condition, launcher, JOB_LIMIT])?;
        }
        wait(context, "condition=Succeeded", "mpijob/nvbandwidth-test")?;
        has_run(context)?;
        kubectl(context, &["delete", "mpijob/nvbandwidth-test"])?;
        let what = "the job's pods to be gone";
        context.pods_within(what, START_LIMIT, |pods| pods.is_empty().then_some(()))
    })?;
    let domain = "computedomain/nvbandwidth-test-compute-domain";
    kubectl(context, &["delete", domain])?;
    no_slots(context)
}

fn has_run(context: &Context<'_>) -> Result<(), Failure> {
    let pods: Objects<Pod> = context.list()?;
    let cliques = cliques(context)?;
    let node = |worker: &str| pods.get(worker).and_then(node_of).unwrap_or_default();
    let nodes = [0, 1].map(|index| node(&format!("nvbandwidth-test-worker-{index}")));
    same(
        "whether the workers share a node",
        &(nodes[0] == nodes[1]),
        &false,
    )?;
    let [one, other] = nodes.map(|node| cliques.get(node));
    same("the cliques of the workers", &one, &other)?;

    let uid = uid_of(context, "nvbandwidth-test-compute-domain")?;
    let channel = channel_of(context, &uid)?;
    // Four ranks of each host, and the hosts in the order of the hostfile.
    let rank = |rank: usize| {
        let host = rank / 4;
        format!("rank {rank} of 8 on nvbandwidth-test-worker-{host}: 4 GPUs, channel{channel}")
    };
    let selector = "--selector=job-name=nvbandwidth-test-launcher";
    let log = kubectl(context, &["logs", selector, "--tail=-1"])?;
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("rank "))
        .collect();
    let wanted: Vec<_> = (0..8).map(rank).collect();
    same(
        "what the ranks say",
        &lines,
        &wanted.iter().map(String::as_str).collect(),
    )?;

    let hostfile = "jsonpath={.data.hostfile}";
    let config = "configmap/nvbandwidth-test-config";
    let hostfile = kubectl(context, &["get", config, "-o", hostfile])?;
    let namespace = context.namespace();
    let host = |index| {
        format!("nvbandwidth-test-worker-{index}.nvbandwidth-test.{namespace}.svc slots=4\n")
    };
    same("the hostfile", &hostfile, &(host(0) + &host(1)))
}
