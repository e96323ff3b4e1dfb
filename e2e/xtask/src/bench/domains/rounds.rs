//! Two pods, in turns without a domain and with one.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tessera_scenarios::kubernetes::{Kubernetes, Objects, Scope};

use super::super::idle;
use super::counts::{Counts, Writes};
use super::{GPUS, LIMIT, NAMESPACE, NODES, domain_ready, manifest, remove};

/// How long writes that come late are waited for: conditions that follow the pods, and events.
const SETTLE: Duration = Duration::from_secs(2);

/// What came of the rounds.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Rounds {
    /// From the apply until both pods run, without a domain.
    pub(super) without: Vec<Duration>,
    /// The same with one.
    pub(super) with: Vec<Duration>,
    /// The driver's writes for each domain.
    pub(super) writes: Vec<Writes>,
    /// Writes by anyone for a domain, beyond those without one: the mean.
    pub(super) beyond: f64,
}

/// Lets so many rounds of both kinds come and go. The first of each fills caches, and is not told.
pub(super) fn run(kubernetes: Kubernetes<'_>, count: usize) -> anyhow::Result<Rounds> {
    let mut rounds = Rounds::default();
    let mut beyond = Vec::new();
    for round in 0..=count {
        let (without, plain) = come(kubernetes, &format!("plain-{round}"), false)?;
        remove(kubernetes, &[])?;
        let name = format!("train-{round}");
        let (with, domain) = come(kubernetes, &name, true)?;
        remove(kubernetes, &[&name])?;
        if round > 0 {
            rounds.without.push(without);
            rounds.with.push(with);
            beyond.push(domain.by_anyone() - plain.by_anyone());
            rounds.writes.push(domain);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "rounds are few")]
    let mean = beyond.iter().sum::<f64>() / beyond.len() as f64;
    rounds.beyond = mean;
    Ok(rounds)
}

/// Applies the pods and returns when they run, with how long it took and what was written until all is told.
fn come(
    kubernetes: Kubernetes<'_>,
    name: &str,
    with_domain: bool,
) -> anyhow::Result<(Duration, Writes)> {
    // What the round before it has left to be written.
    idle::wait(SETTLE)?;
    let before = Counts::now(kubernetes)?;
    let begun = Instant::now();
    kubernetes.apply(NAMESPACE, &manifest(name, GPUS, with_domain))?;
    let scope = Scope::Namespace(NAMESPACE);
    kubernetes.wait(scope, "both pods to run", LIMIT, |pods: &Objects<Pod>| {
        (pods.values().filter(|pod| runs(pod)).count() == usize::from(NODES)).then_some(())
    })?;
    let took = begun.elapsed();
    if with_domain {
        domain_ready(kubernetes, name)?;
    }
    idle::wait(SETTLE)?;
    Ok((took, Counts::now(kubernetes)?.since(&before)))
}

fn runs(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.and_then(|status| status.phase.as_deref()) == Some("Running")
}
