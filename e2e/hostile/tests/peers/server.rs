//! A driver's sockets in a process of their own, so that what they hold can be counted.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use tessera_hostile::driver::paths;
use tessera_proto::SocketPaths;

/// The process that serves.
pub(crate) struct Server {
    process: Child,
    // Its end is the end of the process.
    input: Option<ChildStdin>,
    pub(crate) paths: SocketPaths,
    _root: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_tessera-hostile"))
            .arg(root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let bound = output.lines().next().expect("the server did not start");
        assert_eq!(bound.unwrap(), "the sockets are bound");
        Self {
            input: process.stdin.take(),
            paths: paths(root.path()).unwrap(),
            process,
            _root: root,
        }
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let descriptors = format!("/proc/{}/fd", self.process.id());
        std::fs::read_dir(descriptors).unwrap().count()
    }

    /// Resident memory.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.unwrap().parse().unwrap()
    }

    /// Ends the process in good order, which a server that broke cannot.
    pub(crate) fn stop(mut self) {
        drop(self.input.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves no process behind; one that ended is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
