//! Finds the programs of the session in the driver installation, and runs the one that asks.
//!
//! How they are run, and what they are given, says [`tessera_driver_root::program`].

use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use tessera_driver_root::Tree;
use tessera_driver_root::folders::{BINARY_FOLDERS, LIBRARY_FOLDERS, NVML};
use tessera_driver_root::program::{Heard, command, run};

const DAEMON: &str = "nvidia-imex";
const CONTROL: &str = "nvidia-imex-ctl";

/// Bound of one question.
pub const ASK_LIMIT: Duration = Duration::from_secs(8);

/// How long the program that asks is to wait for a daemon, in milliseconds.
const PATIENCE: &str = "2000";

/// How much of an answer is read: that of 72 nodes about each other is a third of it.
const LONGEST_ANSWER: usize = 1024 * 1024;

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
        let tree = match Tree::open(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            tree => tree?,
        };
        let found = |folders: &[&str], name: &str| {
            let path = tree.first(folders, name)?;
            io::Result::Ok(path.map(|path| tree.local(&path)))
        };
        let daemon = found(&BINARY_FOLDERS, DAEMON)?;
        let control = found(&BINARY_FOLDERS, CONTROL)?;
        let (Some(daemon), Some(control)) = (daemon, control) else {
            return Ok(None);
        };
        Ok(Some(Self {
            daemon,
            control,
            nvml: found(&LIBRARY_FOLDERS, NVML)?,
        }))
    }

    /// Starts the daemon. What it writes goes where this process writes.
    pub fn start(&self, config: &Path) -> io::Result<Child> {
        let mut daemon = command(&self.daemon, self.nvml.as_deref());
        daemon.arg("-c").arg(config).spawn()
    }

    /// Asks the local daemon how it is, and returns what is printed. Blocks for [`ASK_LIMIT`] at most.
    pub fn ask(&self, config: &Path) -> io::Result<String> {
        self.asked(config, &["-q", "-t", PATIENCE])
    }

    /// Asks all daemons how they are connected, and returns the JSON that is printed. Blocks for
    /// [`ASK_LIMIT`] at most.
    pub fn ask_all(&self, config: &Path) -> io::Result<String> {
        self.asked(config, &["-N", "-j", "-t", PATIENCE])
    }

    fn asked(&self, config: &Path, arguments: &[&str]) -> io::Result<String> {
        let mut control = command(&self.control, self.nvml.as_deref());
        control.args(arguments).arg("-c").arg(config);
        // Whether it calls its end a success does not matter: what it prints says more.
        let ran = run(control, Heard::Output, LONGEST_ANSWER, ASK_LIMIT)?;
        ran.map(|ran| ran.said)
            .ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
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
