//! The simulated kernel: whom it serves, and for how long. Needs the right to make device nodes.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{process::Uid, thread::set_thread_res_uid};
use tempfile::TempDir;
use tessera_hw::{
    Artifacts, install,
    install::find_state,
    kernel::{self, Answer, Request},
    mig::{Activation, Done, Operation, Refusal},
    uninstall,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tessera-hw");
const SOCKET: &str = "dev/simulated-kernel";

/// A kernel that ends with the test.
struct Kernel(Child);

impl Kernel {
    fn start(root: &Path) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("--root").arg(root).arg("kernel");
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Node {
    directory: TempDir,
    root: PathBuf,
}

fn node() -> Node {
    let directory = TempDir::new().unwrap();
    // Longer than a socket's path may be.
    let root = directory.path().join("d".repeat(120)).join("driver");
    fs::create_dir_all(&root).unwrap();
    Node { directory, root }
}

impl Node {
    fn install(&self) {
        let write = |name: &str| {
            let path = self.directory.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let artifacts = Artifacts {
            nvml: write("nvml"),
            nvidia_smi: write("smi"),
        };
        install(&self.root, "h100", "node-1", &artifacts)
            .unwrap_or_else(|error| panic!("these tests need root with CAP_MKNOD: {error:?}"));
    }

    /// Waits for a kernel that answers.
    fn answers(&self, request: &Request) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match kernel::ask(&self.root, request) {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn enable(&self, gpu: usize) -> Request {
        let (_, node) = find_state(&self.root).unwrap().read().unwrap();
        Request::Operate {
            gpu: node.gpus[gpu].facts.uuid.clone(),
            operation: Operation::SetMode { enabled: true },
        }
    }
}

const ENABLED: Answer = Answer::Done(Done::Mode(Activation::Now));

#[test]
fn it_waits_for_a_driver_and_goes_on_with_the_next_one() {
    let node = node();
    let _kernel = Kernel::start(&node.root);
    node.install();
    assert_eq!(node.answers(&node.enable(1)), ENABLED);
    let enabled = || {
        let (_, state) = find_state(&node.root).unwrap().read().unwrap();
        state
            .gpus
            .iter()
            .filter(|gpu| gpu.condition.mig.enabled)
            .count()
    };
    assert_eq!(enabled(), 1);
    for _ in 0..5 {
        uninstall(&node.root).unwrap();
        assert_eq!(fs::read_dir(&node.root).unwrap().count(), 0);
        node.install();
    }
    assert_eq!(enabled(), 0);
    assert_eq!(node.answers(&node.enable(2)), ENABLED);
    assert_eq!(enabled(), 1);
}

#[test]
fn one_that_was_killed_leaves_nothing_in_the_way_of_the_next() {
    let node = node();
    node.install();
    drop({
        let kernel = Kernel::start(&node.root);
        node.answers(&node.enable(1));
        kernel
    });
    assert!(node.root.join(SOCKET).exists());
    let _kernel = Kernel::start(&node.root);
    assert_eq!(node.answers(&node.enable(2)), ENABLED);
}

#[test]
fn whoever_talks_nonsense_is_not_answered_and_hinders_nobody() {
    let node = node();
    node.install();
    let _kernel = Kernel::start(&node.root);
    node.answers(&node.enable(0));
    let link = node.directory.path().join("k");
    std::os::unix::fs::symlink(&node.root, &link).unwrap();
    let socket = link.join(SOCKET);
    let _silent = UnixStream::connect(&socket).unwrap();
    for nonsense in ["", "\n", "{}\n", "{\"operate\":{}}\n", "x"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"", "{nonsense:?}");
    }
    assert_eq!(node.answers(&node.enable(3)), ENABLED);
}

#[test]
fn only_root_may_cut_gpus_and_everybody_counts() {
    let node = node();
    node.install();
    let _kernel = Kernel::start(&node.root);
    let count = Request::Count {
        function: "nvmlInit".to_owned(),
    };
    node.answers(&count);
    // Anybody may go through the directories.
    fs::set_permissions(node.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let request = node.enable(0);
    let (refused, counted) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            // Of this thread alone.
            let nobody = Uid::from_raw(65_534);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let refused = kernel::ask(&node.root, &request).unwrap();
            (refused, kernel::ask(&node.root, &count).unwrap())
        });
        asking.join().unwrap()
    });
    assert_eq!(refused, Answer::Refused(Refusal::NoPermission));
    assert_eq!(counted, Answer::Due(Vec::new()));
    assert_eq!(kernel::ask(&node.root, &request).unwrap(), ENABLED);
}
