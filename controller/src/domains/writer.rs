//! The one that writes: does what was decided, in order, and knows at once what came of it.

use jiff::Timestamp;
use tessera_domain::{
    Decision, Decisions, Verb, World, Write, cliques, decide, policies, session_pods,
};
use tessera_shell::logging::chain;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Settings;
use super::api::{Api, WriteError, Written};
use super::metrics::Metrics;
use super::pause::Pauses;

/// The writer.
pub struct Writer<A> {
    api: A,
    settings: Settings,
    metrics: Metrics,
    pauses: Pauses,
}

/// What came of a round of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Nothing was to be done, or everything that was has to wait.
    Quiet,
    /// Something was done: there may be more.
    Wrote,
    /// This process does not lead any more.
    Deposed,
}

impl<A: Api> Writer<A> {
    /// Writes by way of `api`.
    pub fn new(api: A, settings: Settings, metrics: Metrics) -> Self {
        Self {
            api,
            settings,
            metrics,
            pauses: Pauses::default(),
        }
    }

    /// Decides, and does what was decided; `leads` is asked before each write. Says as well when something may be
    /// due even if nothing happens.
    pub async fn round(
        &mut self,
        world: &mut World,
        now: Timestamp,
        leads: impl Fn() -> bool,
    ) -> (Round, Option<Timestamp>) {
        let Decisions {
            mut each,
            reasons,
            look_again,
        } = decide(world, &self.settings.rules, now);
        each.extend(cliques(world, self.settings.sessions, now));
        let Settings {
            sessions,
            namespace,
            ..
        } = &self.settings;
        each.extend(session_pods(world, *sessions, namespace));
        each.extend(policies(world, &self.settings.rules, now));
        self.metrics.stand(&reasons);
        self.pauses
            .keep(|who| each.iter().any(|decision| waits_as(decision) == who));
        let mut round = Round::Quiet;
        for decision in each {
            let who = waits_as(&decision);
            if self.pauses.hold(&who, Instant::now()) {
                continue;
            }
            if !leads() {
                return (Round::Deposed, look_again);
            }
            match self.carry_out(world, &decision, &leads).await {
                Outcome::Done => {
                    self.pauses.succeeded(&who);
                    round = Round::Wrote;
                }
                Outcome::Failed => {
                    let pause = self.pauses.failed(&who, Instant::now());
                    debug!(domain = who, ?pause, "it is tried again later");
                }
                Outcome::Deposed => return (Round::Deposed, look_again),
            }
        }
        (round, look_again)
    }

    /// When something that failed may be tried again.
    pub fn next_try(&self) -> Option<Instant> {
        self.pauses.next()
    }

    async fn carry_out(
        &self,
        world: &mut World,
        decision: &Decision,
        leads: &impl Fn() -> bool,
    ) -> Outcome {
        for write in &decision.writes {
            if !leads() {
                return Outcome::Deposed;
            }
            let (kind, verb) = (write.kind.as_str(), write.verb.as_str());
            let before = world.version(write.kind, &write.name);
            match self.api.write(write).await {
                Ok(written) => {
                    self.metrics.wrote(write, "ok");
                    info!(kind, verb, name = %write.name, "written");
                    match written {
                        Written::Stored(object) => world.apply(object),
                        Written::Gone => world.remove(write.kind, &write.name),
                        Written::Ending => world.evicted(&write.name),
                    }
                    let now = world.version(write.kind, &write.name);
                    if now.is_some_and(|now| now > 0 && before == Some(now)) && is_patch(write) {
                        warn!(
                            kind, name = %write.name,
                            "the API server kept nothing of it; it may have resource definitions of another version of the \
                             chart: apply charts/tessera/crds"
                        );
                        return Outcome::Failed;
                    }
                }
                Err(error) => {
                    self.metrics.wrote(write, error.reason());
                    warn!(kind, verb, name = %write.name, error = %chain(&error), "not written");
                    if let WriteError::Budget(why) = error {
                        world.kept_by_budget(&write.name, why);
                    }
                    return Outcome::Failed;
                }
            }
        }
        for notice in &decision.notices {
            let outcome = match self.api.tell(notice).await {
                Ok(()) => "ok",
                Err(error) => {
                    // What it says stands in the status as well.
                    warn!(reason = notice.reason, error = %chain(&error), "an event was not written");
                    error.reason()
                }
            };
            self.metrics.told(outcome);
        }
        Outcome::Done
    }
}

enum Outcome {
    Done,
    Failed,
    Deposed,
}

/// Whether a write changes fields of an object. One that has changed nothing would be decided again at once.
fn is_patch(write: &Write) -> bool {
    matches!(write.verb, Verb::Merge(_) | Verb::Json(_) | Verb::Status(_))
}

/// The name under which a decision waits after a failure: its domain's; of what no domain has, the object's.
fn waits_as(decision: &Decision) -> String {
    let domain = decision.domain.as_ref().map(ToString::to_string);
    domain.unwrap_or_else(|| match decision.writes.first() {
        Some(write) => format!("{} {}", write.kind.as_str(), write.name),
        None => String::new(),
    })
}
