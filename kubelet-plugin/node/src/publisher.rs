//! Keeps the published ResourceSlices equal to the offer.
//!
//! One task per driver. It publishes at once when an offer arrives, puts back at once what
//! somebody else deletes or changes, compares everything every ten minutes, and writes nothing
//! when nothing differs. What to write is decided by [`tessera_offer::reconcile`].
//!
//! The kubelet deletes all slices of its node when it starts, at the same time as it registers the
//! plugin again, and says so to nobody (`pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go`). The
//! deletion event is the only sign of it, so it is acted upon without delay and without regard to
//! any memory of what was written: every decision is made on a fresh list.
//!
//! # Guarantees
//! Of the processes of a driver on a node one writes at a time: no write is made without a [`Turn`].

mod feed;
mod kube_slices;
pub(crate) mod pace;
mod report;
mod store;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_offer::{FieldPath, Form, Offer, Tried, Write, dropped_fields, reconcile};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use feed::Feed;
pub use kube_slices::KubeSlices;
use pace::Pace;
pub use report::{Observer, PublishError, PublishState};
pub use store::{Rehearsal, SliceEvent, SliceStore, StoreError};
pub use turn::{Turn, Turns};

/// Longest wait for one call to the API server.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Time between two comparisons that nothing asked for: the net below a watch that lost an event.
const FULL_COMPARE: Duration = Duration::from_mins(10);

/// Attempts on a fresh list, one right after the other, before a conflict counts as a failure.
const PASSES: usize = 3;

/// Publishes one driver's slices on one node.
#[derive(Debug)]
pub struct Publisher<S, O> {
    store: S,
    observer: O,
    offers: watch::Receiver<Option<Offer>>,
    state: watch::Sender<PublishState>,
    turns: Turns,
    turn: Option<Turn>,
    offer: Option<Offer>,
    /// The offer has not been stored yet since it arrived.
    fresh: bool,
    /// Versions that this task has read or written; events about them are no news.
    known: BTreeMap<String, String>,
    /// Fields that this server was seen to drop. They are not sent again.
    unsupported: BTreeSet<FieldPath>,
    /// What of an offer this server has answered to.
    tried: Tried,
    pace: Pace,
    /// No event leads to an attempt before this moment.
    not_before: Instant,
    /// The next attempt, whether or not anything happens.
    due: Instant,
}

/// What came of one list.
enum Pass {
    /// The store is equal to the offer.
    Done(Stored),
    /// So many writes and dry runs have shown that another form of the offer is the one for this server.
    Another { writes: usize },
}

/// What one attempt achieved.
struct Stored {
    generation: i64,
    writes: usize,
}

impl<S: SliceStore, O: Observer> Publisher<S, O> {
    /// A publisher, and the state that readiness is made of.
    ///
    /// `offers` holds `None` as long as nothing may be published: before the kubelet has
    /// registered the driver, pods would land on a node that cannot prepare them. To send an
    /// offer again, even an equal one, asks for a comparison at once.
    pub fn new(
        store: S,
        observer: O,
        offers: watch::Receiver<Option<Offer>>,
        turns: Turns,
    ) -> (Self, watch::Receiver<PublishState>) {
        let (state, states) = watch::channel(PublishState::NotYet);
        let now = Instant::now();
        let publisher = Self {
            store,
            observer,
            offers,
            state,
            turn: turns.now(),
            turns,
            offer: None,
            fresh: false,
            known: BTreeMap::new(),
            unsupported: BTreeSet::new(),
            tried: Tried::default(),
            pace: Pace::new(),
            not_before: now,
            due: now,
        };
        (publisher, states)
    }

    /// Runs until `stop` is cancelled or the sender of offers is gone.
    ///
    /// The slices stay: the node's pods still hold their devices, and a successor takes over, for
    /// whom the turn is given up.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.serve()).await;
    }

    async fn serve(&mut self) {
        // The watch is opened before there is anything to publish, so that the connection to the
        // API server is up when the kubelet registers the driver.
        let mut feed = Feed::new(Instant::now());
        self.take_offer();
        loop {
            tokio::select! {
                biased;
                changed = self.offers.changed() => match changed {
                    Ok(()) => {
                        // A kubelet that registers the driver wipes the slices, before or after.
                        // The watch that is to tell of it must work now.
                        feed.renew(Instant::now());
                        self.take_offer();
                    }
                    Err(_sender_gone) => return,
                },
                event = feed.next(&self.store) => self.notice(event),
                turn = self.turns.next(), if self.turn.is_none() => self.take_turn(turn),
                () = sleep_until(self.due), if self.offer.is_some() && self.turn.is_some() => {
                    self.attempt().await;
                }
            }
        }
    }

    fn take_offer(&mut self) {
        self.offer.clone_from(&self.offers.borrow_and_update());
        self.fresh = true;
        self.pace.clear();
        self.not_before = Instant::now();
        self.due = self.not_before;
        match (&self.offer, &self.turn) {
            (None, _) => self.enter(PublishState::NotYet),
            (Some(_), None) => self.enter(PublishState::Standby),
            (Some(_), Some(_)) => {}
        }
    }

    fn take_turn(&mut self, turn: Turn) {
        info!("this process publishes the devices from now on");
        self.turn = Some(turn);
        self.due = Instant::now();
    }

    fn notice(&mut self, event: SliceEvent) {
        let is_news = match event {
            SliceEvent::Relisted => true,
            SliceEvent::Stored { name, version } => self.known.get(&name) != Some(&version),
            SliceEvent::Deleted { name } => self.known.remove(&name).is_some(),
        };
        if is_news {
            self.due = self.due.min(Instant::now().max(self.not_before));
        }
    }

    async fn attempt(&mut self) {
        let Some((offer, turn)) = self.offer.clone().zip(self.turn.take()) else {
            return;
        };
        let result = self.converge(&offer, &turn).await;
        self.turn = Some(turn);
        let now = Instant::now();
        match result {
            Ok(stored) => {
                // To write what was written before is a repair. The first is made at once, but
                // repairs one after the other are a fight with another writer, and slow down.
                if stored.writes > 0 && !self.fresh {
                    self.not_before = now + self.pace.strike(now);
                }
                self.fresh = false;
                self.due = now + FULL_COMPARE;
                self.succeed(&offer, &stored);
            }
            Err(error) => {
                self.not_before = now + self.pace.strike(now);
                self.due = self.not_before;
                self.fail(&error, self.due - now);
            }
        }
    }

    /// Makes the store equal to the offer. A conflict is answered with a fresh list, and so are fields that
    /// the server does not keep.
    async fn converge(&mut self, offer: &Offer, turn: &Turn) -> Result<Stored, PublishError> {
        let mut passes = 1;
        let mut writes = 0;
        loop {
            match self.pass(offer, turn).await {
                Ok(Pass::Done(stored)) => {
                    return Ok(Stored {
                        writes: writes + stored.writes,
                        ..stored
                    });
                }
                // That comes once or twice, for what a server does not keep is remembered.
                Ok(Pass::Another { writes: begun }) => writes += begun,
                Err(error) if error.is_stale() && passes < PASSES => {
                    passes += 1;
                    self.observer.write_failed(error.reason());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes all writes of one list, or as many writes and dry runs as show that this offer is not one for this server: what
    /// overlaps must not be published without what keeps it apart.
    async fn pass(&mut self, offer: &Offer, turn: &Turn) -> Result<Pass, PublishError> {
        let listed = in_time(self.store.list()).await;
        let existing = listed.map_err(|source| PublishError::List {
            node: offer.node().name.clone(),
            driver: offer.driver().to_owned(),
            source,
        })?;
        self.known = existing.iter().filter_map(version).collect();
        let writes = reconcile(&offer.without(&self.unsupported), &existing);
        let form = offer.form_without(&self.unsupported);
        for (done, write) in writes.iter().enumerate() {
            if self.tried.learns_from(write) && self.rehearse(write).await? {
                self.tell_form(offer, form);
                return Ok(Pass::Another { writes: done });
            }
            self.write(write, turn).await?;
            if offer.form_without(&self.unsupported) != form {
                self.tell_form(offer, form);
                return Ok(Pass::Another { writes: done + 1 });
            }
        }
        let written = writes.iter().find_map(|write| match write {
            Write::Create(slice) | Write::Replace(slice) => Some(&**slice),
            Write::Delete(_) => None,
        });
        let kept = existing.iter().filter(|slice| offer.owns(slice));
        let generations = kept.chain(written).map(|slice| slice.spec.pool.generation);
        Ok(Pass::Done(Stored {
            generation: generations.max().unwrap_or_default(),
            writes: writes.len(),
        }))
    }

    /// Asks what the server would store, and returns whether it would leave something out that was not known.
    async fn rehearse(&mut self, write: &Write) -> Result<bool, PublishError> {
        let (rehearsal, slice) = match write {
            Write::Create(slice) => (Rehearsal::Create(slice), slice),
            Write::Replace(slice) => (Rehearsal::Replace(slice), slice),
            Write::Delete(_) => return Ok(false),
        };
        let stored = match in_time(self.store.rehearse(rehearsal)).await {
            Ok(stored) => stored,
            // A server may refuse the dry run alone: of a webhook with side effects it cannot ask. The write tells.
            Err(StoreError::Invalid(error)) => {
                debug!(%error, "the API server takes no dry run of a ResourceSlice");
                self.tried = self.tried.after(write);
                return Ok(false);
            }
            Err(error) => {
                return Err(match rehearsal {
                    Rehearsal::Create(_) => PublishError::create(slice)(error),
                    Rehearsal::Replace(_) => PublishError::replace(slice)(error),
                });
            }
        };
        self.tried = self.tried.after(write);
        let known = self.unsupported.len();
        self.remember_dropped(dropped_fields(slice, &stored));
        Ok(self.unsupported.len() > known)
    }

    /// Says what this server makes of an offer that had this form so far.
    fn tell_form(&self, offer: &Offer, before: Form) {
        if offer.form_without(&self.unsupported).uncounted && !before.uncounted {
            warn!(
                "each GPU is offered as it is cut, or as a whole, and nothing is cut for claims: the API \
                 server keeps no counters of ResourceSlices (feature gate DRAPartitionableDevices)"
            );
        }
    }

    async fn write(&mut self, write: &Write, turn: &Turn) -> Result<(), PublishError> {
        let (sent, stored) = match write {
            Write::Create(slice) => {
                let stored = in_time(self.store.create(slice, turn)).await;
                (slice, stored.map_err(PublishError::create(slice))?)
            }
            Write::Replace(slice) => {
                let stored = in_time(self.store.replace(slice, turn)).await;
                (slice, stored.map_err(PublishError::replace(slice))?)
            }
            Write::Delete(slice) => {
                let deleted = in_time(self.store.delete(slice, turn)).await;
                deleted.map_err(PublishError::delete(slice))?;
                self.known.remove(&slice.name);
                return Ok(());
            }
        };
        self.known.extend(version(&stored));
        self.remember_dropped(dropped_fields(sent, &stored));
        Ok(())
    }

    fn remember_dropped(&mut self, fields: BTreeSet<FieldPath>) {
        if fields.is_subset(&self.unsupported) {
            return;
        }
        for field in fields.difference(&self.unsupported) {
            warn!(%field, "the API server does not keep this field of ResourceSlices");
        }
        self.observer.fields_dropped(&fields);
        self.unsupported.extend(fields);
    }

    fn succeed(&self, offer: &Offer, stored: &Stored) {
        let &Stored { generation, writes } = stored;
        let stored = offer.without(&self.unsupported);
        let devices = stored.count();
        if writes > 0 {
            info!(generation, devices, writes, "published the devices");
            self.observer.published(writes);
        }
        self.observer.shareable(stored.shareable());
        self.enter(PublishState::Published {
            generation,
            devices,
        });
    }

    fn fail(&self, error: &PublishError, retry_in: Duration) {
        warn!(%error, ?retry_in, "the devices are not published");
        self.observer.write_failed(error.reason());
        self.enter(PublishState::Failing {
            reason: error.to_string(),
        });
    }

    fn enter(&self, next: PublishState) {
        self.state.send_if_modified(|state| {
            let changed = *state != next;
            *state = next;
            changed
        });
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(CALL_DEADLINE, call)
        .await
        .unwrap_or(Err(StoreError::TimedOut {
            after: CALL_DEADLINE,
        }))
}

fn version(slice: &ResourceSlice) -> Option<(String, String)> {
    let metadata = &slice.metadata;
    Some((metadata.name.clone()?, metadata.resource_version.clone()?))
}

#[cfg(test)]
mod tests;
