//! Keeps the kubelet's sockets while the process that serves them is replaced.
//!
//! A Prepare that fails costs its pod more than a minute, until the kubelet calls again, and the
//! kubelet starts a dead container anew only after a back-off. So the first process of the container
//! does nothing but hold the listening sockets and run a worker, which is the same program and does
//! all the work. A worker that dies is replaced at once, and what the kubelet sends meanwhile waits in
//! the sockets' backlogs instead of being refused.
//!
//! # Guarantees
//! The keeper loads no library of the driver, talks to nobody and has one thread: what kills a worker
//! does not kill it. A worker does not outlive its keeper. Signals to end are passed on. A worker that
//! cannot come up ends the keeper with the worker's exit code, so that Kubernetes sees it and backs
//! off.

mod ends;
mod line;

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tessera_proto::Sockets;
use thiserror::Error;
use tracing::{info, warn};

use self::ends::{Cause, End, Ends, Next};
use self::line::KeeperLine;
pub use self::line::{Kept, LineError, Post, Serving};
use crate::args::{Args, KEPT};
use crate::sockets::{Instance, InstanceError};

/// Name of the process, which tells it from its worker. The kernel keeps 15 bytes.
const NAME: &std::ffi::CStr = c"tessera-keeper";

/// Why the keeper cannot keep.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// There are no sockets to keep.
    #[error(transparent)]
    Sockets(#[from] InstanceError),
    /// The kernel does not let us listen for signals.
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    /// The worker cannot be given its sockets.
    #[error(transparent)]
    Line(#[from] LineError),
    /// The worker cannot be started.
    #[error("start the worker")]
    Start(#[source] io::Error),
}

/// A running worker.
struct Worker {
    pid: Pid,
    line: KeeperLine,
}

/// Binds the sockets and keeps a worker running until it is told to stop or the worker cannot come
/// up; returns the last worker's exit code.
pub fn keep(args: &Args) -> Result<ExitCode, KeeperError> {
    if let Err(error) = rustix::thread::set_name(NAME) {
        warn!(%error, "the process keeps its name");
    }
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT]).map_err(KeeperError::Signals)?;
    let Instance { paths, sockets, .. } = Instance::bind(args)?;
    let code = keep_running(args, sockets, &mut signals);
    // Not empty: an instance beside this one uses it, or prepared claims need the hook in it.
    let _ = paths.dra.as_path().parent().map(std::fs::remove_dir);
    code
}

fn keep_running(
    args: &Args,
    mut sockets: Sockets,
    signals: &mut Signals,
) -> Result<ExitCode, KeeperError> {
    let begun = Instant::now();
    let mut ends = Ends::default();
    let mut told = false;
    let mut restarts = 0;
    let mut worker = Worker::start(&sockets, Post::default())?;
    for signal in signals.forever() {
        if signal != SIGCHLD {
            told = true;
            worker.pass_on(signal);
            continue;
        }
        let Some(cause) = reap(worker.pid) else {
            continue;
        };
        let end = End {
            at: begun.elapsed(),
            served: worker.line.has_served(),
            told,
        };
        match ends.next(end) {
            Next::Restart => {
                restarts += 1;
                warn!(%cause, restarts, served = end.served, "the worker ended; starting another");
                let in_place = sockets.are_in_place();
                if !in_place {
                    // A worker that was told to stop past its keeper has left; or somebody has
                    // emptied the kubelet's directories.
                    drop(sockets);
                    sockets = Instance::bind(args)?.sockets;
                }
                let post = Post {
                    restarts,
                    taken_over: in_place,
                };
                worker = Worker::start(&sockets, post)?;
            }
            Next::End => {
                info!(%cause, "the worker ended, and so does this process");
                return Ok(ExitCode::from(cause.code()));
            }
            Next::GiveUp(reason) => {
                warn!(%cause, restarts, %reason, "the worker does not come up; giving up");
                return Ok(ExitCode::from(cause.code()));
            }
        }
    }
    unreachable!("the stream of signals has no end while nobody closes it")
}

impl Worker {
    fn start(sockets: &Sockets, post: Post) -> Result<Self, KeeperError> {
        let (line, theirs) = KeeperLine::with(sockets, post)?;
        let program = env::current_exe().map_err(KeeperError::Start)?;
        let child = Command::new(program)
            .args(env::args_os().skip(1))
            .arg(KEPT)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // A terminal's Ctrl-C reaches the keeper alone, which passes it on.
            .process_group(0)
            .spawn()
            .map_err(KeeperError::Start)?;
        Ok(Self {
            pid: Pid::from_child(&child),
            line,
        })
    }

    fn pass_on(&self, signal: i32) {
        let signal = if signal == SIGINT {
            Signal::INT
        } else {
            Signal::TERM
        };
        if let Err(error) = kill_process(self.pid, signal) {
            warn!(%error, "the signal did not reach the worker");
        }
    }
}

/// Collects every child that has ended, and tells how the worker did if it is among them. As the
/// first process of a container the keeper inherits orphans.
fn reap(worker: Pid) -> Option<Cause> {
    let mut cause = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == worker {
            cause = Some(cause_of(status));
        }
    }
    cause
}

fn cause_of(status: WaitStatus) -> Cause {
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => Cause::Signal(signal),
        (code, None) => Cause::Exit(code.unwrap_or_default()),
    }
}
