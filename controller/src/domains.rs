//! Compute domains: an index fed by watches, pure decisions, one writer.
//!
//! # Flow
//! Watches tell what happens, and [`World`] knows it. When something has happened, it is decided what is to be
//! written, and the leader writes it; what the API server answers is known at once. That goes on until nothing
//! is to be written. Followers watch too, so that a new leader knows everything when it begins.
//!
//! # Guarantees
//! Nothing is written before everything was listed once, and nothing by a process that does not lead.
//! Nothing is kept here that the API server does not have: a process that is killed at any point is followed by
//! one that goes on from there.

pub mod api;
pub mod metrics;
pub mod pause;
pub mod watch;
pub mod writer;

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::Client;
use tessera_domain::{Rules, SessionsBy, World};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::api::KubeApi;
pub use self::metrics::Metrics;
use self::writer::{Round, Writer};
use crate::lease::Leadership;

/// How compute domains are served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who runs NVLink sessions.
    pub sessions: SessionsBy,
    /// Where the session hosts are: the own namespace.
    pub namespace: String,
    /// What the administrator says of domains.
    pub rules: Rules,
}

/// How long to wait for more after something has happened: the pods of a job come one after the other within
/// milliseconds, and are planned together.
const GATHER: Duration = Duration::from_millis(50);

/// How often somebody looks who may not write: it does not lead, or does not know everything yet.
const STAND_BY: Duration = Duration::from_secs(5);

/// How often to look where nothing has happened: what was overlooked is found.
const RESYNC: Duration = Duration::from_mins(1);

/// Serves compute domains until `stop`.
pub async fn run(
    client: Client,
    instance: &str,
    settings: Settings,
    metrics: Metrics,
    mut leadership: Receiver<Leadership>,
    stop: CancellationToken,
) {
    let mut world = World::default();
    let mut changes = watch::changes(&client);
    let mut writer = Writer::new(KubeApi::new(client, instance), settings, metrics);
    let mut look = Instant::now();
    let mut complete = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(change) = changes.next() => {
                change.apply(&mut world);
                look = look.min(Instant::now() + GATHER);
                continue;
            }
            Ok(()) = leadership.changed() => {
                look = Instant::now();
                continue;
            }
            () = sleep_until(look) => {}
        }
        if !complete && world.is_complete() {
            complete = true;
            info!("everything about compute domains is known");
        }
        let leads = || leadership.borrow().leads(Instant::now());
        if !complete || !leads() {
            look = Instant::now() + STAND_BY;
            continue;
        }
        let (round, due) = tokio::select! {
            () = stop.cancelled() => return,
            done = writer.round(&mut world, Timestamp::now(), leads) => done,
        };
        let pause = match round {
            Round::Wrote => Duration::ZERO,
            Round::Quiet => due.map_or(RESYNC, pause_until).min(RESYNC),
            Round::Deposed => STAND_BY,
        };
        look = Instant::now() + pause;
        if let (Round::Quiet, Some(retry)) = (round, writer.next_try()) {
            look = look.min(retry);
        }
    }
}

/// How long it is until then, but never so short that a clock which is set back makes a busy loop.
fn pause_until(due: Timestamp) -> Duration {
    let left = Timestamp::now().duration_until(due);
    Duration::try_from(left).unwrap_or_default().max(GATHER)
}

#[cfg(test)]
mod tests;
