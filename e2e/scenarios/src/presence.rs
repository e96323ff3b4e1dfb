//! Whether a node's slices are there, followed change by change: when they were missing, and for how long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_cluster::{Node, interrupt};

use crate::failure::Failure;
use crate::gpus::DRIVER;
use crate::kubernetes::{Heard, Kubernetes, Objects, Scope, Watch};

/// How long the reader waits before it looks whether it is still wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What was seen of a node's slices since the look at them began.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Resource version by name.
    pub(crate) present: BTreeMap<String, String>,
    /// How long there was none, each time that there was one again.
    pub(crate) gaps: Vec<Duration>,
    /// Since when there is none.
    missing_since: Option<Instant>,
    /// Why nothing more will be seen.
    ended: Option<String>,
    begun: bool,
}

impl History {
    fn take(&mut self, now: Instant, present: BTreeMap<String, String>) {
        if !self.begun {
            self.begun = true;
            self.missing_since = present.is_empty().then_some(now);
        } else if present == self.present {
            return;
        } else {
            match (self.missing_since, present.is_empty()) {
                (None, true) => self.missing_since = Some(now),
                (Some(since), false) => {
                    self.gaps.push(now - since);
                    self.missing_since = None;
                }
                _ => {}
            }
        }
        self.present = present;
    }
}

#[derive(Default)]
struct Shared {
    history: Mutex<History>,
    changed: Condvar,
    enough: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, History> {
        // Every change of it is complete before anything can panic.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look at a node's slices that lasts as long as this value.
pub(crate) struct Presence {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

impl Presence {
    /// Begins to look, and returns when there are slices.
    pub(crate) fn of(
        kubernetes: Kubernetes<'_>,
        node: &Node,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let watch = kubernetes.follow::<ResourceSlice>(Scope::Cluster)?;
        let shared = Arc::new(Shared::default());
        let node = node.name().to_owned();
        let reader = thread::spawn({
            let shared = shared.clone();
            move || read(watch, &node, &shared)
        });
        let presence = Self {
            shared,
            reader: Some(reader),
        };
        presence.wait("slices to look at", limit, |history| {
            (!history.present.is_empty()).then_some(())
        })?;
        Ok(presence)
    }

    /// What was seen so far. Fails if the look has ended by itself, for then it is not known what has been since.
    pub(crate) fn history(&self) -> Result<History, Failure> {
        let history = self.shared.lock().clone();
        match history.ended {
            None => Ok(history),
            Some(said) => Err(Failure::Ended {
                what: "changes of the slices".to_owned(),
                said,
            }),
        }
    }

    /// Waits until `look` finds what it wants in what was seen.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&History) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + limit;
        let what = what.to_owned();
        let mut history = self.shared.lock();
        loop {
            if let Some(found) = look(&history) {
                return Ok(found);
            }
            if let Some(said) = history.ended.clone() {
                return Err(Failure::Ended { what, said });
            }
            if interrupt::requested() {
                return Err(Failure::Interrupted);
            }
            if Instant::now() >= deadline {
                let seen = format!("  {history:?}");
                return Err(Failure::Slow { what, limit, seen });
            }
            let waited = self.shared.changed.wait_timeout(history, LOOK_AGAIN);
            history = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.enough.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It panics where the history is inconsistent, which the test run reports by itself.
            let _ = reader.join();
        }
    }
}

fn read(mut watch: Watch<ResourceSlice>, node: &str, shared: &Shared) {
    while !shared.enough.load(Ordering::Relaxed) {
        let heard = watch.next(Instant::now() + LOOK_AGAIN);
        let mut history = shared.lock();
        match heard {
            Heard::News => history.take(Instant::now(), of_node(watch.objects(), node)),
            Heard::Late => {}
            Heard::Ended(said) => history.ended = Some(said),
            Heard::Interrupted => return,
        }
        let ended = history.ended.is_some();
        drop(history);
        shared.changed.notify_all();
        if ended {
            return;
        }
    }
}

fn of_node(slices: &Objects<ResourceSlice>, node: &str) -> BTreeMap<String, String> {
    let ours = slices.iter().filter(|(_, slice)| {
        slice.spec.node_name.as_deref() == Some(node) && slice.spec.driver == DRIVER
    });
    ours.map(|(name, slice)| {
        let version = slice.metadata.resource_version.clone();
        (name.clone(), version.unwrap_or_default())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(version: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("slice".to_owned(), version.to_owned())])
    }

    #[test]
    fn the_time_without_a_slice_is_a_gap_once_there_is_one_again() {
        let mut history = History::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        history.take(at(0), present("1"));
        history.take(at(10), present("1"));
        history.take(at(20), BTreeMap::new());
        assert!(history.gaps.is_empty());
        history.take(at(50), present("2"));
        history.take(at(60), present("3"));
        assert_eq!(history.gaps, [Duration::from_millis(30)]);
    }

    #[test]
    fn slices_that_are_there_only_later_were_missing_from_the_start() {
        let mut history = History::default();
        let start = Instant::now();
        history.take(start, BTreeMap::new());
        history.take(start + Duration::from_secs(1), present("1"));
        assert_eq!(history.gaps, [Duration::from_secs(1)]);
    }
}
