//! Pods that come and go on one node, in an order that chance decides and a seed repeats.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tessera_cluster::Node;

use crate::context::Context;
use crate::failure::Failure;
use crate::groups::manifests::one_gpu_on;
use crate::kubernetes::{Objects, runs};

/// How many pods come and go.
pub(crate) const PODS: usize = 50;

/// How many there are at once: fewer than the node has GPUs, as those that go still hold theirs.
const AT_ONCE: usize = 6;

/// After so long a pod that does not run is given up. It is far less than the minute after which the
/// kubelet tries again what has failed.
const PATIENCE: Duration = Duration::from_secs(45);

/// The longest that all of it may take.
const LIMIT: Duration = Duration::from_mins(8);

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// A pod on its way.
struct Life {
    since: Instant,
    ran: bool,
}

/// Lets [`PODS`] pods with a GPU each come and go on a node, and returns those that never ran.
pub(crate) fn churn(context: &Context<'_>, node: &Node, seed: u64) -> Result<Vec<String>, Failure> {
    println!("    pods come and go in the order of seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut lives: BTreeMap<String, Life> = BTreeMap::new();
    let (mut made, mut never) = (0, Vec::new());
    let begun = Instant::now();
    while made < PODS || !lives.is_empty() {
        if begun.elapsed() > LIMIT {
            let left = lives.into_keys().collect::<Vec<_>>().join("\n");
            return Err(Failure::Slow {
                what: "all pods to come and go".to_owned(),
                limit: LIMIT,
                seen: left,
            });
        }
        look(&context.list()?, &mut lives);
        let gone = leaving(&mut lives, &mut chance);
        never.extend(
            gone.iter()
                .filter(|(_, life)| !life.ran)
                .map(|(name, _)| name.clone()),
        );
        let names: Vec<_> = gone.iter().map(|(name, _)| name.as_str()).collect();
        context.let_go(&names)?;
        let new = (PODS - made).min(AT_ONCE - lives.len());
        let coming: Vec<_> = (made..made + new).map(|n| format!("pod-{n}")).collect();
        made += new;
        come(context, node, &coming)?;
        let since = Instant::now();
        lives.extend(
            coming
                .into_iter()
                .map(|name| (name, Life { since, ran: false })),
        );
        thread::sleep(LOOK_AGAIN);
    }
    Ok(never)
}

fn look(pods: &Objects<Pod>, lives: &mut BTreeMap<String, Life>) {
    for (name, life) in lives {
        life.ran |= pods.get(name).is_some_and(runs);
    }
}

/// Of the pods that have run some, and all that take too long.
fn leaving(lives: &mut BTreeMap<String, Life>, chance: &mut fastrand::Rng) -> Vec<(String, Life)> {
    let goes = |_: &String, life: &mut Life| {
        if life.ran {
            chance.bool()
        } else {
            life.since.elapsed() > PATIENCE
        }
    };
    lives.extract_if(.., goes).collect()
}

fn come(context: &Context<'_>, node: &Node, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    let pods: Vec<_> = names.iter().map(|name| one_gpu_on(node, name)).collect();
    context.apply(&pods.join("\n---\n"))
}
