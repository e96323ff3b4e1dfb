//! The first processes: started in namespaces of their own, told to go on, found again later.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{ClusterError, Node, Record, processes};
use crate::control_plane;
use crate::paths::StateDir;
use crate::supervisor::{Plan, START, Status};
use crate::teardown::{First, find_firsts};

/// How long a part that was ended may be away.
const RESTART_LIMIT: Duration = Duration::from_secs(30);

/// A first process and its lifeline.
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) lifeline: ChildStdin,
}

/// Starts the first process of `owner` in new namespaces. It mounts and then waits for [`go`].
pub(super) fn launch(
    dir: &StateDir,
    init: &Path,
    owner: &str,
    plan: &Plan,
) -> Result<Started, ClusterError> {
    let launched = || -> io::Result<Started> {
        fs::create_dir_all(dir.of(owner))?;
        let file = dir.plan(owner);
        plan.write(&file)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.log(&format!("{owner}-init")))?;
        let mut child = Command::new("unshare")
            .args(["--mount", "--net", "--uts", "--pid"])
            .args([init.as_os_str(), "launch".as_ref(), file.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let lifeline = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("it has no standard input"))?;
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            out.read_to_string(&mut said)?;
        }
        let status = child.wait()?;
        let pid = said
            .trim()
            .parse()
            .map_err(|_| io::Error::other(format!("it said {said:?} ({status})")))?;
        Ok(Started { pid, lifeline })
    };
    launched().map_err(|source| ClusterError::Launch {
        owner: owner.to_owned(),
        source,
    })
}

/// Tells a first process that its network is there.
pub(super) fn go(started: &mut Started, owner: &str) -> Result<(), ClusterError> {
    writeln!(started.lifeline, "{START}").map_err(|source| ClusterError::Launch {
        owner: owner.to_owned(),
        source,
    })
}

/// The first process of `owner`, if it runs.
pub(super) fn pid(dir: &StateDir, owner: &str) -> Option<u32> {
    pid_among(&find_firsts(), dir, owner)
}

fn pid_among(firsts: &[First], dir: &StateDir, owner: &str) -> Option<u32> {
    let mut firsts = firsts.iter();
    let found = firsts.find(|first| first.is_of(dir) && first.owner() == owner);
    found.map(|first| first.pid)
}

/// How often a part of `owner` was started since its first process was.
pub(super) fn starts(dir: &StateDir, owner: &str, part: &str) -> u32 {
    let status = Status::read(&dir.status(owner)).unwrap_or_default();
    status.parts.get(part).map_or(0, |part| part.starts)
}

/// Ends a part of `owner`, whose first process is `first`, by a signal, and returns when it was started again. It may not
/// answer yet.
pub(super) fn restart(
    dir: &StateDir,
    (owner, first): (&str, u32),
    part: &str,
    signal: Signal,
) -> Result<(), ClusterError> {
    let failed = |reason: &str| ClusterError::Restart {
        part: format!("{part} of {owner}"),
        reason: reason.to_owned(),
    };
    let before = starts(dir, owner, part);
    let pids = processes::beside(first, part);
    if pids.is_empty() {
        return Err(failed("none runs"));
    }
    processes::send(&pids, signal);
    let deadline = Instant::now() + RESTART_LIMIT;
    processes::until(deadline, || starts(dir, owner, part) > before)
        .map_err(|_late| failed("it did not start again in time; see its log"))
}

/// The nodes of a recorded cluster, if its control plane and all of them run.
pub(super) fn nodes(dir: &StateDir, record: &Record) -> Option<Vec<Node>> {
    let firsts = find_firsts();
    let pid = |owner: &str| pid_among(&firsts, dir, owner);
    pid(control_plane::OWNER)?;
    record
        .nodes
        .iter()
        .map(|node| Some(Node::new(dir, node, pid(&node.index.name())?)))
        .collect()
}
