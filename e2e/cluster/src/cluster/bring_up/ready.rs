//! Waits until the parts of a new cluster work, and says which one does not.

use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::super::{ClusterError, Node, kubectl};
use crate::causes::with_causes;
use crate::control_plane;
use crate::interrupt;
use crate::node::RUNTIME_SOCKET;
use crate::paths::StateDir;
use crate::process::{self, LOOK_AGAIN, RunError, log_tail, run_until};
use crate::supervisor::Status;

/// Cold, on two cores that do other things too, the API server takes half a minute.
const API_LIMIT: Duration = Duration::from_mins(2);
const RUNTIME_LIMIT: Duration = Duration::from_mins(1);
const NODE_LIMIT: Duration = Duration::from_mins(3);
/// A part that was started so often does not come up by itself.
const TOO_MANY_STARTS: u32 = 6;

/// Returns when the API server says that it is ready.
pub(super) fn api_server(dir: &StateDir) -> Result<(), ClusterError> {
    let deadline = Instant::now() + API_LIMIT;
    loop {
        let mut probe = kubectl(dir);
        probe.args(["get", "--raw=/readyz", "--request-timeout=5s"]);
        match process::run(&mut probe, Duration::from_secs(10)) {
            Ok(_) => return Ok(()),
            Err(source) if Instant::now() >= deadline || interrupt::requested() => {
                return Err(waited(dir, "the API server", &source, "kube-apiserver"));
            }
            Err(_) => {}
        }
        check(dir, control_plane::OWNER)?;
        thread::sleep(LOOK_AGAIN);
    }
}

/// Returns when every node's container runtime answers.
pub(super) fn runtimes(dir: &StateDir, nodes: &[Node]) -> Result<(), ClusterError> {
    let deadline = Instant::now() + RUNTIME_LIMIT;
    for node in nodes {
        while let Err(source) = UnixStream::connect(node.path(RUNTIME_SOCKET)) {
            check(dir, node.name())?;
            if interrupt::requested() {
                return Err(ClusterError::Interrupted);
            }
            if Instant::now() >= deadline {
                return Err(part(
                    dir,
                    node.name(),
                    "containerd",
                    &format!("no answer at its socket: {source}"),
                ));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
    Ok(())
}

/// Returns when every node is ready and pods can be made: a pod needs its namespace's service account.
pub(super) fn nodes(dir: &StateDir, nodes: &[Node]) -> Result<(), ClusterError> {
    let deadline = Instant::now() + NODE_LIMIT;
    for node in nodes {
        let name = format!("node/{}", node.name());
        let log = format!("{}-kubelet", node.name());
        watch(
            dir,
            &["--for=create", &name],
            &name,
            deadline,
            node.name(),
            &log,
        )?;
        watch(
            dir,
            &["--for=condition=Ready", &name],
            &name,
            deadline,
            node.name(),
            &log,
        )?;
    }
    let account = "serviceaccount/default";
    watch(
        dir,
        &["--for=create", account],
        account,
        deadline,
        control_plane::OWNER,
        "kube-controller-manager",
    )
}

fn watch(
    dir: &StateDir,
    arguments: &[&str],
    what: &str,
    deadline: Instant,
    owner: &str,
    log: &str,
) -> Result<(), ClusterError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut command = kubectl(dir);
    command
        .arg("wait")
        .args(arguments)
        .arg(format!("--timeout={}s", left.as_secs().max(1)));
    let broken = || check(dir, owner).is_err();
    match run_until(&mut command, left + Duration::from_secs(5), &broken) {
        Ok(_) => Ok(()),
        Err(source) => {
            check(dir, owner)?;
            Err(waited(dir, what, &source, log))
        }
    }
}

/// Fails if a part of `owner` keeps ending, or its first process gave up.
fn check(dir: &StateDir, owner: &str) -> Result<(), ClusterError> {
    let Some(status) = Status::read(&dir.status(owner)) else {
        return Ok(());
    };
    if let Some(failure) = status.failure {
        return Err(part(dir, owner, "init", &failure));
    }
    match status
        .parts
        .iter()
        .find(|(_, part)| part.starts >= TOO_MANY_STARTS)
    {
        None => Ok(()),
        Some((name, its)) => {
            let end = its.last_end.as_deref().unwrap_or("unknown");
            Err(part(
                dir,
                owner,
                name,
                &format!("started {} times, ended last with {end}", its.starts),
            ))
        }
    }
}

fn part(dir: &StateDir, owner: &str, name: &str, reason: &str) -> ClusterError {
    let log = match owner {
        control_plane::OWNER if name != "init" => dir.log(name),
        _ => dir.log(&format!("{owner}-{name}")),
    };
    let tail = log_tail(&log);
    ClusterError::Part {
        part: name.to_owned(),
        owner: owner.to_owned(),
        reason: reason.to_owned(),
        log,
        tail,
    }
}

fn waited(dir: &StateDir, what: &str, source: &RunError, log: &str) -> ClusterError {
    let log = dir.log(log);
    let tail = log_tail(&log);
    ClusterError::Wait {
        what: what.to_owned(),
        reason: with_causes(source),
        log,
        tail,
    }
}
