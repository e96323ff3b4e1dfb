//! Binding a socket at a path, and taking exactly that socket away again.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use super::SocketPath;

/// Mode of directories that are created for a socket.
const DIRECTORY_MODE: u32 = 0o750;
/// Connections that wait for accept. The kubelet opens one or two at a time.
const BACKLOG: i32 = 16;
/// Age of a socket from which on a refusal means that its owner is dead: between `bind` and `listen`
/// a living owner's socket refuses too, for microseconds.
const SETTLED: Duration = Duration::from_secs(1);

/// A socket that could not be bound.
#[derive(Debug, Error)]
pub enum BindError {
    /// The directory is missing and cannot be made.
    #[error("creating the directory of socket {path}")]
    CreateDirectory {
        /// The socket.
        path: SocketPath,
        /// Why.
        source: io::Error,
    },
    /// What stands at the path cannot be looked at.
    #[error("looking for an old socket at {path}")]
    Inspect {
        /// The socket.
        path: SocketPath,
        /// Why.
        source: io::Error,
    },
    /// Something that is not a socket stands at the path.
    #[error("{path} exists and is not a socket; remove it if nothing needs it")]
    NotASocket {
        /// The path.
        path: SocketPath,
    },
    /// A live process serves the path.
    #[error(
        "another process serves socket {path}; stop it, or give each instance a name of its own \
         by its pod UID"
    )]
    Served {
        /// The socket.
        path: SocketPath,
    },
    /// Nobody answers at the path, but the old socket stays.
    #[error("removing the old socket {path}")]
    RemoveStale {
        /// The socket.
        path: SocketPath,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the socket.
    #[error("binding socket {path}")]
    Bind {
        /// The socket.
        path: SocketPath,
        /// Why.
        source: io::Error,
    },
}

/// A listening socket and the file that it is reached by.
///
/// Dropping it unlinks the file first and closes the socket second, so that nobody finds a path
/// behind which nobody listens.
#[derive(Debug)]
pub struct BoundSocket {
    file: SocketFile,
    listener: UnixListener,
}

impl BoundSocket {
    /// Where it is bound.
    pub fn path(&self) -> &SocketPath {
        &self.file.path
    }

    /// The file and the listener, for another process that shall serve the socket. It makes one of
    /// its own of them with [`Self::inherited`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.file.pin.as_fd(), self.listener.as_fd()]
    }

    /// Whether it is what can be reached at its path.
    pub fn is_in_place(&self) -> bool {
        self.file.is_still_ours() == Ok(true)
    }

    /// A socket of another process, by the descriptors that it gave. The file stays that process's:
    /// it outlives this value, unless it is [unlinked](SocketFile::unlink).
    pub fn inherited(path: &SocketPath, [pin, listener]: [OwnedFd; 2]) -> Self {
        let file = SocketFile {
            path: path.clone(),
            pin,
            owner: Owner::Another,
        };
        Self {
            file,
            listener: UnixListener::from(listener),
        }
    }

    /// Gives the file and the listener (non-blocking) to owners of their own.
    pub fn into_parts(self) -> (SocketFile, UnixListener) {
        (self.file, self.listener)
    }
}

/// Who takes the file of a socket away in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Us,
    Another,
}

/// The file of a bound socket. That of a socket of our own is unlinked on drop, if it is still the
/// one that was bound.
#[derive(Debug)]
pub struct SocketFile {
    path: SocketPath,
    owner: Owner,
    /// An open handle on the file itself: as long as it lives, the kernel gives the inode number to
    /// no other file, so equal numbers mean the same socket.
    pin: OwnedFd,
}

impl SocketFile {
    /// Where it was bound.
    pub fn path(&self) -> &SocketPath {
        &self.path
    }

    /// Unlinks the file now, whoever owns it.
    pub fn unlink(mut self) {
        self.owner = Owner::Us;
    }

    fn pin(path: &SocketPath) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            path: path.clone(),
            owner: Owner::Us,
            pin: rustix::fs::open(path.as_path(), flags, Mode::empty())?,
        })
    }

    fn is_still_ours(&self) -> rustix::io::Result<bool> {
        let ours = rustix::fs::fstat(&self.pin)?;
        let there = rustix::fs::statat(CWD, self.path.as_path(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.owner == Owner::Another {
            return;
        }
        let path = &self.path;
        match self.is_still_ours() {
            Ok(true) => {
                if let Err(error) = fs::remove_file(path.as_path()) {
                    tracing::warn!(%path, %error, "the socket could not be unlinked");
                }
            }
            Ok(false) => tracing::info!(%path, "another socket took the path; it stays"),
            Err(Errno::NOENT) => tracing::debug!(%path, "the socket was unlinked by others"),
            Err(error) => tracing::warn!(%path, %error, "the socket could not be looked at"),
        }
    }
}

/// Binds a listening socket at a path.
///
/// Creates the directory (mode 0750) if it is missing and removes a socket on which nobody
/// answers, such as a crash leaves behind.
pub fn bind(path: &SocketPath) -> Result<BoundSocket, BindError> {
    create_directory(path)?;
    remove_stale(path)?;
    listen(path).map_err(|source| BindError::Bind {
        path: path.clone(),
        source,
    })
}

fn create_directory(path: &SocketPath) -> Result<(), BindError> {
    let Some(directory) = path.as_path().parent() else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .map_err(|source| BindError::CreateDirectory {
            path: path.clone(),
            source,
        })
}

fn remove_stale(path: &SocketPath) -> Result<(), BindError> {
    let inspect = |source| BindError::Inspect {
        path: path.clone(),
        source,
    };
    match fs::symlink_metadata(path.as_path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(inspect(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.clone() });
        }
        Ok(_) => {}
    }
    match knock(path.as_path()) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // A full backlog means that somebody listens, if slowly.
        Ok(()) | Err(Errno::AGAIN) => return Err(BindError::Served { path: path.clone() }),
        Err(error) => return Err(inspect(error.into())),
    }
    tracing::info!(%path, "removing a socket on which nobody answers");
    fs::remove_file(path.as_path()).map_err(|source| BindError::RemoveStale {
        path: path.clone(),
        source,
    })
}

/// Connects without waiting and hangs up at once.
fn knock(path: &Path) -> rustix::io::Result<()> {
    rustix::net::connect(&stream_socket()?, &SocketAddrUnix::new(path)?)
}

/// Removes a socket whose owner is dead, and says whether there was one at the path.
pub fn remove_dead(path: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    let age = found.modified()?.elapsed().unwrap_or_default();
    if !found.file_type().is_socket() || age < SETTLED || knock(path) != Err(Errno::CONNREFUSED) {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

fn listen(path: &SocketPath) -> io::Result<BoundSocket> {
    let socket = stream_socket()?;
    // Linux gives the file the mode of the socket (less the umask), so there is no moment in which
    // the file is wider open.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path.as_path())?)?;
    let file = SocketFile::pin(path)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(BoundSocket {
        file,
        listener: UnixListener::from(socket),
    })
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

    use super::*;

    const OMIT: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    const LONG_AGO: Timespec = Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 0,
    };

    fn path_in(directory: &Path, name: &str) -> SocketPath {
        SocketPath::new(&directory.join(name)).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_socket_is_private_and_so_is_the_directory_made_for_it() {
        let root = tempfile::tempdir().unwrap();
        let path = path_in(root.path(), "plugins/gpu.nvidia.com/dra.sock");
        let bound = bind(&path).unwrap();
        assert_eq!(mode(bound.path().as_path()), 0o600);
        assert_eq!(mode(path.as_path().parent().unwrap()), 0o750);
        UnixStream::connect(path.as_path()).unwrap();
    }

    #[test]
    fn a_socket_that_a_crash_left_behind_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = path_in(root.path(), "dra.sock");
        drop(UnixListener::bind(path.as_path()).unwrap());
        assert!(path.as_path().exists());
        let _bound = bind(&path).unwrap();
        UnixStream::connect(path.as_path()).unwrap();
    }

    #[test]
    fn a_socket_that_another_process_serves_is_left_alone_also_when_its_backlog_is_full() {
        let root = tempfile::tempdir().unwrap();
        let path = path_in(root.path(), "dra.sock");
        let _live = bind(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            assert!(matches!(bind(&path), Err(BindError::Served { .. })));
            let socket = stream_socket().unwrap();
            let address = SocketAddrUnix::new(path.as_path()).unwrap();
            match rustix::net::connect(&socket, &address) {
                Ok(()) => waiting.push(socket),
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(matches!(bind(&path), Err(BindError::Served { .. })));
        assert!(path.as_path().exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        fs::write(&target, "precious").unwrap();
        let link = path_in(root.path(), "link");
        std::os::unix::fs::symlink(&target, link.as_path()).unwrap();
        for path in [path_in(root.path(), "target"), link] {
            let error = bind(&path).unwrap_err();
            assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn dropping_unlinks_our_own_socket() {
        let root = tempfile::tempdir().unwrap();
        let path = path_in(root.path(), "dra.sock");
        drop(bind(&path).unwrap());
        assert!(!path.as_path().exists());
    }

    #[test]
    fn a_socket_that_took_our_path_survives_us() {
        let root = tempfile::tempdir().unwrap();
        let path = path_in(root.path(), "dra.sock");
        let (file, listener) = bind(&path).unwrap().into_parts();
        drop(listener);
        let _successor = bind(&path).unwrap();
        drop(file);
        UnixStream::connect(path.as_path()).unwrap();
    }

    #[test]
    fn a_dead_socket_is_removed_and_a_living_or_a_young_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let [dead, young, living] = ["dead", "young", "living"].map(|name| root.path().join(name));
        drop(UnixListener::bind(&dead).unwrap());
        drop(UnixListener::bind(&young).unwrap());
        let _listens = UnixListener::bind(&living).unwrap();
        for path in [&dead, &living] {
            let touched = Timestamps {
                last_access: OMIT,
                last_modification: LONG_AGO,
            };
            rustix::fs::utimensat(CWD, path, &touched, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        let removed = [&dead, &young, &living].map(|path| remove_dead(path).unwrap());
        assert_eq!(removed, [true, false, false]);
        let left = [&dead, &young, &living].map(|path| path.exists());
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn an_inherited_socket_outlives_its_heir_and_can_be_unlinked_by_it() {
        let root = tempfile::tempdir().unwrap();
        let path = path_in(root.path(), "dra.sock");
        let owner = bind(&path).unwrap();
        let inherit = || {
            let copies = owner.descriptors().map(|d| d.try_clone_to_owned().unwrap());
            BoundSocket::inherited(&path, copies)
        };
        drop(inherit());
        UnixStream::connect(path.as_path()).unwrap();
        let (file, _listener) = inherit().into_parts();
        assert!(owner.is_in_place());
        file.unlink();
        assert!(!path.as_path().exists());
        assert!(!owner.is_in_place());
        drop(owner);
    }

    #[test]
    fn a_socket_that_somebody_else_unlinked_is_no_trouble() {
        let root = tempfile::tempdir().unwrap();
        let path = path_in(root.path(), "dra.sock");
        let bound = bind(&path).unwrap();
        fs::remove_file(path.as_path()).unwrap();
        drop(bound);
        assert!(bind(&path).is_ok());
    }
}
