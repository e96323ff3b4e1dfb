//! Counts what a process does and makes one of these points its last.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Signal, pidfd_send_signal};

/// Whether the fatal call still has its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It has none.
    Before,
    /// It has, and nothing after it.
    After,
}

/// By what a process leaves a trace outside of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// System calls that may change a file of the node.
    Change,
    /// Requests to the API server.
    Request,
}

/// Where a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// At the n-th of a kind, counted from 1.
    Nth(Kind, When, usize),
    /// At the n-th call of an NVML function, counted from 1. The simulated driver does the counting and the killing.
    Nvml(&'static str, usize),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nth(kind, when, n) => write!(f, "{when:?} {kind:?} {n}"),
            Self::Nvml(function, n) => write!(f, "NVML call {n} of {function}"),
        }
    }
}

/// Kills one process at one point.
#[derive(Debug)]
pub struct Fuse {
    point: Option<Point>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    victim: Option<OwnedFd>,
    changes: usize,
    requests: usize,
    burnt: Option<String>,
}

impl Fuse {
    /// A fuse that burns at `point`, once it is set to a process.
    pub fn new(point: Option<Point>) -> Self {
        let state = Mutex::default();
        Self { point, state }
    }

    /// The point.
    pub fn point(&self) -> Option<Point> {
        self.point
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from now on, for this process.
    pub fn set_to(&self, process: OwnedFd) {
        self.lock().victim = Some(process);
    }

    /// Counts one of a kind. If it is the fatal one, the caller lets it have its effect or not, and kills.
    pub fn pass(&self, kind: Kind, what: impl FnOnce() -> String) -> Option<When> {
        let mut state = self.lock();
        if state.victim.is_none() || state.burnt.is_some() {
            return None;
        }
        let seen = match kind {
            Kind::Change => &mut state.changes,
            Kind::Request => &mut state.requests,
        };
        *seen += 1;
        match self.point {
            Some(Point::Nth(fatal, when, n)) if fatal == kind && n == *seen => {
                state.burnt = Some(format!("{when:?} {}", what()));
                Some(when)
            }
            _ => None,
        }
    }

    /// Kills the process.
    pub fn kill(&self) {
        if let Some(victim) = &self.lock().victim {
            // It may be dead already.
            let _ = pidfd_send_signal(victim, Signal::KILL);
        }
    }

    /// What the process was doing when it was killed; nothing if it was not.
    pub fn burnt(&self) -> Option<String> {
        self.lock().burnt.clone()
    }
}
