//! Accepted connections, each with the user behind it and what became of it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::{Stream, stream};
use tessera_connections::{Guest, Place, Places, Seated, accept};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

/// Who is at the other end of a connection (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User, as of connect.
    pub uid: u32,
    /// Process, if the kernel can name it in our namespace.
    pub pid: Option<i32>,
}

/// Whose connections are served.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    own: u32,
}

impl Peers {
    /// Root, as which the kubelet runs, and the user of this process.
    pub fn root_and_self() -> Self {
        Self {
            own: rustix::process::geteuid().as_raw(),
        }
    }

    fn admits(self, uid: u32) -> bool {
        uid == 0 || uid == self.own
    }
}

/// What has happened on one connection.
#[derive(Debug, Default)]
struct Progress {
    spoke: AtomicBool,
    served: AtomicBool,
    closed: AtomicBool,
}

/// Facts about a connection, in the extensions of each request that came over it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    peer: Peer,
    progress: Arc<Progress>,
    guest: Guest,
}

impl ConnectionInfo {
    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The place that the connection has.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Notes that a request of this connection reached a handler.
    pub fn mark_served(&self) {
        self.progress.served.store(true, Ordering::Relaxed);
    }

    /// Whether somebody wants something and no handler heard of it: no request was served, and the
    /// peer sent bytes or still holds the connection. A peer that only knocked does not count.
    pub fn is_unheard(&self) -> bool {
        let Progress {
            spoke,
            served,
            closed,
        } = &*self.progress;
        let waits = spoke.load(Ordering::Relaxed) || !closed.load(Ordering::Relaxed);
        waits && !served.load(Ordering::Relaxed)
    }
}

/// An accepted connection of an admitted peer.
#[derive(Debug)]
pub struct Connection {
    stream: Seated<UnixStream>,
    info: ConnectionInfo,
}

impl Connection {
    fn new(stream: UnixStream, peer: Peer, place: Place) -> Self {
        let info = ConnectionInfo {
            peer,
            progress: Arc::default(),
            guest: place.guest().clone(),
        };
        let stream = Seated::new(stream, place);
        Self { stream, info }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.info.progress.closed.store(true, Ordering::Relaxed);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.info.progress.spoke.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The connections of admitted peers, without end; tonic serves them as they are.
///
/// A peer that is not admitted is logged and dropped before a byte is read, and costs nobody a
/// place. A connection beyond `places` takes the place of the one that least deserves it. A failed
/// accept is logged and tried again.
pub fn incoming(
    listener: UnixListener,
    peers: Peers,
    places: Places,
) -> impl Stream<Item = Result<Connection, Infallible>> + Send {
    stream::unfold((listener, places), move |(listener, places)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Some(peer) = admitted(&stream, peers) {
                        let connection = Connection::new(stream, peer, places.take().await);
                        return Some((Ok(connection), (listener, places)));
                    }
                }
                Err(error) => accept::after_failure(&error).await,
            }
        }
    })
}

fn admitted(stream: &UnixStream, peers: Peers) -> Option<Peer> {
    let peer = match stream.peer_cred() {
        Ok(credentials) => Peer {
            uid: credentials.uid(),
            pid: credentials.pid(),
        },
        Err(error) => {
            tracing::warn!(%error, "dropped a connection whose peer the kernel does not name");
            return None;
        }
    };
    if !peers.admits(peer.uid) {
        let Peer { uid, pid } = peer;
        tracing::warn!(
            uid,
            pid,
            own = peers.own,
            "dropped a connection: not root, not our user"
        );
        return None;
    }
    Some(peer)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::limits::CONNECTIONS;

    const ROOT: u32 = 0;

    fn places() -> Places {
        Places::new(CONNECTIONS)
    }

    #[test]
    fn root_and_our_own_user_are_admitted_and_nobody_else() {
        let peers = Peers { own: 1000 };
        for (uid, admitted) in [(ROOT, true), (1000, true), (1001, false), (65534, false)] {
            assert_eq!(peers.admits(uid), admitted, "{uid}");
        }
    }

    #[tokio::test]
    async fn the_kernel_tells_who_connects_and_how_far_a_connection_came_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut connections = Box::pin(incoming(listener, Peers::root_and_self(), places()));

        let mut client = UnixStream::connect(&path).await.unwrap();
        let Ok(mut server) = connections.next().await.unwrap();
        let info = server.connect_info();
        assert_eq!(info.peer().uid, rustix::process::geteuid().as_raw());
        assert_eq!(
            info.peer().pid,
            i32::try_from(std::process::id()).ok(),
            "{info:?}"
        );

        assert!(info.is_unheard(), "it is open and no request was served");
        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
        drop(server);
        assert!(info.is_unheard(), "it said something before it was closed");
        info.mark_served();
        assert!(!info.is_unheard());
    }

    /// A connection whose peer is neither root nor the user that is admitted beside it.
    fn from_a_stranger() -> (std::os::unix::net::UnixStream, Peers) {
        let pair = || std::os::unix::net::UnixStream::pair().unwrap().0;
        let us = rustix::process::geteuid();
        if !us.is_root() {
            let own = us.as_raw() + 1;
            return (pair(), Peers { own });
        }
        let becomes_one = std::thread::spawn(move || {
            let nobody = rustix::thread::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            pair()
        });
        (becomes_one.join().unwrap(), Peers::root_and_self())
    }

    #[tokio::test]
    async fn a_stranger_is_not_admitted() {
        let (stream, peers) = from_a_stranger();
        stream.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(stream).unwrap();
        assert_eq!(admitted(&stream, peers), None);
    }

    #[tokio::test]
    async fn a_peer_that_only_knocked_was_not_unheard() {
        let (server, _client) = UnixStream::pair().unwrap();
        let peer = admitted(&server, Peers::root_and_self()).unwrap();
        let place = places().take().await;
        let server = Connection::new(server, peer, place);
        let info = server.connect_info();
        drop(server);
        assert!(!info.is_unheard());
    }
}
