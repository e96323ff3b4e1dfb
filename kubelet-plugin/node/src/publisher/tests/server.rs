//! An API server for slices in memory, with faults.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::resource::v1::ResourceSlice;
use tessera_offer::SliceRef;
use tokio::sync::mpsc;

use crate::publisher::{Rehearsal, SliceEvent, SliceStore, StoreError, Turn};

/// A call that a writer made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    List,
    Rehearse,
    Create,
    Replace,
    Delete,
}

/// What happens at a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The server refuses with a 503.
    Refuse,
    /// The server refuses with a 409.
    Conflict,
    /// The server does what was asked, and its answer is lost.
    LoseAnswer,
    /// No answer ever comes.
    Hang,
    /// The server does what was asked, and no answer ever comes.
    HangAfter,
    /// The kubelet wipes the node's slices right before the call.
    WipeBefore,
    /// The kubelet wipes the node's slices right after the call.
    WipeAfter,
}

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    slices: BTreeMap<String, ResourceSlice>,
    version: u64,
    calls: Vec<Call>,
    faults: BTreeMap<usize, Fault>,
    down: bool,
    watches: Vec<mpsc::UnboundedSender<SliceEvent>>,
    hanging: Vec<mpsc::UnboundedSender<SliceEvent>>,
    opened: usize,
    strip: Option<fn(&mut ResourceSlice)>,
    /// No dry run is taken.
    plain: bool,
    meddle: Option<fn(&mut ResourceSlice)>,
}

impl Inner {
    fn tell(&mut self, event: &SliceEvent) {
        self.watches
            .retain(|watch| watch.send(event.clone()).is_ok());
    }

    /// What of a slice is stored.
    fn kept(&self, mut slice: ResourceSlice) -> ResourceSlice {
        if let Some(strip) = self.strip {
            strip(&mut slice);
        }
        slice
    }

    fn store(&mut self, slice: ResourceSlice) -> ResourceSlice {
        let mut slice = self.kept(slice);
        self.version += 1;
        let version = self.version.to_string();
        slice.metadata.resource_version = Some(version.clone());
        slice
            .metadata
            .uid
            .get_or_insert_with(|| format!("uid-{version}"));
        let name = slice.metadata.name.clone().unwrap();
        self.slices.insert(name.clone(), slice.clone());
        self.tell(&SliceEvent::Stored { name, version });
        slice
    }

    fn wipe(&mut self) {
        for name in std::mem::take(&mut self.slices).into_keys() {
            self.tell(&SliceEvent::Deleted { name });
        }
    }
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// All calls so far.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// All calls so far that would change something.
    pub(super) fn writes(&self) -> usize {
        self.calls()
            .iter()
            .filter(|call| !matches!(call, Call::List | Call::Rehearse))
            .count()
    }

    pub(super) fn slices(&self) -> Vec<ResourceSlice> {
        self.lock().slices.values().cloned().collect()
    }

    /// How often a watch was opened.
    pub(super) fn opened(&self) -> usize {
        self.lock().opened
    }

    /// Somebody else stores a slice.
    pub(super) fn put(&self, slice: ResourceSlice) {
        self.lock().store(slice);
    }

    /// The kubelet starts, and deletes what its node has.
    pub(super) fn wipe(&self) {
        self.lock().wipe();
    }

    /// A deletion whose event gets lost.
    pub(super) fn wipe_unseen(&self) {
        self.lock().slices.clear();
    }

    /// The watches stay open and tell nothing any more.
    pub(super) fn forget_watches(&self) {
        let mut inner = self.lock();
        let watches = std::mem::take(&mut inner.watches);
        inner.hanging.extend(watches);
    }

    pub(super) fn end_watches(&self) {
        self.lock().watches.clear();
    }

    /// Lets this happen at the n-th call from the start, counted from 0.
    pub(super) fn at_call(&self, n: usize, fault: Fault) {
        self.lock().faults.insert(n, fault);
    }

    /// Every call is refused as long as the server is down.
    pub(super) fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// The server drops fields of every slice that it is sent.
    pub(super) fn strip(&self, strip: fn(&mut ResourceSlice)) {
        self.lock().strip = Some(strip);
    }

    /// The server takes no dry runs, as one with a webhook that has side effects.
    pub(super) fn refuse_dry_runs(&self) {
        self.lock().plain = true;
    }

    /// Another writer changes every slice right after it is stored.
    pub(super) fn meddle(&self, meddle: fn(&mut ResourceSlice)) {
        self.lock().meddle = Some(meddle);
    }

    async fn call<T>(
        &self,
        call: Call,
        act: impl FnOnce(&mut Inner) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let fault = {
            let mut inner = self.lock();
            let n = inner.calls.len();
            inner.calls.push(call);
            if inner.down {
                Some(Fault::Refuse)
            } else {
                inner.faults.remove(&n)
            }
        };
        // A real call takes a turn of the event loop at least.
        tokio::task::yield_now().await;
        if matches!(fault, Some(Fault::Hang)) {
            return std::future::pending().await;
        }
        let answer = self.act(call, fault, act);
        if matches!(fault, Some(Fault::HangAfter)) {
            return std::future::pending().await;
        }
        answer
    }

    fn act<T>(
        &self,
        call: Call,
        fault: Option<Fault>,
        act: impl FnOnce(&mut Inner) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut inner = self.lock();
        match fault {
            Some(Fault::Refuse) => return Err(StoreError::Unavailable("503".to_owned())),
            Some(Fault::Conflict) => return Err(StoreError::Conflict("409".to_owned())),
            Some(Fault::WipeBefore) => inner.wipe(),
            _ => {}
        }
        let answer = act(&mut inner);
        if let (Some(meddle), true) = (inner.meddle, !matches!(call, Call::List | Call::Rehearse)) {
            for mut slice in inner.slices.clone().into_values() {
                meddle(&mut slice);
                inner.store(slice);
            }
        }
        match fault {
            Some(Fault::WipeAfter) => inner.wipe(),
            Some(Fault::LoseAnswer) => return Err(StoreError::Unavailable("EOF".to_owned())),
            _ => {}
        }
        answer
    }
}

impl SliceStore for Server {
    async fn list(&self) -> Result<Vec<ResourceSlice>, StoreError> {
        let ours = |slice: &&ResourceSlice| slice.spec.driver == super::running::DRIVER;
        self.call(Call::List, |inner| {
            Ok(inner.slices.values().filter(ours).cloned().collect())
        })
        .await
    }

    async fn rehearse(&self, write: Rehearsal<'_>) -> Result<ResourceSlice, StoreError> {
        self.call(Call::Rehearse, |inner| {
            let (Rehearsal::Create(slice) | Rehearsal::Replace(slice)) = write;
            let stored = inner.slices.get(slice.metadata.name.as_deref().unwrap());
            match (write, stored) {
                (_, _) if inner.plain => Err(StoreError::Invalid("no dry run".to_owned())),
                (Rehearsal::Create(_), Some(_)) => Err(StoreError::Conflict("exists".to_owned())),
                (Rehearsal::Replace(_), None) => Err(StoreError::Missing("gone".to_owned())),
                _ => Ok(inner.kept(slice.clone())),
            }
        })
        .await
    }

    async fn create(&self, slice: &ResourceSlice, _: &Turn) -> Result<ResourceSlice, StoreError> {
        self.call(Call::Create, |inner| {
            let name = slice.metadata.name.clone().unwrap();
            if inner.slices.contains_key(&name) {
                return Err(StoreError::Conflict(format!("{name} exists")));
            }
            Ok(inner.store(slice.clone()))
        })
        .await
    }

    async fn replace(&self, slice: &ResourceSlice, _: &Turn) -> Result<ResourceSlice, StoreError> {
        self.call(Call::Replace, |inner| {
            let name = slice.metadata.name.clone().unwrap();
            let Some(stored) = inner.slices.get(&name) else {
                return Err(StoreError::Missing(name));
            };
            if stored.metadata.resource_version != slice.metadata.resource_version {
                return Err(StoreError::Conflict(name));
            }
            Ok(inner.store(slice.clone()))
        })
        .await
    }

    async fn delete(&self, slice: &SliceRef, _: &Turn) -> Result<(), StoreError> {
        self.call(Call::Delete, |inner| {
            let Some(stored) = inner.slices.get(&slice.name) else {
                return Err(StoreError::Missing(slice.name.clone()));
            };
            if stored.metadata.resource_version != slice.resource_version {
                return Err(StoreError::Conflict(slice.name.clone()));
            }
            inner.slices.remove(&slice.name);
            let name = slice.name.clone();
            inner.tell(&SliceEvent::Deleted { name });
            Ok(())
        })
        .await
    }

    fn watch(&self) -> BoxStream<'static, SliceEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut inner = self.lock();
        inner.opened += 1;
        inner.watches.push(sender);
        let events = stream::unfold(receiver, async |mut receiver| {
            let event = receiver.recv().await?;
            Some((event, receiver))
        });
        stream::iter([SliceEvent::Relisted]).chain(events).boxed()
    }
}
