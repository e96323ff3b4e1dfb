//! The stream of events, opened anew wherever it ends.

use std::fmt;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::{Instant, sleep_until};

use super::pace::Pace;
use super::store::{SliceEvent, SliceStore};

/// An endless watch.
pub(super) struct Feed {
    stream: Stream,
    pace: Pace,
}

enum Stream {
    Open(BoxStream<'static, SliceEvent>),
    ClosedUntil(Instant),
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    /// A feed that opens when it is first asked.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stream: Stream::ClosedUntil(now),
            pace: Pace::new(),
        }
    }

    /// Opens a new watch without delay, whatever became of the present one: what hangs is known only
    /// after a while, and what broke waits for its turn.
    pub(super) fn renew(&mut self, now: Instant) {
        self.stream = Stream::ClosedUntil(now);
    }

    /// The next event. Loses none when it is dropped while it waits.
    pub(super) async fn next(&mut self, store: &impl SliceStore) -> SliceEvent {
        loop {
            match &mut self.stream {
                Stream::Open(events) => {
                    if let Some(event) = events.next().await {
                        return event;
                    }
                    let now = Instant::now();
                    self.stream = Stream::ClosedUntil(now + self.pace.strike(now));
                }
                Stream::ClosedUntil(moment) => {
                    sleep_until(*moment).await;
                    self.stream = Stream::Open(store.watch());
                }
            }
        }
    }
}
