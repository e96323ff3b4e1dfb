//! Puts the parts together and runs them until they are told to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tessera_device::GpuUuid;
use tessera_kubelet_plugin::journal::Journal;
use tessera_kubelet_plugin::locks::GpuLocks;
use tessera_kubelet_plugin::memory_limits::{Cgroups, KnownPromises, OpenDriver, Written};
use tessera_prepare::cdi::CdiKind;
use tessera_shell::http::{self, Health, Pages};
use tessera_shell::logging::chain;
use tessera_shell::metrics;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::args::Args;
use crate::mover::{CardError, CardReport, Mover};
use crate::pace::Pace;
use crate::shown::Shown;

/// A process that has finished no tick for so long is to be replaced. Longer than the driver may take for a card.
const STUCK: Duration = Duration::from_mins(1);

/// Runs until `stop`; every other end is an error.
pub async fn run(args: &Args, stop: CancellationToken) -> anyhow::Result<()> {
    info!(
        version = tessera_shell::VERSION,
        interval = ?args.interval,
        state = %args.state_directory_path.display(),
        "starting"
    );
    let shown = Shown::default();
    let mut registry = Registry::default();
    metrics::register_process(&mut registry);
    shown.register(&mut registry);
    let listener = http::listen(&args.pages.http_endpoint).await?;
    let serving = async {
        let Some(listener) = listener else {
            return Ok(());
        };
        let (living, working) = (shown.clone(), shown.clone());
        let pages = Pages::new(registry, &args.pages.metrics_path)
            .healthy_when(move || {
                Health::when(living.is_fresh(STUCK), "no tick has come to its end")
            })
            .ready_when(move || {
                Health::when(working.is_fresh(STUCK), "no tick has come to its end")
            });
        http::serve(listener, pages, stop.clone())
            .await
            .context("serve metrics and health")
    };
    let moving = async {
        tick_by_tick(args, &shown, &stop).await;
        Ok(())
    };
    tokio::try_join!(moving, serving)?;
    Ok(())
}

async fn tick_by_tick(args: &Args, shown: &Shown, stop: &CancellationToken) {
    let directories = args.directories();
    let driver = Arc::new(OpenDriver::new(
        args.driver_root(),
        args.cgroup_root.clone(),
    ));
    let mover = Mover::new(
        driver.clone(),
        KnownPromises::of(Journal::reading(&directories.journal(), CdiKind::claim())),
        Written::new(directories.limits(), Cgroups(args.cgroup_root.clone())),
        GpuLocks::at(&directories.limit_locks()),
    );
    let (mut pace, mut pause) = (Pace::of(args.interval), Duration::ZERO);
    let mut told = Told::default();
    while stop.run_until_cancelled(sleep(pause)).await.is_some() {
        let seen = mover.tick().await;
        pause = pace.after(seen.as_deref().ok());
        match seen {
            Ok(cards) => {
                if cards.is_empty() {
                    driver.close();
                }
                told.tell(&cards);
                shown.show(&cards);
            }
            Err(error) => {
                told.tell_all(&chain(&error).to_string());
                shown.failed();
            }
        }
    }
}

/// What was logged last of each card: what stays as it is is told once.
#[derive(Debug, Default)]
struct Told {
    cards: BTreeMap<GpuUuid, String>,
    all: Option<String>,
}

impl Told {
    fn tell(&mut self, cards: &[CardReport]) {
        self.all = None;
        self.cards
            .retain(|gpu, _| cards.iter().any(|card| card.gpu == *gpu));
        for CardReport { gpu, outcome } in cards {
            let problem = match outcome {
                // A hook works on it.
                Err(CardError::Locked(_)) => continue,
                Err(error) => Some(chain(error).to_string()),
                Ok(seen) => {
                    if seen.moved > 0 {
                        info!(%gpu, limits = seen.moved, "limits were moved");
                    }
                    let refused = seen.refused.first();
                    refused.map(|(cgroup, error)| format!("{cgroup}: {}", chain(error)))
                }
            };
            let Some(problem) = problem else {
                self.cards.remove(gpu);
                continue;
            };
            if self.cards.get(gpu) != Some(&problem) {
                warn!(%gpu, error = problem, "limits were not moved");
                self.cards.insert(gpu.clone(), problem);
            }
        }
    }

    fn tell_all(&mut self, problem: &str) {
        if self.all.as_deref() != Some(problem) {
            warn!(
                error = problem,
                "it is not known which containers have shares"
            );
            self.all = Some(problem.to_owned());
        }
    }
}
