//! The operations as the installed driver's `nvidia-smi` does them.
//!
//! NVML has no call for the time slice, so the program of the driver root is run, as the reference driver
//! does. It runs like this process itself: with the loader and the C library of our image, and the
//! driver root's NVML, which this process loads too. The root's own loader and libraries are not used, and
//! the process does not move into the root: a driver root may be a mere folder of programs and libraries.
//!
//! There is no shell in between, and the program inherits nothing: no variable, no file but those that it
//! prints to, no signal's fate.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tessera_api::Interval;
use tessera_device::GpuUuid;

use super::{TimeSliceError, TimeSliceOperations};
use crate::deadline::Deadline;
use crate::driver_root::{self, DriverRoot};

/// Bound of one run. The program looks at every GPU of the node before it does anything.
const PER_RUN: Duration = Duration::from_secs(15);

/// How much of what the program prints is read.
const READ: usize = 1024;

/// How much of that an error says, in characters.
const SAID: usize = 200;

/// The `nvidia-smi` of the driver that is installed at the time of the call.
#[derive(Clone, Debug)]
pub struct NvidiaSmi {
    /// Where the driver is.
    pub driver_root: DriverRoot,
}

impl TimeSliceOperations for NvidiaSmi {
    fn admit_all(&self, gpu: &GpuUuid, limit: Deadline) -> Result<(), TimeSliceError> {
        self.run(gpu, &["-i", gpu.as_str(), "-c", "DEFAULT"], limit)
    }

    fn set(
        &self,
        gpu: &GpuUuid,
        interval: Interval,
        limit: Deadline,
    ) -> Result<(), TimeSliceError> {
        let number = number(interval);
        let arguments = [
            "compute-policy",
            "-i",
            gpu.as_str(),
            "--set-timeslice",
            number,
        ];
        self.run(gpu, &arguments, limit)
    }
}

/// The number of an interval, as `nvidia-smi compute-policy --help` has it.
fn number(interval: Interval) -> &'static str {
    match interval {
        Interval::Default => "0",
        Interval::Short => "1",
        Interval::Medium => "2",
        Interval::Long => "3",
    }
}

impl NvidiaSmi {
    fn run(
        &self,
        gpu: &GpuUuid,
        arguments: &[&str],
        limit: Deadline,
    ) -> Result<(), TimeSliceError> {
        let library = driver_root::find_nvml(&self.driver_root)?;
        let program = driver_root::find_smi(&self.driver_root)?;
        let program = program.ok_or(TimeSliceError::NoProgram)?;
        let started = |source| TimeSliceError::Start {
            gpu: gpu.clone(),
            program: program.clone(),
            source,
        };
        let printed = printed_to().map_err(started)?;
        let child = start(&program, &library, arguments, &printed).map_err(started)?;
        let ended = wait(child, limit.at_most(PER_RUN)).map_err(started)?;
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(TimeSliceError::Refused {
                arguments: arguments.join(" "),
                code: status.code(),
                said: said(&printed),
            }),
            None => Err(TimeSliceError::TimedOut { gpu: gpu.clone() }),
        }
    }
}

/// A file in memory: what is printed to a pipe that nobody reads would hold the program up.
fn printed_to() -> io::Result<File> {
    Ok(memfd_create("nvidia-smi", MemfdFlags::CLOEXEC)?.into())
}

fn start(
    program: &Path,
    library: &PathBuf,
    arguments: &[&str],
    printed: &File,
) -> io::Result<Child> {
    Command::new(program)
        .args(arguments)
        .env_clear()
        // The program asks the loader for NVML by name, and is given the one that is there already.
        .env("LD_PRELOAD", library)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(printed.try_clone()?)
        .stderr(printed.try_clone()?)
        .spawn()
}

/// How the program ended; nothing if it had to be ended.
fn wait(mut child: Child, limit: Deadline) -> io::Result<Option<ExitStatus>> {
    match ends_in_time(&child, limit) {
        Ok(true) => child.wait().map(Some),
        late => {
            child.kill()?;
            child.wait()?;
            late.map(|_| None)
        }
    }
}

fn ends_in_time(child: &Child, limit: Deadline) -> io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = Timespec::try_from(limit.remaining()).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// The beginning of what was printed, as one line.
fn said(printed: &File) -> String {
    let mut bytes = [0; READ];
    let count = printed.read_at(&mut bytes, 0).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[..count]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let line: String = line
        .chars()
        .filter(|c| !c.is_control())
        .take(SAID)
        .collect();
    if line.is_empty() {
        "nothing".to_owned()
    } else {
        line
    }
}
