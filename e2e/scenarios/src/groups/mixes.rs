//! Claims of every kind beside each other on the GPUs of one node, in mixes that chance decides and a seed repeats.

use std::collections::BTreeMap;
use std::env;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use tessera_cluster::Node;

use super::dynamic_mig::{GPUS, VIEWS, await_views};
use super::manifests::{on_node, pod_by_template};
use super::shares::ADMIN_LABEL;
use crate::agreement::{overlaps, records};
use crate::context::{Context, claim_of};
use crate::failure::{Failure, nothing, same};
use crate::kubernetes::{Objects, Scope, runs};
use crate::pause::pause;
use crate::simulated::Driver;
use crate::wish::{Free, Wish, results};

/// The hardware that claims are mixed on.
const PROFILE: &str = "h100";

/// How often pods come and go.
const ROUNDS: usize = 15;
const MANY_ROUNDS: usize = 100;

/// The mixes, unless the environment names others.
const SEED: u64 = 6;
const SEED_VARIABLE: &str = "TESSERA_MIX_SEED";

/// How long a claim may be pending while what it asks for is free, and its pod not run while it is allocated.
const PATIENCE: Duration = Duration::from_mins(1);

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// What a pod does, and what it does here, so that it ends as soon as it is told to.
const SLEEP: &str = "exec sleep 3600";
const WAIT: &str = "trap 'exit 0' TERM; sleep 3600 & wait";

/// A pod on its way.
struct Life {
    wish: Wish,
    ran: bool,
    /// Since when it could run and does not.
    late: Option<Instant>,
}

pub(crate) fn claims_of_every_kind_come_and_go_beside_each_other_and_leave_nothing(
    context: &Context<'_>,
) -> Result<(), Failure> {
    let node = context.node_with(PROFILE)?;
    let mut driver = Driver::of(node)?;
    context.label_namespace(ADMIN_LABEL, "true")?;
    let rounds = context.either(ROUNDS, MANY_ROUNDS);
    await_views(context, node, GPUS * VIEWS)?;
    let outcome = come_and_go(context, node, &driver, rounds);
    // While what was made can still be destroyed.
    let all = ["pods", "--all"];
    let gone = context.kubernetes().delete(context.namespace(), &all);
    outcome.and(gone)?;
    // GPUs stay in MIG mode until somebody wants them whole.
    driver.heal()
}

fn come_and_go(
    context: &Context<'_>,
    node: &Node,
    driver: &Driver<'_>,
    rounds: usize,
) -> Result<(), Failure> {
    let seed = seed()?;
    println!("    mixes of claims by seed {seed} ({SEED_VARIABLE})");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut lives: BTreeMap<String, Life> = BTreeMap::new();
    let (mut made, mut ran, mut waited) = (0_usize, 0_usize, 0_usize);
    for round in 0..rounds {
        // Somebody who waits mostly goes on waiting.
        let goes = |_: &String, life: &mut Life| chance.u32(..8) < if life.ran { 4 } else { 1 };
        let gone: Vec<_> = lives.extract_if(.., goes).collect();
        ran += gone.iter().filter(|(_, life)| life.ran).count();
        let names: Vec<_> = gone.iter().map(|(name, _)| name.as_str()).collect();
        context.let_go(&names)?;

        let coming: Vec<_> = (0..chance.usize(2..=4))
            .map(|at| (format!("mixed-{}", made + at), Wish::random(&mut chance)))
            .collect();
        made += coming.len();
        context.apply(&manifests(node, &coming))?;
        lives.extend(coming.into_iter().map(|(name, wish)| {
            let life = Life {
                wish,
                ran: false,
                late: None,
            };
            (name, life)
        }));
        settle(context, node, &mut lives).map_err(|failure| {
            let wishes = lives
                .iter()
                .map(|(name, life)| format!("{name}: {}", life.wish));
            let wishes: Vec<_> = wishes.collect();
            Failure::wrong(format!(
                "round {round} of seed {seed}: {failure}\nwishes: {}",
                wishes.join(", ")
            ))
        })?;
        waited += lives.values().filter(|life| !life.ran).count();
        context.agreed()?;
    }
    let names: Vec<_> = lives.keys().map(String::as_str).collect();
    context.delete_pods(&names)?;
    ran += lives.values().filter(|life| life.ran).count();
    println!("    {ran} of {made} pods ran; {waited} times one had to wait");
    context.no_claims()?;
    context.nothing_left()?;
    context.agreed()?;
    same("MIG devices that are left", &driver.mig_devices()?, &0)?;
    nothing("preparations have failed", &context.failed_preparations()?)
}

fn seed() -> Result<u64, Failure> {
    let Ok(text) = env::var(SEED_VARIABLE) else {
        return Ok(SEED);
    };
    text.parse()
        .map_err(|_| Failure::wrong(format!("{SEED_VARIABLE}={text:?} is no number")))
}

/// Waits until every pod runs, or waits for what is not free. At no moment do two claims overlap.
fn settle(
    context: &Context<'_>,
    node: &Node,
    lives: &mut BTreeMap<String, Life>,
) -> Result<(), Failure> {
    loop {
        nothing("claims overlap", &overlaps(&records(node)?))?;
        let slices: Vec<ResourceSlice> = context.kubernetes().items(Scope::Cluster)?;
        let claims: Objects<ResourceClaim> = context.claims()?;
        let pods: Objects<Pod> = context.list()?;
        let free = Free::of(node.name(), &slices, claims.values());
        let mut unsettled = false;
        for (name, life) in lives.iter_mut().filter(|(_, life)| !life.ran) {
            let pod = pods.get(name);
            life.ran = pod.is_some_and(runs);
            let claim = pod.and_then(|pod| claims.get(&claim_of(pod, "gpu").ok()?));
            let could_run = match claim {
                // Its claim is not even made yet.
                None => true,
                Some(claim) => results(claim).next().is_some() || free.fits(&life.wish),
            };
            if life.ran || !could_run {
                life.late = None;
                continue;
            }
            unsettled = true;
            let since = *life.late.get_or_insert_with(Instant::now);
            if since.elapsed() > PATIENCE {
                let (wish, seconds) = (&life.wish, PATIENCE.as_secs());
                let text = format!(
                    "{name} ({wish}) could run for {seconds} s and does not; free is {free:#?}"
                );
                return Err(Failure::wrong(text));
            }
        }
        if !unsettled {
            return Ok(());
        }
        pause(LOOK_AGAIN)?;
    }
}

fn manifests(node: &Node, coming: &[(String, Wish)]) -> String {
    let each = coming.iter().map(|(name, wish)| {
        format!(
            "
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata:
  name: {name}
spec:
  spec:
    devices:
      requests:
{}---{}---",
            wish.request(),
            pod_by_template(name, name).replace(SLEEP, WAIT)
        )
    });
    on_node(&each.collect::<String>(), node)
}
