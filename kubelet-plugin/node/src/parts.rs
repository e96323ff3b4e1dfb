//! The tasks of the process, and how they end together.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The tasks of the plugin. The first that ends, ends all.
#[derive(Debug)]
pub struct Parts {
    told: CancellationToken,
    stop: CancellationToken,
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl Parts {
    /// No task yet; all will end when `told` is cancelled.
    pub fn new(told: CancellationToken) -> Self {
        Self {
            stop: told.child_token(),
            told,
            tasks: JoinSet::new(),
        }
    }

    /// Cancelled when the process was told to stop, and not when a part of it failed.
    pub fn told(&self) -> &CancellationToken {
        &self.told
    }

    /// Starts a part under a name for the log. It gets the token that tells it to stop.
    pub fn start<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let part = part(self.stop.clone());
        self.tasks.spawn(async move { (name, part.await) });
    }

    /// Waits for the stop or the first end, then for all; the first failure is the outcome.
    pub async fn run_to_the_end(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let told = self.stop.is_cancelled();
            self.stop.cancel();
            let failure = match ended {
                Ok((name, Err(error))) => Err(error.context(format!("{name} failed"))),
                Ok((name, Ok(()))) if !told => Err(anyhow::anyhow!("{name} ended unasked")),
                Ok((_, Ok(()))) => Ok(()),
                Err(panic) => Err(panic.into()),
            };
            outcome = outcome.and(failure);
        }
        outcome
    }
}
