//! Changes the state for callers that cannot write it. This is a part of the simulation that no real
//! driver has.
//!
//! A real driver's state is in the kernel, which changes it for whoever asks through a device node,
//! though the driver's files are mounted read-only. The simulated state is a file, which nobody can
//! change through such a mount. So a process on the node's side of the mount listens at a Unix socket
//! below the driver root and does it: to connect to a socket is no change of the file system, and is
//! allowed where that is read-only. Callers without the root's socket, as in a container that was given
//! a GPU, can change nothing, as with the real driver.
//!
//! One request a connection: a line of JSON each way.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, openat},
    net::sockopt::socket_peercred,
};
use serde::{Deserialize, Serialize};

use crate::{
    injection::Effect,
    install::{self, InstallError, find_state},
    memory::NewLimits,
    mig::{Done, Operation, Refusal},
    policy::Policy,
    state::{Node, StateError},
};

/// The folder of the socket, below the driver root, and its name there.
const FOLDER: &str = "dev";
const NAME: &str = "simulated-kernel";

/// How soon a driver that was installed, and the wish to stop, are seen.
const TICK: Duration = Duration::from_millis(50);
/// A request is a line that is written at once; the change waits for the state's lock, which has a
/// deadline of its own.
const DEADLINE: Duration = Duration::from_secs(15);
/// More than any line of the protocol has.
const LONGEST: u64 = 64 * 1024;

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Something done to the GPU with this UUID.
    Operate {
        /// The GPU.
        gpu: String,
        /// What.
        operation: Operation,
    },
    /// A setting of the GPU with this UUID.
    Set {
        /// The GPU.
        gpu: String,
        /// What it is set to.
        policy: Policy,
    },
    /// Memory limits of a cgroup on the GPU with this UUID.
    Limit {
        /// The GPU.
        gpu: String,
        /// The limits.
        limits: NewLimits,
    },
    /// A call of this function counted for the injections that all processes count together.
    Count {
        /// Its C name.
        function: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done(Done),
    /// It was set.
    Set,
    /// The driver does not do it.
    Refused(Refusal),
    /// What happens to the call, and by which injection.
    Due(Vec<(u64, Effect)>),
    /// The state could not be changed.
    Failed(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The state is read-only here and nobody listens who could change it.
    #[error("change the GPU state below {}: it is read-only here, and no simulated kernel listens", root.display())]
    Nobody {
        /// The driver root.
        root: PathBuf,
    },
    /// The conversation broke off.
    #[error("ask the simulated kernel of {}", root.display())]
    Io {
        /// The driver root.
        root: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The state cannot be changed on this side either.
    #[error(transparent)]
    Install(#[from] InstallError),
}

/// Changes the state below `root`: itself where that can be written, and else through whoever listens.
pub fn perform(root: &Path, request: &Request) -> Result<Answer, AskError> {
    match change(root, request) {
        Err(InstallError::State(StateError::ReadOnly { .. })) => ask(root, request),
        answer => Ok(answer?),
    }
}

fn change(root: &Path, request: &Request) -> Result<Answer, InstallError> {
    match request {
        Request::Operate { gpu, operation } => {
            let operate = |node: &mut Node| Ok::<_, InstallError>(node.operate(gpu, *operation));
            let outcome = install::change(root, operate)?;
            Ok(outcome.map_or_else(Answer::Refused, Answer::Done))
        }
        Request::Set { gpu, policy } => {
            let set = |node: &mut Node| Ok::<_, InstallError>(node.set_policy(gpu, *policy));
            let outcome = install::change(root, set)?;
            Ok(outcome.map_or_else(Answer::Refused, |()| Answer::Set))
        }
        Request::Limit { gpu, limits } => {
            let set = |node: &mut Node| Ok::<_, InstallError>(node.set_memory_limits(gpu, limits));
            let outcome = install::change(root, set)?;
            Ok(outcome.map_or_else(Answer::Refused, |()| Answer::Set))
        }
        Request::Count { function } => {
            let due = find_state(root)?.update(|node| node.observe(function))?;
            Ok(Answer::Due(due))
        }
    }
}

/// Asks whoever listens below `root`.
pub fn ask(root: &Path, request: &Request) -> Result<Answer, AskError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::PermissionDenied => AskError::Nobody {
            root: root.to_owned(),
        },
        _ => AskError::Io {
            root: root.to_owned(),
            source,
        },
    };
    let folder = open_folder(root).map_err(failed)?;
    let mut stream = UnixStream::connect(short_path(&folder)).map_err(failed)?;
    converse(&mut stream, request).map_err(failed)
}

fn converse(stream: &mut UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    write_line(stream, request)?;
    read_line(stream)
}

/// Listens below `root` for as long as it is not to `stop`, whenever a driver is installed there.
pub fn serve(root: &Path, stop: &AtomicBool) -> io::Result<()> {
    let mut socket = None;
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            if !socket.as_ref().is_some_and(Socket::is_there) {
                socket = Socket::bind(root)?;
            }
            let Some(open) = &socket else {
                thread::sleep(TICK);
                continue;
            };
            if let Some(mut stream) = open.accept()? {
                // Whoever breaks off or talks nonsense has no answer to get.
                scope.spawn(move || drop(serve_one(root, &mut stream)));
            }
        }
        Ok(())
    })
}

fn serve_one(root: &Path, stream: &mut UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let is_root = socket_peercred(&stream)?.uid.is_root();
    let request: Request = read_line(stream)?;
    let answer = match &request {
        Request::Operate { .. } | Request::Limit { .. } if !is_root => {
            Answer::Refused(Refusal::NoPermission)
        }
        request => change(root, request).unwrap_or_else(|error| Answer::Failed(error.to_string())),
    };
    write_line(stream, &answer)
}

/// The socket that callers find.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Makes it, in place of one that a former process has left. Nothing without a driver to belong to.
    fn bind(root: &Path) -> io::Result<Option<Self>> {
        let Some(_turn) = install::turn(root) else {
            return Ok(None);
        };
        if find_state(root).is_err() {
            return Ok(None);
        }
        let folder = match open_folder(root) {
            // The driver is just being installed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            folder => folder?,
        };
        let path = root.join(FOLDER).join(NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(short_path(&folder))?;
        listener.set_nonblocking(true)?;
        // Everybody may count calls; who may do more is looked at with each request.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        let inode = fs::metadata(&path)?.ino();
        Ok(Some(Self {
            listener,
            path,
            inode,
        }))
    }

    /// Whether it is still where callers look.
    fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }

    /// The next caller, if one comes soon.
    fn accept(&self) -> io::Result<Option<UnixStream>> {
        let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
        let tick = Timespec::try_from(TICK).map_err(io::Error::other)?;
        match poll(&mut waiting, Some(&tick)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            ready => ready?,
        };
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn open_folder(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, root.join(FOLDER), flags, Mode::empty())?)
}

/// The socket by way of its open folder: the path of a driver root may be longer than a socket's may be.
fn short_path(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", folder.as_raw_fd()))
}

fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn read_line<T: for<'d> Deserialize<'d>>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
