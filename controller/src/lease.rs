//! Decides who leads among the controllers that share one Lease.
//!
//! [`decide`] is the whole election: a total function over what this process has seen and when its
//! own clock saw it. [`run`] carries its steps out and publishes the outcome.
//!
//! # Guarantees
//! - Two processes never lead at once. A leader stops [`Params::renew_deadline`] after it *sent* its
//!   last successful write; another takes over no earlier than the lease's duration after it *saw*
//!   that write. Every write names the version that it replaces, so of two contenders one fails.
//! - Clocks of different machines are never compared; the times in the Lease are for people.
//!
//! # Assumptions
//! - Clocks run at rates that differ by less than duration divided by renew deadline (15 s to 10 s:
//!   a factor of 1.5), and do not stand still while the process could still write.
//! - Identities are unique to a process. Two that share one would both believe the lease theirs.
//! - Nobody else edits or deletes the Lease while it is held. A leader that finds it gone steps
//!   down, but only at its next look.
//!
//! The algorithm is that of client-go's `leaderelection` package, and so are the default times.

use std::time::Duration;

use jiff::Timestamp;

mod run;
mod store;

pub use run::{End, Leadership, run};
pub use store::{KubeLeases, LeaseStore, StoreError};

/// Time on this process's monotonic clock, since an origin of its own.
pub type Moment = Duration;

/// One contender's identity and patience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    identity: String,
    duration: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// Says why leader election cannot work with the given times.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// The Lease stores whole seconds in 31 bits.
    #[error("lease duration {0:?} is not a whole number of seconds between 1 and 2147483647")]
    DurationNotStorable(Duration),
    /// A leader must stop before others may start.
    #[error("renew deadline {renew_deadline:?} must be shorter than lease duration {duration:?}")]
    DeadlineTooLong {
        /// The deadline given.
        renew_deadline: Duration,
        /// The lease duration given.
        duration: Duration,
    },
    /// A leader needs at least two tries within its deadline.
    #[error(
        "retry period {retry_period:?} must be above zero and at most half of renew deadline {renew_deadline:?}"
    )]
    RetryTooLong {
        /// The period given.
        retry_period: Duration,
        /// The deadline given.
        renew_deadline: Duration,
    },
}

impl Params {
    /// Checks the times against each other.
    pub fn new(
        identity: String,
        duration: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, ParamsError> {
        let storable = 1..=i32::MAX.unsigned_abs().into();
        if duration.subsec_nanos() != 0 || !storable.contains(&duration.as_secs()) {
            return Err(ParamsError::DurationNotStorable(duration));
        }
        if renew_deadline >= duration {
            return Err(ParamsError::DeadlineTooLong {
                renew_deadline,
                duration,
            });
        }
        if retry_period.is_zero() || retry_period > renew_deadline / 2 {
            return Err(ParamsError::RetryTooLong {
                retry_period,
                renew_deadline,
            });
        }
        Ok(Self {
            identity,
            duration,
            renew_deadline,
            retry_period,
        })
    }

    /// How long one call may hang before the next is tried: half the deadline, so that one silent
    /// connection does not cost the leadership.
    fn patience(&self) -> Duration {
        self.renew_deadline / 2
    }
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; nobody after a release.
    pub holder: Option<String>,
    /// How long others must see no change before they may take it.
    pub duration: Duration,
    /// How often it has changed hands.
    pub transitions: i32,
    /// Since when its holder has it, by the holder's wall clock; `None` means from this write on.
    pub acquired: Option<Timestamp>,
}

/// A Lease as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The `resourceVersion`, which changes with every write.
    pub version: String,
    /// What it says.
    pub record: Record,
}

/// Everything that one contender knows.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    sight: Sight,
    /// The version last seen, and when this process first saw it.
    changed: Option<(String, Moment)>,
    /// When our last successful write was sent, while we lead.
    renewed: Option<Moment>,
    /// No call before this moment.
    next: Moment,
}

/// How much the last answer of the API server still says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Sight {
    /// Never read, or possibly changed by a write whose outcome is unknown.
    #[default]
    Unknown,
    Absent {
        looked: Moment,
    },
    Present {
        looked: Moment,
        stored: Stored,
    },
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the Lease; an answer after `by` is worthless.
    Read {
        /// When to give up waiting.
        by: Moment,
    },
    /// Write `record` in place of `version`, or create the Lease where that is `None`.
    Write {
        /// The version to replace.
        version: Option<String>,
        /// What to write.
        record: Record,
        /// When to give up waiting.
        by: Moment,
    },
    /// Nothing to do before `until`.
    Wait {
        /// When to ask again.
        until: Moment,
    },
    /// Stop leading, for good: the process has acted on a leadership that it no longer has.
    StepDown(Loss),
}

/// Why a leader stops.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// No write succeeded in time.
    #[error("the lease could not be renewed within the renew deadline")]
    Expired,
    /// Somebody else holds the Lease.
    #[error("the lease is held by {0:?}")]
    Taken(String),
    /// The Lease was released or deleted under us.
    #[error("the lease was deleted or released by somebody else")]
    Gone,
}

impl Observed {
    /// Records the answer of a read that arrived at `now`.
    pub fn saw(&mut self, now: Moment, answer: Option<Stored>) {
        self.sight = match answer {
            None => Sight::Absent { looked: now },
            Some(stored) => {
                self.notice(now, &stored.version);
                Sight::Present {
                    looked: now,
                    stored,
                }
            }
        };
    }

    /// Records that a write of ours, sent at `sent`, succeeded by `now`.
    pub fn wrote(&mut self, sent: Moment, now: Moment, stored: Stored) {
        self.saw(now, Some(stored));
        self.renewed = Some(sent);
    }

    /// Records that the API server refused a write because its version was outdated.
    pub fn lost_race(&mut self) {
        self.sight = Sight::Unknown;
    }

    /// Records a call that ended at `now` without an answer; a write may have happened all the same.
    pub fn got_no_answer(&mut self, now: Moment, params: &Params) {
        self.sight = Sight::Unknown;
        self.next = now + params.retry_period;
    }

    /// Until when this process leads, unless it renews before.
    pub fn leads_until(&self, params: &Params) -> Option<Moment> {
        self.renewed.map(|renewed| renewed + params.renew_deadline)
    }

    fn notice(&mut self, now: Moment, version: &str) {
        if self
            .changed
            .as_ref()
            .is_none_or(|(known, _)| known != version)
        {
            self.changed = Some((version.to_owned(), now));
        }
    }

    /// When the Lease may be taken from its holder.
    fn free_at(&self, stored: &Stored) -> Moment {
        match (&self.changed, &stored.record.holder) {
            (Some((_, changed)), Some(_)) => *changed + stored.record.duration,
            _ => Moment::ZERO,
        }
    }
}

/// Decides the next step of the contender `params` at `now`.
pub fn decide(now: Moment, observed: &Observed, params: &Params) -> Step {
    match observed.leads_until(params) {
        Some(end) => lead(now, end, observed, params),
        None => follow(now, observed, params),
    }
}

/// Returns the write that gives the Lease up, if we hold it.
///
/// Stop leading first: once this write has landed, another may lead.
pub fn release(now: Moment, observed: &Observed, params: &Params) -> Option<Step> {
    let Sight::Present { stored, .. } = &observed.sight else {
        return None;
    };
    if stored.record.holder.as_ref() != Some(&params.identity) {
        return None;
    }
    let record = Record {
        holder: None,
        ..stored.record.clone()
    };
    let version = Some(stored.version.clone());
    Some(Step::Write {
        version,
        record,
        by: now + params.patience(),
    })
}

fn lead(now: Moment, end: Moment, observed: &Observed, params: &Params) -> Step {
    if now >= end {
        return Step::StepDown(Loss::Expired);
    }
    let by = end.min(now + params.patience());
    match &observed.sight {
        Sight::Absent { .. } => Step::StepDown(Loss::Gone),
        Sight::Unknown if now < observed.next => Step::Wait {
            until: observed.next.min(end),
        },
        Sight::Unknown => Step::Read { by },
        Sight::Present { stored, .. } => match &stored.record.holder {
            None => Step::StepDown(Loss::Gone),
            Some(holder) if *holder != params.identity => {
                Step::StepDown(Loss::Taken(holder.clone()))
            }
            Some(_) => {
                let renewed = end.saturating_sub(params.renew_deadline);
                let due = observed.next.max(renewed + params.retry_period).min(end);
                if now < due {
                    return Step::Wait { until: due };
                }
                let record = Record {
                    duration: params.duration,
                    ..stored.record.clone()
                };
                Step::Write {
                    version: Some(stored.version.clone()),
                    record,
                    by,
                }
            }
        },
    }
}

fn follow(now: Moment, observed: &Observed, params: &Params) -> Step {
    let by = now + params.patience();
    if now < observed.next {
        return Step::Wait {
            until: observed.next,
        };
    }
    let claim = |transitions| Record {
        holder: Some(params.identity.clone()),
        duration: params.duration,
        transitions,
        acquired: None,
    };
    match &observed.sight {
        Sight::Unknown => Step::Read { by },
        Sight::Absent { looked } if now >= *looked + params.retry_period => Step::Read { by },
        Sight::Absent { .. } => Step::Write {
            version: None,
            record: claim(0),
            by,
        },
        Sight::Present { looked, stored } => {
            let ours = stored.record.holder.as_ref() == Some(&params.identity);
            let free_at = if ours {
                Moment::ZERO
            } else {
                observed.free_at(stored)
            };
            let look_at = *looked + params.retry_period;
            if now >= free_at {
                let transitions = stored.record.transitions.saturating_add(1);
                let version = Some(stored.version.clone());
                Step::Write {
                    version,
                    record: claim(transitions),
                    by,
                }
            } else if now >= look_at {
                Step::Read { by }
            } else {
                Step::Wait {
                    until: look_at.min(free_at),
                }
            }
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
