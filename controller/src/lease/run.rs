//! Carries the election's steps out and publishes who leads.

use tessera_shell::logging::chain;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    LeaseStore, Loss, Moment, Observed, Params, Record, Step, StoreError, decide, release,
};

/// What this process may do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leadership {
    /// The API server has not answered yet.
    #[default]
    Unknown,
    /// Another process leads, or nobody does.
    Following,
    /// This process leads until then, and longer if it renews.
    Leading {
        /// No write to the cluster may be sent after this.
        until: Instant,
    },
    /// Election is off: this process believes that it is alone.
    Unopposed,
}

impl Leadership {
    /// Whether a write to the cluster may be sent at `now`.
    pub fn leads(&self, now: Instant) -> bool {
        match *self {
            Self::Unknown | Self::Following => false,
            Self::Leading { until } => now < until,
            Self::Unopposed => true,
        }
    }

    fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// How the election ended. The process must end too: it may hold work of a leader.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Shutdown was asked for; the Lease was released if we held it.
    Shutdown,
    /// The leadership was lost.
    Lost(Loss),
}

/// Takes part in the election until `shutdown` or until a leadership is lost.
///
/// Receivers of `leadership` are woken when its kind changes, not at every renewal.
pub async fn run(
    store: &impl LeaseStore,
    params: &Params,
    leadership: &watch::Sender<Leadership>,
    shutdown: &CancellationToken,
) -> End {
    let mut contender = Contender::new(store, params, leadership);
    let end = tokio::select! {
        // Releasing needs the last version written, so a call under way is not waited for: its
        // outcome is unknown and the Lease simply expires.
        biased;
        () = shutdown.cancelled() => End::Shutdown,
        loss = contender.contend() => End::Lost(loss),
    };
    publish(leadership, Leadership::Following);
    if end == End::Shutdown {
        contender.give_up().await;
    }
    end
}

struct Contender<'a, S> {
    store: &'a S,
    params: &'a Params,
    leadership: &'a watch::Sender<Leadership>,
    origin: Instant,
    observed: Observed,
    /// Whether the last call failed, so that an outage is logged twice and not every two seconds.
    failing: bool,
}

impl<'a, S: LeaseStore> Contender<'a, S> {
    fn new(store: &'a S, params: &'a Params, leadership: &'a watch::Sender<Leadership>) -> Self {
        Self {
            store,
            params,
            leadership,
            origin: Instant::now(),
            observed: Observed::default(),
            failing: false,
        }
    }

    async fn contend(&mut self) -> Loss {
        loop {
            match decide(self.now(), &self.observed, self.params) {
                Step::Wait { until } => sleep_until(self.origin + until).await,
                Step::Read { by } => self.read(by).await,
                Step::Write {
                    version,
                    record,
                    by,
                } => {
                    self.write(version.as_deref(), &record, by).await;
                }
                Step::StepDown(loss) => return loss,
            }
        }
    }

    fn now(&self) -> Moment {
        self.origin.elapsed()
    }

    async fn read(&mut self, by: Moment) {
        let answer = timeout_at(self.origin + by, self.store.read()).await;
        match self.settle(answer) {
            Some(stored) => {
                self.observed.saw(self.now(), stored);
                if self.observed.leads_until(self.params).is_none() {
                    publish(self.leadership, Leadership::Following);
                }
            }
            None => self.observed.got_no_answer(self.now(), self.params),
        }
    }

    async fn write(&mut self, version: Option<&str>, record: &Record, by: Moment) {
        let sent = self.now();
        let answer = timeout_at(self.origin + by, self.store.write(version, record)).await;
        if let Ok(Err(StoreError::Raced)) = answer {
            return self.observed.lost_race();
        }
        let Some(stored) = self.settle(answer) else {
            return self.observed.got_no_answer(self.now(), self.params);
        };
        self.observed.wrote(sent, self.now(), stored);
        if let Some(until) = self.observed.leads_until(self.params) {
            publish(
                self.leadership,
                Leadership::Leading {
                    until: self.origin + until,
                },
            );
        }
    }

    async fn give_up(&mut self) {
        let Some(Step::Write {
            version,
            record,
            by,
        }) = release(self.now(), &self.observed, self.params)
        else {
            return;
        };
        let answer = self.store.write(version.as_deref(), &record);
        if self
            .settle(timeout_at(self.origin + by, answer).await)
            .is_some()
        {
            tracing::info!("lease released");
        }
    }

    /// Logs the begin and the end of an outage and returns the answer, if there is one.
    fn settle<T>(
        &mut self,
        answer: Result<Result<T, StoreError>, tokio::time::error::Elapsed>,
    ) -> Option<T> {
        let error: Box<dyn std::error::Error> = match answer {
            Ok(Ok(answer)) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("lease can be reached again");
                }
                return Some(answer);
            }
            Ok(Err(error)) => Box::new(error),
            Err(elapsed) => Box::new(elapsed),
        };
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error = %chain(error.as_ref()), "lease cannot be reached");
        }
        None
    }
}

fn publish(leadership: &watch::Sender<Leadership>, new: Leadership) {
    let changed = leadership.send_if_modified(|current| {
        let changed = !current.same_kind(&new);
        *current = new;
        changed
    });
    if changed {
        let leading = new.leads(Instant::now());
        tracing::info!(leading, "leadership");
    }
}

#[cfg(test)]
mod tests;
