//! A process that ends with its value.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::Failure;
use crate::fuse::Fuse;
use crate::tracer;

/// Small against what is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A running program. A thread of its own waits for its end.
#[derive(Debug)]
pub struct Process {
    process: OwnedFd,
    waiter: Option<JoinHandle<Result<(), Failure>>>,
}

impl Process {
    /// Starts a program.
    pub fn start(command: Command) -> Result<Self, Failure> {
        Self::with(move |started| {
            let mut command = command;
            let program = command.get_program().to_owned();
            let spawned = command.spawn().map_err(Failure::io("start", &program));
            let mut child = spawned?;
            tell(started, child.id())?;
            child
                .wait()
                .map(drop)
                .map_err(Failure::io("wait for", &program))
        })
    }

    /// Starts a program whose changes below `root` the fuse sees: from its first instruction, or from the moment when it
    /// is set to the process.
    pub fn start_traced(
        mut command: Command,
        root: PathBuf,
        fuse: Arc<Fuse>,
        from_the_start: bool,
    ) -> Result<Self, Failure> {
        Self::with(move |started| {
            let child = tracer::spawn(&mut command)?;
            if from_the_start {
                fuse.set_to(descriptor(child.id())?);
            }
            tell(started, child.id())?;
            tracer::run(&child, &root, &fuse)
        })
    }

    fn with(
        body: impl FnOnce(&SyncSender<OwnedFd>) -> Result<(), Failure> + Send + 'static,
    ) -> Result<Self, Failure> {
        let (sender, started) = sync_channel(1);
        let waiter = thread::spawn(move || body(&sender));
        match started.recv() {
            Ok(process) => Ok(Self {
                process,
                waiter: Some(waiter),
            }),
            Err(_) => match waiter.join() {
                Ok(Err(failure)) => Err(failure),
                _ => Err(Failure::Unstarted),
            },
        }
    }

    /// Another handle of the process.
    pub fn handle(&self) -> Result<OwnedFd, Failure> {
        let copied = self.process.try_clone();
        copied.map_err(Failure::io("copy", "a process descriptor"))
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.waiter.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Tells it to end and waits until it has, or for so long. Whether it has ended.
    ///
    /// Connections to it are worked on meanwhile: a server that ends waits for its clients to hear of it.
    pub async fn terminate(&mut self, limit: Duration) -> Result<bool, Failure> {
        // It may have ended already.
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
        let begun = Instant::now();
        while !self.has_ended() {
            if begun.elapsed() > limit {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.join().map(|()| true)
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), Failure> {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        self.join()
    }

    fn join(&mut self) -> Result<(), Failure> {
        match self.waiter.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            Some(Err(_panic)) => Err(Failure::Unstarted),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What goes wrong at the end of a run that has its outcome already is no news.
        let _ = self.kill();
    }
}

fn tell(started: &SyncSender<OwnedFd>, process: u32) -> Result<(), Failure> {
    let sent = started.send(descriptor(process)?);
    sent.map_err(|_| Failure::Unstarted)
}

fn descriptor(process: u32) -> Result<OwnedFd, Failure> {
    let pid = Pid::from_raw(process.cast_signed()).ok_or(Failure::Unstarted)?;
    let opened = pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from);
    opened.map_err(Failure::io("open", "a process descriptor"))
}
