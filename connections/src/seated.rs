//! A connection that has a place, and breaks when it loses it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{Guest, Place};

/// A stream in a place. Reads and writes fail once its holder must leave or its time is over,
/// also those that wait.
pub struct Seated<S> {
    stream: S,
    // After the stream: the place is free when the descriptor is.
    place: Place,
    leave: Pin<Box<WaitForCancellationFutureOwned>>,
    over: Option<Pin<Box<Sleep>>>,
}

impl<S> std::fmt::Debug for Seated<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seated")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl<S> Seated<S> {
    /// Seats a stream.
    pub fn new(stream: S, place: Place) -> Self {
        let leave = Box::pin(place.guest().leave().clone().cancelled_owned());
        Self {
            stream,
            place,
            leave,
            over: None,
        }
    }

    /// Seats it for at most this long.
    #[must_use]
    pub fn for_at_most(mut self, limit: Duration) -> Self {
        self.over = Some(Box::pin(sleep(limit)));
        self
    }

    /// Who holds the place.
    pub fn guest(&self) -> &Guest {
        self.place.guest()
    }

    /// An error once the connection has to end; until then the task is woken when that happens.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // Asked first: a future that has completed must not be polled again.
        if self.guest().leave().is_cancelled() || self.leave.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the place was needed for another connection",
            ));
        }
        let Some(over) = &mut self.over else {
            return Ok(());
        };
        if over.is_elapsed() || over.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the time that a connection may last is over",
            ));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closing is always allowed.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::Places;

    #[tokio::test]
    async fn a_reader_and_a_writer_that_wait_are_woken_when_the_place_is_needed() {
        let places = Places::new(NonZeroUsize::MIN);
        for writes in [false, true] {
            let (mut near, _far) = duplex(1);
            near.write_all(b"x").await.unwrap();
            let mut seated = Seated::new(near, places.take().await);
            let waits = tokio::spawn(async move {
                if writes {
                    seated.write_all(b"y").await
                } else {
                    seated.read_u8().await.map(drop)
                }
            });
            let next = places.take().await;
            let error = waits.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
            drop(next);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_its_time_is_over_and_says_so_again() {
        let places = Places::new(NonZeroUsize::MIN);
        let (near, _far) = duplex(1);
        let limit = Duration::from_secs(10);
        let mut seated = Seated::new(near, places.take().await).for_at_most(limit);
        for _ in 0..2 {
            let error = seated.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }
}
