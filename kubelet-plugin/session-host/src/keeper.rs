//! The container's first process: starts the one that does the work, again and again.
//!
//! When the first process of a container ends, the kernel ends all others, the daemon with them, and every
//! pod of the node loses its session. So the first process does as little as can be: it talks to nobody,
//! reads nothing, and has one thread. A worker that dies leaves its daemon to the keeper, as orphans are left
//! to the first process, and the next worker finds it.

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, set_child_subreaper, wait,
};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;
use tracing::warn;

use crate::args::KEPT;

/// Name of the process, which tells it from its worker. The kernel keeps 15 bytes.
const NAME: &std::ffi::CStr = c"session-keeper";

/// Pause before a worker that died soon after its start is replaced.
const PAUSE: Duration = Duration::from_secs(2);

/// A worker that lived for so long did not die of its start.
const SETTLED: Duration = Duration::from_secs(10);

/// Why the keeper cannot keep.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// The kernel does not let us listen for signals.
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    /// The kernel does not leave us orphans.
    #[error("become the parent of orphans")]
    Subreaper(#[source] io::Error),
    /// The worker cannot be started.
    #[error("start the worker")]
    Start(#[source] io::Error),
}

/// Keeps a worker running until it is told to stop, and returns its exit code then.
pub fn keep() -> Result<ExitCode, KeeperError> {
    if let Err(error) = rustix::thread::set_name(NAME) {
        warn!(%error, "the process keeps its name");
    }
    // The first process of a container is that anyway, but where it shares the pod's processes.
    let own = rustix::process::getpid();
    set_child_subreaper(Some(own)).map_err(|error| KeeperError::Subreaper(error.into()))?;
    let mut signals = Signals::new([SIGCHLD, SIGTERM, SIGINT]).map_err(KeeperError::Signals)?;
    let mut told = false;
    let mut worker = start()?;
    let mut begun = Instant::now();
    for signal in signals.forever() {
        if signal != SIGCHLD {
            told = true;
            if let Err(error) = kill_process(worker, Signal::TERM) {
                warn!(%error, "the signal did not reach the worker");
            }
            continue;
        }
        let Some(status) = reap(worker) else {
            continue;
        };
        if told {
            let code = status.exit_status().unwrap_or(1);
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
        let (code, by) = (status.exit_status(), status.terminating_signal());
        warn!(
            code,
            signal = by,
            "the worker ended; nvidia-imex goes on, and another worker is started"
        );
        if begun.elapsed() < SETTLED {
            sleep(PAUSE);
        }
        worker = start()?;
        begun = Instant::now();
    }
    unreachable!("the stream of signals has no end while nobody closes it")
}

fn start() -> Result<Pid, KeeperError> {
    let program = env::current_exe().map_err(KeeperError::Start)?;
    let child = Command::new(program)
        .args(env::args_os().skip(1))
        .arg(KEPT)
        // A terminal's Ctrl-C reaches the keeper alone, which passes it on.
        .process_group(0)
        .spawn()
        .map_err(KeeperError::Start)?;
    Ok(Pid::from_child(&child))
}

/// Collects every child that has ended, and tells how the worker did if it is among them.
fn reap(worker: Pid) -> Option<WaitStatus> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == worker {
            ended = Some(status);
        }
    }
    ended
}
