//! A driver's sockets in a process of their own, so that what they hold can be counted.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tessera_proto::{SocketPaths, Sockets};
use tokio_util::sync::CancellationToken;

use crate::driver::{ending, paths, served};

/// Names the directory of the sockets to the process that serves them.
const ROOT: &str = "TESSERA_HOSTILE_ROOT";
/// Precedes what the test harness prints on the same line.
const READY: &str = "the sockets are served";

/// More than a farewell on both sockets takes.
const GRACE: Duration = Duration::from_secs(20);

/// Serves until standard input ends.
pub(crate) fn serve() {
    let root = PathBuf::from(std::env::var_os(ROOT).expect("only the other tests run this one"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let over = stop.clone();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        std::io::stdin().read_to_end(&mut rest).unwrap();
        over.cancel();
    });
    runtime.block_on(async {
        let sockets = Sockets::bind(&paths(&root)).unwrap();
        println!("{READY}");
        let ending = ending(&stop, GRACE);
        sockets.serve(served(), stop, ending).await.unwrap();
    });
}

/// The process that serves.
pub(crate) struct Server {
    process: Child,
    // Its end is the end of the process.
    input: Option<ChildStdin>,
    // The process says more at its end, which must find a reader.
    _output: BufReader<ChildStdout>,
    pub(crate) paths: SocketPaths,
    _root: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "the_process_that_serves"])
            .arg("--nocapture")
            .env(ROOT, root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let ready = output
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .any(|line| line.ends_with(READY));
        assert!(ready, "the server did not start");
        Self {
            input: process.stdin.take(),
            paths: paths(root.path()),
            process,
            _output: output,
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
