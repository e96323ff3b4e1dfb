//! What keeper and worker tell each other, over a socket that is the worker's standard input.
//!
//! The keeper sends one message before the worker runs: what the worker comes to ([`Post`]), and with
//! it the sockets (`SCM_RIGHTS`, unix(7)). The worker answers with one byte once it serves. When
//! either side is gone, the kernel tells the other by the end of the stream.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, send, sendmsg,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use tessera_proto::{SocketPaths, Sockets};
use thiserror::Error;

/// How many descriptors the sockets have.
const DESCRIPTORS: usize = 4;

/// Length of the message: both ends are one program.
const POST_BYTES: usize = 5;

/// What the worker says when it serves.
const SERVING: [u8; 1] = [1];

/// The line does not work.
#[derive(Debug, Error)]
pub enum LineError {
    /// The keeper cannot prepare it.
    #[error("hand the sockets to a worker")]
    HandOver(#[source] io::Error),
    /// The worker cannot use it.
    #[error("take the sockets from the keeper; only a keeper starts a process with --kept")]
    Take(#[source] io::Error),
    /// What came is not what a keeper sends.
    #[error("standard input is not a keeper's; only a keeper starts a process with --kept")]
    NoKeeper,
    /// The keeper died before the worker could see it.
    #[error("the keeper is gone")]
    KeeperGone,
}

/// What a worker comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Post {
    /// How many workers there were before it.
    pub restarts: u32,
    /// Whether it serves the very sockets of the one before it.
    pub taken_over: bool,
}

impl Post {
    fn encode(self) -> [u8; POST_BYTES] {
        let [a, b, c, d] = self.restarts.to_ne_bytes();
        [a, b, c, d, self.taken_over.into()]
    }

    fn decode([a, b, c, d, taken_over]: [u8; POST_BYTES]) -> Self {
        Self {
            restarts: u32::from_ne_bytes([a, b, c, d]),
            taken_over: taken_over != 0,
        }
    }
}

/// The keeper's end.
#[derive(Debug)]
pub(super) struct KeeperLine(UnixStream);

impl KeeperLine {
    /// A line to a worker that shall serve these sockets, and the worker's end of it.
    pub(super) fn with(sockets: &Sockets, post: Post) -> Result<(Self, UnixStream), LineError> {
        let (ours, theirs) = UnixStream::pair().map_err(LineError::HandOver)?;
        let descriptors = sockets.descriptors();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let fits = rights.push(SendAncillaryMessage::ScmRights(&descriptors));
        assert!(fits, "the buffer is made for these descriptors");
        let post = post.encode();
        sendmsg(
            &ours,
            &[IoSlice::new(&post)],
            &mut rights,
            SendFlags::NOSIGNAL,
        )
        .map_err(|error| LineError::HandOver(error.into()))?;
        Ok((Self(ours), theirs))
    }

    /// Whether the worker has said that it serves.
    pub(super) fn has_served(&self) -> bool {
        peek(&self.0).is_ok_and(|waiting| waiting > 0)
    }
}

/// What a worker has from its keeper.
#[derive(Debug)]
pub struct Kept {
    /// The sockets, bound and listening.
    pub sockets: Sockets,
    /// What this worker comes to.
    pub post: Post,
    /// The means to say that they are served.
    pub serving: Serving,
}

impl Kept {
    /// Takes the sockets at these paths over from the keeper that started this process, and ties its
    /// life to the keeper's.
    pub fn take(paths: &SocketPaths) -> Result<Self, LineError> {
        let line = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(LineError::Take)?;
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|error| LineError::Take(error.into()))?;
        let kept = Self::over(line, paths)?;
        // The signal comes for a death after this point only.
        if kept.keeper_is_gone() {
            return Err(LineError::KeeperGone);
        }
        Ok(kept)
    }

    fn over(line: OwnedFd, paths: &SocketPaths) -> Result<Self, LineError> {
        let mut post = [0; POST_BYTES];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut post)];
        let message = recvmsg(&line, &mut into, &mut rights, RecvFlags::CMSG_CLOEXEC)
            .map_err(|error| LineError::Take(error.into()))?;
        let mut descriptors = Vec::new();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        match <[OwnedFd; DESCRIPTORS]>::try_from(descriptors) {
            Ok(descriptors) if message.bytes == POST_BYTES => Ok(Self {
                sockets: Sockets::inherited(paths, descriptors),
                post: Post::decode(post),
                serving: Serving(line),
            }),
            _ => Err(LineError::NoKeeper),
        }
    }

    fn keeper_is_gone(&self) -> bool {
        peek(&self.serving.0).is_ok_and(|waiting| waiting == 0)
    }
}

/// How many bytes wait, of one that is looked for. None wait where the other side is gone; while it is
/// there and silent, this fails.
fn peek(line: impl AsFd) -> rustix::io::Result<usize> {
    let mut byte = [0; 1];
    let (_, waiting) = recv(line, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
    Ok(waiting)
}

/// Tells the keeper that the worker serves.
#[derive(Debug)]
pub struct Serving(OwnedFd);

impl Serving {
    /// Tells it, once.
    pub fn tell(self) {
        if let Err(error) = send(&self.0, &SERVING, SendFlags::NOSIGNAL) {
            tracing::warn!(%error, "the keeper was not told that the sockets are served");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::*;

    fn paths(root: &Path) -> SocketPaths {
        SocketPaths::new(&root.join("r"), &root.join("p"), "gpu.nvidia.com", None).unwrap()
    }

    #[test]
    fn a_worker_gets_the_sockets_and_the_keeper_hears_that_it_serves() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let sockets = Sockets::bind(&paths).unwrap();
        let post = Post {
            restarts: 70_000,
            taken_over: true,
        };
        let (keeper, theirs) = KeeperLine::with(&sockets, post).unwrap();
        let kept = Kept::over(theirs.into(), &paths).unwrap();
        assert_eq!(kept.post, post);
        assert!(!kept.keeper_is_gone() && !keeper.has_served());
        kept.serving.tell();
        assert!(keeper.has_served() && keeper.has_served());
        drop(kept.sockets);
        UnixStream::connect(paths.dra.as_path()).unwrap();
    }

    #[test]
    fn a_keeper_that_died_and_an_input_that_is_none_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths(root.path());
        let sockets = Sockets::bind(&paths).unwrap();
        let (keeper, theirs) = KeeperLine::with(&sockets, Post::default()).unwrap();
        drop(keeper);
        let kept = Kept::over(theirs.into(), &paths).unwrap();
        assert!(kept.keeper_is_gone());

        let null = File::open("/dev/null").unwrap();
        assert!(matches!(
            Kept::over(null.into(), &paths),
            Err(LineError::Take(_))
        ));
        let (silent, other) = UnixStream::pair().unwrap();
        drop(other);
        assert!(matches!(
            Kept::over(silent.into(), &paths),
            Err(LineError::NoKeeper)
        ));
    }
}
