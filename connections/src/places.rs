//! The places of a socket, and who yields when all are taken.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// How many requests of one connection are read at the same time; the others wait in the transport,
/// where the connection's window bounds them. A request that has been read does not count.
const READS_AT_ONCE: usize = 8;

/// The places of one socket.
#[derive(Clone, Debug)]
pub struct Places(Arc<Room>);

#[derive(Debug)]
struct Room {
    limit: usize,
    freed: Notify,
    guests: Mutex<Guests>,
}

#[derive(Debug, Default)]
struct Guests {
    /// Counts arrivals and requests, so that later is greater.
    clock: u64,
    held: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    merit: Merit,
    leave: CancellationToken,
}

/// What a connection has done for its place; the least yields first.
///
/// A connection with a call in hand goes last, because its peer would not hear the answer; one that
/// never asked anything goes before one that did; among equals, whoever asked longest ago.
#[derive(Clone, Copy, Debug)]
struct Merit {
    calls: usize,
    asked: bool,
    last: u64,
}

impl Merit {
    fn rank(self) -> (bool, bool, u64) {
        (self.calls > 0, self.asked, self.last)
    }
}

impl Places {
    /// So many places.
    pub fn new(limit: NonZeroUsize) -> Self {
        Self(Arc::new(Room {
            limit: limit.get(),
            freed: Notify::new(),
            guests: Mutex::default(),
        }))
    }

    /// A place, as soon as there is one; if there is none, somebody is told to leave.
    pub async fn take(&self) -> Place {
        loop {
            let freed = self.0.freed.notified();
            if let Some(place) = self.try_take() {
                return place;
            }
            freed.await;
        }
    }

    /// Tells everybody who has a place to leave it.
    pub fn dismiss(&self) {
        for held in self.0.guests().held.values() {
            held.leave.cancel();
        }
    }

    /// Waits for a moment in which all are free.
    pub async fn all_free(&self) {
        loop {
            let freed = self.0.freed.notified();
            if self.taken() == 0 {
                return;
            }
            freed.await;
        }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.guests().held.len()
    }

    fn try_take(&self) -> Option<Place> {
        let mut guests = self.0.guests();
        if guests.held.len() >= self.0.limit {
            guests.ask_one_to_leave();
            return None;
        }
        let id = guests.tick();
        let leave = CancellationToken::new();
        let merit = Merit {
            calls: 0,
            asked: false,
            last: id,
        };
        let held = Held {
            merit,
            leave: leave.clone(),
        };
        guests.held.insert(id, held);
        let guest = Guest {
            room: Arc::clone(&self.0),
            id,
            leave,
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
        };
        Some(Place { guest })
    }
}

impl Room {
    /// A panic elsewhere leaves the table whole: each change to it is one statement.
    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Nobody else is asked while one that was asked is still on its way out.
    fn ask_one_to_leave(&mut self) {
        if self.held.values().any(|held| held.leave.is_cancelled()) {
            return;
        }
        if let Some(least) = self.held.values().min_by_key(|held| held.merit.rank()) {
            least.leave.cancel();
        }
    }
}

/// A taken place; dropping it frees it.
#[derive(Debug)]
pub struct Place {
    guest: Guest,
}

impl Place {
    /// Who has it.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Guest { room, id, .. } = &self.guest;
        room.guests().held.remove(id);
        room.freed.notify_waiters();
    }
}

/// The holder of a place, as its requests know it. It does not keep the place.
#[derive(Clone, Debug)]
pub struct Guest {
    room: Arc<Room>,
    id: u64,
    leave: CancellationToken,
    reads: Arc<Semaphore>,
}

impl Guest {
    /// Notes that a request is worked on, until the call is dropped.
    pub fn begin_call(&self) -> Call {
        let mut guests = self.room.guests();
        let now = guests.tick();
        if let Some(held) = guests.held.get_mut(&self.id) {
            held.merit.calls += 1;
            held.merit.asked = true;
            held.merit.last = now;
        }
        drop(guests);
        Call(self.clone())
    }

    /// Cancelled when the holder must leave.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// One permit for each request that may be read now.
    pub fn reads(&self) -> &Arc<Semaphore> {
        &self.reads
    }
}

/// A request that is worked on.
#[derive(Debug)]
pub struct Call(Guest);

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(held) = self.0.room.guests().held.get_mut(&self.0.id) {
            held.merit.calls -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn places(limit: usize) -> Places {
        Places::new(NonZeroUsize::new(limit).unwrap())
    }

    async fn take<const N: usize>(places: &Places) -> [Place; N] {
        let mut taken = Vec::new();
        for _ in 0..N {
            taken.push(places.take().await);
        }
        taken.try_into().unwrap()
    }

    fn leaving(all: &[&Place]) -> Vec<bool> {
        all.iter()
            .map(|place| place.guest().leave().is_cancelled())
            .collect()
    }

    #[tokio::test]
    async fn who_asked_nothing_yields_before_who_asked_and_a_call_in_hand_yields_last() {
        let places = places(4);
        let [calling, idle, asked_early, asked_late] = take(&places).await;
        drop(asked_early.guest().begin_call());
        drop(asked_late.guest().begin_call());
        let call = calling.guest().begin_call();
        drop(asked_early.guest().begin_call());

        assert!(places.take().now_or_never().is_none());
        let all = [&calling, &idle, &asked_early, &asked_late];
        assert_eq!(leaving(&all), [false, true, false, false]);
        assert!(places.take().now_or_never().is_none());
        assert_eq!(leaving(&all), [false, true, false, false], "one at a time");

        drop(idle);
        let newest = places.take().await;
        drop(newest.guest().begin_call());
        assert!(places.take().now_or_never().is_none());
        let all = [&calling, &asked_early, &asked_late, &newest];
        assert_eq!(leaving(&all), [false, false, true, false]);
        drop(call);
    }

    #[tokio::test]
    async fn among_those_who_asked_nothing_the_oldest_yields() {
        let places = places(2);
        let [first, second] = take(&places).await;
        assert!(places.take().now_or_never().is_none());
        assert_eq!(leaving(&[&first, &second]), [true, false]);
    }

    #[tokio::test]
    async fn a_place_that_is_left_is_taken_by_whoever_waits() {
        let places = places(1);
        let [first] = take(&places).await;
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        first.guest().leave().cancelled().await;
        assert_eq!(places.taken(), 1);
        drop(first);
        let second = waiting.await.unwrap();
        assert!(!second.guest().leave().is_cancelled());
        assert_eq!(places.taken(), 1);
        drop(second);
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn all_are_free_when_the_last_is_left() {
        let places = places(2);
        let [first, second] = take(&places).await;
        let mut all_free = Box::pin(places.all_free());
        drop(first);
        assert!(all_free.as_mut().now_or_never().is_none());
        drop(second);
        all_free.await;
    }

    #[tokio::test]
    async fn everybody_leaves_at_the_end() {
        let places = places(2);
        let [first, second] = take(&places).await;
        let _call = first.guest().begin_call();
        places.dismiss();
        assert_eq!(leaving(&[&first, &second]), [true, true]);
    }

    #[tokio::test]
    async fn a_call_may_outlive_its_connection() {
        let places = places(1);
        let [place] = take(&places).await;
        let call = place.guest().begin_call();
        drop(place);
        drop(call);
        assert_eq!(places.taken(), 0);
    }
}
