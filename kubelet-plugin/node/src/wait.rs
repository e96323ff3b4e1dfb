//! The one way in which a call waits: measured, told when it takes long, and ended when the plugin
//! must end.
//!
//! # Guarantees
//! What is there at once is no wait and leaves no trace. Every wait is in the metrics, while it lasts
//! and after. A wait that lasts longer than [`TELL_AFTER`] is logged and told to the users of the
//! claim, once.

use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tessera_claim::ClaimRef;
use tessera_prepare::notice::Happening;
use tessera_prepare::waiting::WaitingFor;
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::events::Notices;
use crate::metrics::Operation;

/// How long a wait may take before somebody is told. A pod starts in a second or two; after five,
/// somebody who watches it asks why it does not.
pub const TELL_AFTER: Duration = Duration::from_secs(5);

/// Upper bounds in seconds: from a read of the API server to the kubelet's patience.
const BUCKETS: [f64; 9] = [0.002, 0.008, 0.032, 0.125, 0.5, 2.0, 8.0, 20.0, 45.0];

/// A wait was ended because the plugin is ending.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "claim {claim} was waiting for {on}, but this plugin is being stopped; the kubelet will call \
     the next one"
)]
pub struct Interrupted {
    claim: ClaimRef,
    on: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    driver: String,
    operation: Operation,
    reason: &'static str,
}

/// How calls of one driver wait.
#[derive(Clone, Debug)]
pub struct Waits {
    driver: String,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    now: Family<Labels, Gauge>,
    notices: Notices,
    hurry: CancellationToken,
}

impl Waits {
    /// Registers their metrics. Waits are told to `notices` and end when `hurry` is cancelled.
    pub fn new(
        registry: &mut Registry,
        driver: &str,
        notices: Notices,
        hurry: CancellationToken,
    ) -> Self {
        let waits = Self {
            driver: driver.to_owned(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            now: Family::default(),
            notices,
            hurry,
        };
        registry.register(
            "tessera_wait_seconds",
            "Time that claims waited, by what for",
            waits.seconds.clone(),
        );
        registry.register(
            "tessera_waits",
            "Claims that are waiting, by what for",
            waits.now.clone(),
        );
        waits
    }

    /// Where things are told that happen to claims beside the waiting.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Does `work`, which is a wait for what `describe` says.
    ///
    /// The work knows its own deadline. It is dropped where the plugin ends before it, so whatever
    /// it has done when it pends must be good to stay.
    pub async fn during<T>(
        &self,
        operation: Operation,
        claim: &ClaimRef,
        describe: impl Fn() -> WaitingFor,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let mut work = pin!(work);
        if let Some(done) = work.as_mut().now_or_never() {
            return Ok(done);
        }
        let _measured = self.measure(operation, describe().label());
        let mut interrupted = pin!(self.hurry.cancelled());
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = &mut interrupted => return Err(Interrupted::at(claim, &describe())),
            () = sleep(TELL_AFTER) => {}
        }
        let on = describe();
        info!(%claim, waiting_for = %on, "waiting");
        self.notices.tell(Happening::Waiting {
            claim,
            action: operation.action(),
            on: &on,
        });
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = interrupted => Err(Interrupted::at(claim, &describe())),
        }
    }

    fn measure(&self, operation: Operation, reason: &'static str) -> Measured {
        let labels = Labels {
            driver: self.driver.clone(),
            operation,
            reason,
        };
        let now = self.now.get_or_create(&labels).clone();
        now.inc();
        Measured {
            now,
            seconds: self.seconds.get_or_create(&labels).clone(),
            begun: Instant::now(),
        }
    }
}

impl Interrupted {
    /// The wait of this claim for that.
    pub(crate) fn at(claim: &ClaimRef, on: &WaitingFor) -> Self {
        Self {
            claim: claim.clone(),
            on: on.to_string(),
        }
    }
}

/// One wait. It is over when this is dropped, however that comes.
#[derive(Debug)]
struct Measured {
    now: Gauge,
    seconds: Histogram,
    begun: Instant,
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.now.dec();
        self.seconds.observe(self.begun.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
