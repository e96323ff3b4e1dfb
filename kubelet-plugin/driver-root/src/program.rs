//! Runs programs of a driver installation.
//!
//! They run like this process itself: with the loader and the C library of our image, and with the driver root's NVML,
//! which a program asks the loader for by name. The root's own loader and libraries are not used, and no process moves into
//! the root: it may be a mere folder of programs and libraries.
//!
//! There is no shell in between, and a program inherits nothing: no variable, no file but those that it prints to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What of a program's words is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// What it prints.
    Output,
    /// And what it complains of.
    OutputAndErrors,
}

/// A program that came to its end.
#[derive(Debug)]
pub struct Ran {
    /// How.
    pub status: ExitStatus,
    /// The beginning of what was heard of it. What is no UTF-8 is replaced.
    pub said: String,
}

/// The program at `program`, which is given the library at `nvml`.
pub fn command(program: &Path, nvml: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    if let Some(nvml) = nvml {
        command.env("LD_PRELOAD", nvml);
    }
    command
}

/// Runs it to its end, for `limit` at most, and returns up to `longest` bytes of what is heard. `None`: its time was up, and
/// it was killed. Blocks.
pub fn run(
    mut command: Command,
    heard: Heard,
    longest: usize,
    limit: Duration,
) -> io::Result<Option<Ran>> {
    let until = Instant::now() + limit;
    // A file in memory: what is printed to a pipe that nobody reads would hold the program up.
    let printed = File::from(memfd_create("printed", MemfdFlags::CLOEXEC)?);
    let errors = match heard {
        Heard::Output => Stdio::null(),
        Heard::OutputAndErrors => printed.try_clone()?.into(),
    };
    let child = command
        .stdout(printed.try_clone()?)
        .stderr(errors)
        .spawn()?;
    let Some(status) = wait(child, until)? else {
        return Ok(None);
    };
    let said = beginning(&printed, longest)?;
    Ok(Some(Ran { status, said }))
}

/// How the program ended; nothing if it had to be ended.
fn wait(mut child: Child, until: Instant) -> io::Result<Option<ExitStatus>> {
    match ends_in_time(&child, until) {
        Ok(true) => child.wait().map(Some),
        late => {
            child.kill()?;
            child.wait()?;
            late.map(|_| None)
        }
    }
}

fn ends_in_time(child: &Child, until: Instant) -> io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

fn beginning(printed: &File, longest: usize) -> io::Result<String> {
    let length = usize::try_from(printed.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length.min(longest)];
    let count = printed.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn ran(script: &str, heard: Heard, limit: Duration) -> Option<Ran> {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        run(command(&program, None), heard, 16, limit).unwrap()
    }

    #[test]
    fn what_is_printed_is_heard_up_to_its_limit_whatever_the_program_calls_its_end() {
        let minute = Duration::from_mins(1);
        let script = "echo out; echo err >&2; exit 3";
        for (heard, said) in [
            (Heard::Output, "out\n"),
            (Heard::OutputAndErrors, "out\nerr\n"),
        ] {
            let ran = ran(script, heard, minute).unwrap();
            assert_eq!((ran.status.code(), ran.said.as_str()), (Some(3), said));
        }
        let long = ran("echo 0123456789abcdefghij", Heard::Output, minute);
        assert_eq!(long.unwrap().said, "0123456789abcdef");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        assert!(ran("exec sleep 600", Heard::Output, Duration::from_millis(50)).is_none());
    }
}
