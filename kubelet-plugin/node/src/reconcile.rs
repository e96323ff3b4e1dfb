//! Looks after all claims at the start and every few minutes, and once more when a claim's grace ends
//! or the driver changes.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tessera_prepare::channel::PreparedChannel;
use tokio_util::sync::CancellationToken;

use crate::channels::{ChannelClaims, DomainReader, Kernel};
use crate::claim_reader::ClaimReader;
use crate::claims::{Claims, Grace, LetGo, Outcome};
use crate::executor::Node;
use crate::hardware::{Hardware, HardwareWatch};
use crate::journal::Records;

/// When to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time between two looks when nothing is pending.
    pub interval: Duration,
    /// How long a claim that was let go is left to the kubelet.
    pub grace: Grace,
}

impl Schedule {
    /// The pause after a look: a claim whose grace is running is looked at when it has ended.
    fn pause(self, waiting: bool) -> Duration {
        if waiting {
            self.interval.min(self.grace.0)
        } else {
            self.interval
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Action {
    action: &'static str,
}

/// Counts repairs.
#[derive(Clone, Debug, Default)]
pub struct RepairMetrics(Family<Action, Counter>);

impl RepairMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tessera_repairs",
            "What was repaired without being asked, by action",
            metrics.0.clone(),
        );
        metrics
    }

    fn count(&self, outcome: Outcome) {
        let action = match outcome {
            Outcome::Restored => "restored",
            Outcome::TakenBack => "taken_back",
            Outcome::Rebuilt => "rebuilt",
            Outcome::Unaccounted => "unaccounted",
            Outcome::Destroyed => "mig_destroyed",
            Outcome::Failed => "failed",
        };
        self.0.get_or_create(&Action { action }).inc();
    }
}

/// Who looks after the claims of one driver.
pub trait LookAfter: Send + Sync + 'static {
    /// Looks at everything once, repairs what is not as it should be, and returns what was done.
    fn look_after(
        &self,
        let_go: &mut LetGo,
        grace: Grace,
        hardware: Option<&Hardware>,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

impl<A, R, N> LookAfter for Claims<A, R, N>
where
    A: ClaimReader,
    R: Records + Send + Sync + 'static,
    N: Node + Send + Sync + 'static,
{
    async fn look_after(
        &self,
        let_go: &mut LetGo,
        grace: Grace,
        hardware: Option<&Hardware>,
    ) -> Vec<Outcome> {
        Claims::look_after(self, let_go, grace, hardware).await
    }
}

impl<A, D, R, N, K> LookAfter for ChannelClaims<A, D, R, N, K>
where
    A: ClaimReader,
    D: DomainReader,
    R: Records<PreparedChannel> + Send + Sync + 'static,
    N: Node + Send + Sync + 'static,
    K: Kernel + Send + Sync + 'static,
{
    /// A channel is made of the kernel's numbers, and needs no hardware to be made anew.
    async fn look_after(
        &self,
        let_go: &mut LetGo,
        grace: Grace,
        _hardware: Option<&Hardware>,
    ) -> Vec<Outcome> {
        ChannelClaims::look_after(self, let_go, grace).await
    }
}

/// Looks until `stop` is cancelled.
pub async fn run<C: LookAfter>(
    claims: Arc<C>,
    mut hardware: HardwareWatch,
    schedule: Schedule,
    metrics: RepairMetrics,
    stop: CancellationToken,
) {
    let looking = async {
        let mut let_go = LetGo::default();
        loop {
            hardware.settled().await;
            let now = hardware.now();
            for outcome in claims
                .look_after(&mut let_go, schedule.grace, now.as_deref())
                .await
            {
                metrics.count(outcome);
            }
            let pause = tokio::time::sleep(schedule.pause(let_go.is_waiting()));
            let arrival = async {
                // What could not be made anew without a driver can be now, and what names the
                // files of a former driver is due. How GPUs are cut changes with every claim for a part
                // of one, and makes nothing due.
                while !is_due(now.as_deref(), hardware.now().as_deref()) {
                    hardware.changed().await;
                }
            };
            tokio::select! {
                () = pause => {}
                () = arrival => {}
            }
        }
    };
    stop.run_until_cancelled(looking).await;
}

/// Whether there is a driver, and another one or other GPUs than there were.
fn is_due(before: Option<&Hardware>, now: Option<&Hardware>) -> bool {
    let facts = |hardware: &Hardware| {
        let Hardware { inventory, install } = hardware;
        let gpus = inventory.gpus().iter().map(|gpu| gpu.uuid.clone());
        let gpus: Vec<_> = gpus.collect();
        (inventory.driver().clone(), gpus, install.clone())
    };
    now.is_some_and(|now| before.is_none_or(|before| facts(before) != facts(now)))
}

#[cfg(test)]
mod tests {
    use tessera_device::mig::MigMode;

    use super::*;
    use crate::testing::cutting::h100;
    use crate::testing::machine::{hardware, hardware_without};

    #[test]
    fn a_gpu_that_is_cut_makes_nothing_due_and_a_driver_that_comes_or_a_lost_gpu_does() {
        let before = hardware();
        let cut = h100(0, MigMode::On).mig.unwrap();
        let gpu = before.inventory.gpus()[0].uuid.clone();
        let after = Hardware {
            inventory: before.inventory.with_mig(&gpu, cut).unwrap(),
            install: before.install.clone(),
        };
        assert_ne!(before, after);
        assert!(!is_due(Some(&before), Some(&after)));
        assert!(!is_due(Some(&before), None));
        assert!(is_due(None, Some(&after)));
        assert!(is_due(Some(&before), Some(&hardware_without(0))));
    }

    #[test]
    fn a_pending_claim_is_looked_at_when_its_grace_ends_and_not_minutes_later() {
        let schedule = Schedule {
            interval: Duration::from_mins(5),
            grace: Grace(Duration::from_mins(2)),
        };
        assert_eq!(schedule.pause(false), Duration::from_mins(5));
        assert_eq!(schedule.pause(true), Duration::from_mins(2));
    }
}
