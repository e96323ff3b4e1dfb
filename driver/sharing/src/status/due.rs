//! When what a claim says is written anew.

use std::cmp::Reverse;
use std::time::Duration;

use k8s_openapi::api::resource::v1::AllocatedDeviceStatus;

use super::entry::{HARD, PEAK, SOFT, USED, condition, figure};

/// The claims that are written at once. More of them, as after a switch or an absence of the API server, are written in
/// the rounds after.
pub const AT_ONCE: usize = 8;

/// The least time from one write of a claim to the next, where a condition has changed, and where only figures have.
const PROMPT: Duration = Duration::from_secs(10);
const CALM: Duration = Duration::from_mins(1);

/// By how much a figure must differ: this part of the limit, and at least so many bytes.
const STEPS: u64 = 8;
const LEAST_STEP: u64 = 256 << 20;

/// How far a claim is behind what is so, from nothing to what somebody may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behind {
    /// It says what is so, or nearly.
    Not,
    /// A figure has moved by a step.
    Figures,
    /// A condition is another, or nothing is said at all.
    Conditions,
}

/// How far what was told of a share is behind what is to be told now.
///
/// Messages are for people and follow from the reasons; a new version that puts them in other words writes none anew.
pub fn behind(told: Option<&AllocatedDeviceStatus>, now: &AllocatedDeviceStatus) -> Behind {
    let Some(told) = told else {
        return Behind::Conditions;
    };
    let mut conditions = now.conditions.iter().flatten();
    let same = conditions.all(|now| {
        condition(told, &now.type_)
            .is_some_and(|told| told.status == now.status && told.reason == now.reason)
    });
    if !same {
        return Behind::Conditions;
    }
    let limit = figure(now, HARD).or_else(|| figure(now, SOFT)).unwrap_or(0);
    let step = (limit / STEPS).max(LEAST_STEP);
    let moved = |name| match (figure(told, name), figure(now, name)) {
        (Some(told), Some(now)) => told.abs_diff(now) >= step,
        (told, now) => told != now,
    };
    if [SOFT, HARD, USED, PEAK].into_iter().any(moved) {
        Behind::Figures
    } else {
        Behind::Not
    }
}

/// A claim that may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<K> {
    /// Which.
    pub claim: K,
    /// How far it is behind: the most of its shares.
    pub behind: Behind,
    /// Time since this process wrote it last. `None`: it has not.
    pub since: Option<Duration>,
}

impl<K> Candidate<K> {
    fn is_due(&self) -> bool {
        let pause = match self.behind {
            Behind::Not => return false,
            Behind::Figures => CALM,
            Behind::Conditions => PROMPT,
        };
        self.since.is_none_or(|since| since >= pause)
    }
}

/// The claims to write now, the most urgent first: those with another condition, and of those alike the ones that
/// have waited longest.
pub fn chosen<K>(candidates: impl IntoIterator<Item = Candidate<K>>) -> Vec<K> {
    let mut due: Vec<_> = candidates.into_iter().filter(Candidate::is_due).collect();
    due.sort_by_key(|one| Reverse((one.behind, one.since.is_none(), one.since)));
    let claims = due.into_iter().map(|one| one.claim);
    claims.take(AT_ONCE).collect()
}
