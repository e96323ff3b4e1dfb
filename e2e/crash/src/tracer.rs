//! Runs a program so that it stops at each of its changes to a directory, and kills it at one of them.
//!
//! The program is traced by `ptrace`, so it is the unmodified one. A seccomp filter tells the kernel which calls to stop at;
//! between them the program runs at its own speed.
#![allow(
    unsafe_code,
    reason = "a process can be traced from its first instruction only by what runs between fork and exec"
)]

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::changes;
use crate::failure::Failure;
use crate::fuse::{Fuse, Kind, When};

/// Starts the program, stopped before its first instruction. Only the thread that called this can go on with it.
pub(crate) fn spawn(command: &mut Command) -> Result<Child, Failure> {
    let filter = changes::filter()?;
    let be_traced = move || {
        ptrace::traceme()?;
        seccompiler::apply_filter(&filter).map_err(|_| io::Error::last_os_error())
    };
    // SAFETY: the closure makes system calls only and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(be_traced) };
    let child = command
        .spawn()
        .map_err(Failure::io("start", command.get_program()))?;
    let process = Pid::from_raw(child.id().cast_signed());
    // The stop that exec makes under PTRACE_TRACEME.
    waitpid(process, None)?;
    ptrace::setoptions(
        process,
        Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACESECCOMP
            | Options::PTRACE_O_TRACESYSGOOD,
    )?;
    Ok(child)
}

/// Lets the program run to its end, whatever that is, and the fuse see each change below `root`.
///
/// The processes that it starts are traced as well, and die with it.
pub(crate) fn run(child: &Child, root: &Path, fuse: &Fuse) -> Result<(), Failure> {
    let process = Pid::from_raw(child.id().cast_signed());
    let mut tasks = BTreeSet::from([process]);
    gone_is_fine(ptrace::cont(process, None))?;
    // Children and tracees of this thread, and of no other.
    let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let status = match waitpid(None, Some(ours)) {
            Ok(status) => status,
            Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        tasks.extend(status.pid());
        let resumed = match status {
            WaitStatus::PtraceEvent(task, _, libc::PTRACE_EVENT_SECCOMP) => {
                match fatal(task, root, fuse) {
                    None => ptrace::cont(task, None),
                    // The kernel leaves out the call of a process that is being killed.
                    Some(When::Before) => kill_all(&tasks),
                    // To the end of the call.
                    Some(When::After) => ptrace::syscall(task, None),
                }
            }
            // By its signal the simulated driver kills its caller. One that the program has started to call the
            // driver in its stead takes it along.
            WaitStatus::PtraceSyscall(_) | WaitStatus::Stopped(_, Signal::SIGABRT) => {
                kill_all(&tasks)
            }
            WaitStatus::PtraceEvent(task, ..) | WaitStatus::Stopped(task, Signal::SIGSTOP) => {
                // A new thread or process, which begins stopped, and the one that made it.
                ptrace::cont(task, None)
            }
            WaitStatus::Stopped(task, signal) => ptrace::cont(task, signal),
            WaitStatus::Exited(task, _) | WaitStatus::Signaled(task, ..) => {
                tasks.remove(&task);
                Ok(())
            }
            _ => Ok(()),
        };
        gone_is_fine(resumed)?;
    }
}

fn kill_all(tasks: &BTreeSet<Pid>) -> nix::Result<()> {
    let kill = |task: &Pid| gone_is_fine(nix::sys::signal::kill(*task, Signal::SIGKILL));
    tasks.iter().try_for_each(kill)
}

fn fatal(task: Pid, root: &Path, fuse: &Fuse) -> Option<When> {
    let change = changes::change(task, root)?;
    fuse.pass(Kind::Change, || change)
}

/// A process that is killed from elsewhere cannot be resumed.
fn gone_is_fine(resumed: nix::Result<()>) -> nix::Result<()> {
    match resumed {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}
