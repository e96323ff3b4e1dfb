//! Finds the programs of the session in the driver installation, and runs the one that asks.
//!
//! They run like this process itself: with the loader and the C library of the image, and with the driver
//! root's NVML preloaded, as the plugin runs `nvidia-smi`. They inherit no variable.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Where programs are looked for, below the driver root.
const BINARY_FOLDERS: [&str; 5] = ["opt/bin", "usr/bin", "usr/sbin", "bin", "sbin"];

/// Where NVML is looked for, below the driver root.
const LIBRARY_FOLDERS: [&str; 7] = [
    ".",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
];

const DAEMON: &str = "nvidia-imex";
const CONTROL: &str = "nvidia-imex-ctl";
const NVML: &str = "libnvidia-ml.so.1";

/// Bound of one question.
pub const ASK_LIMIT: Duration = Duration::from_secs(8);

/// How long the program that asks is to wait for a daemon, in milliseconds.
const PATIENCE: &str = "2000";

/// How much of an answer is read: that of 72 nodes about each other is a third of it.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Attempts to open a path below the root: the kernel gives up with `EAGAIN` when anything on the node is
/// renamed meanwhile (`openat2(2)`).
const ATTEMPTS: u32 = 64;

/// The programs of one driver installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    daemon: PathBuf,
    control: PathBuf,
    nvml: Option<PathBuf>,
}

impl Programs {
    /// Looks below `root`; none where one of the two is missing.
    pub fn find(root: &Path) -> io::Result<Option<Self>> {
        let Some(daemon) = first(root, &BINARY_FOLDERS, DAEMON)? else {
            return Ok(None);
        };
        let Some(control) = first(root, &BINARY_FOLDERS, CONTROL)? else {
            return Ok(None);
        };
        let nvml = first(root, &LIBRARY_FOLDERS, NVML)?;
        Ok(Some(Self {
            daemon,
            control,
            nvml,
        }))
    }

    /// Starts the daemon. What it writes goes where this process writes.
    pub fn start(&self, config: &Path) -> io::Result<Child> {
        self.command(&self.daemon)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .spawn()
    }

    /// Asks the local daemon how it is, and returns what is printed. Blocks for [`ASK_LIMIT`] at most.
    pub fn ask(&self, config: &Path) -> io::Result<String> {
        self.run(config, &["-q", "-t", PATIENCE])
    }

    /// Asks all daemons how they are connected, and returns the JSON that is printed. Blocks for
    /// [`ASK_LIMIT`] at most.
    pub fn ask_all(&self, config: &Path) -> io::Result<String> {
        self.run(config, &["-N", "-j", "-t", PATIENCE])
    }

    fn run(&self, config: &Path, arguments: &[&str]) -> io::Result<String> {
        // A file in memory: what is printed to a pipe that nobody reads would hold the program up.
        let printed = File::from(memfd_create(CONTROL, MemfdFlags::CLOEXEC)?);
        let child = self
            .command(&self.control)
            .args(arguments)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(Stdio::null())
            .spawn()?;
        wait(child, Instant::now() + ASK_LIMIT)?;
        read(&printed)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir("/");
        if let Some(nvml) = &self.nvml {
            command.env("LD_PRELOAD", nvml);
        }
        command
    }
}

/// Waits until the program has ended; ends it when its time is up.
fn wait(mut child: Child, limit: Instant) -> io::Result<()> {
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let in_time = loop {
        let left = limit.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => break ready? > 0,
        }
    };
    if !in_time {
        child.kill()?;
    }
    // Whether it calls its end a success does not matter: what it prints says more.
    child.wait()?;
    if in_time {
        Ok(())
    } else {
        Err(io::ErrorKind::TimedOut.into())
    }
}

fn read(printed: &File) -> io::Result<String> {
    let length = usize::try_from(printed.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length.min(LONGEST_ANSWER)];
    let count = printed.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn first(root: &Path, folders: &[&str], name: &str) -> io::Result<Option<PathBuf>> {
    for folder in folders {
        let found = file_in_root(root, &format!("{folder}/{name}"))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The path, as this process sees it and without links, of a file below the root, in which links lead to
/// what they mean there.
fn file_in_root(root: &Path, path: &str) -> io::Result<Option<PathBuf>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let absent = |error| matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
    let root = match rustix::fs::openat(CWD, root, flags, Mode::empty()) {
        Err(error) if absent(error) => return Ok(None),
        root => root?,
    };
    let resolve = ResolveFlags::IN_ROOT;
    for _ in 0..ATTEMPTS {
        let file = match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => continue,
            Err(error) if absent(error) => return Ok(None),
            file => file?,
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind != FileType::RegularFile {
            return Ok(None);
        }
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        return std::fs::read_link(link).map(Some);
    }
    Err(Errno::AGAIN.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn program(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn programs_are_found_where_drivers_have_them_and_links_stay_in_the_root() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        assert_eq!(Programs::find(&root.join("none")).unwrap(), None);
        program(&root, "opt/real/nvidia-imex", "");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        symlink("/opt/real/nvidia-imex", root.join("usr/bin/nvidia-imex")).unwrap();
        assert_eq!(Programs::find(&root).unwrap(), None, "the other is missing");
        program(&root, "usr/bin/nvidia-imex-ctl", "");
        let found = Programs::find(&root).unwrap().unwrap();
        assert_eq!(found.daemon, root.join("opt/real/nvidia-imex"));
        assert_eq!(found.control, root.join("usr/bin/nvidia-imex-ctl"));
        assert_eq!(found.nvml, None);
        program(&root, "usr/lib64/libnvidia-ml.so.580.1", "");
        symlink(
            "libnvidia-ml.so.580.1",
            root.join("usr/lib64/libnvidia-ml.so.1"),
        )
        .unwrap();
        let found = Programs::find(&root).unwrap().unwrap();
        assert_eq!(
            found.nvml,
            Some(root.join("usr/lib64/libnvidia-ml.so.580.1"))
        );
    }

    #[test]
    fn what_is_printed_is_read_whatever_the_program_calls_its_end() {
        let root = tempfile::tempdir().unwrap();
        program(root.path(), "usr/bin/nvidia-imex", "#!/bin/sh\n");
        program(
            root.path(),
            "usr/bin/nvidia-imex-ctl",
            "#!/bin/sh\necho $1 $3 $5\nexit 1\n",
        );
        let programs = Programs::find(root.path()).unwrap().unwrap();
        assert_eq!(programs.ask(Path::new("/c")).unwrap(), "-q 2000 /c\n");
        assert!(programs.ask_all(Path::new("/c")).unwrap().starts_with("-N"));
    }
}
