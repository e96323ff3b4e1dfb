//! The programs that the first process keeps running: which are up, which are due, how they ended.

use std::fs::OpenOptions;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::WaitStatus;

use super::{Endpoint, InitError, Part, PartStatus, Status};

/// How long a part that ended stays down. Short, so that a restarted kubelet is back as soon as under systemd.
const PAUSE: Duration = Duration::from_millis(200);

/// The parts of one plan and their state.
pub(super) struct Parts {
    parts: Vec<Tended>,
}

struct Tended {
    part: Part,
    state: State,
    starts: u32,
    last_end: Option<String>,
}

enum State {
    Due { at: Instant },
    Up { pid: i32 },
}

impl Parts {
    pub(super) fn new(parts: &[Part], now: Instant) -> Self {
        let tend = |part: &Part| Tended {
            part: part.clone(),
            state: State::Due { at: now },
            starts: 0,
            last_end: None,
        };
        Self {
            parts: parts.iter().map(tend).collect(),
        }
    }

    /// Starts what is due and whose socket is there. Returns whether anything was started.
    pub(super) fn start_due(&mut self, now: Instant) -> Result<bool, InitError> {
        let mut any = false;
        for tended in &mut self.parts {
            let State::Due { at } = tended.state else {
                continue;
            };
            if at > now || !tended.part.after.as_ref().is_none_or(answers) {
                continue;
            }
            let failed = |source| InitError::Start {
                name: tended.part.name.clone(),
                source,
            };
            tended.state = State::Up {
                pid: start(&tended.part).map_err(failed)?,
            };
            tended.starts += 1;
            any = true;
        }
        Ok(any)
    }

    /// Whether a part waits for its time or its socket.
    pub(super) fn any_due(&self) -> bool {
        self.parts
            .iter()
            .any(|tended| matches!(tended.state, State::Due { .. }))
    }

    /// Notes that a process ended. Returns whether it was a part: orphans of containers end here too.
    pub(super) fn ended(&mut self, pid: i32, status: WaitStatus, now: Instant) -> bool {
        let of_pid =
            |tended: &&mut Tended| matches!(tended.state, State::Up { pid: its } if its == pid);
        let Some(tended) = self.parts.iter_mut().find(of_pid) else {
            return false;
        };
        tended.state = State::Due { at: now + PAUSE };
        tended.last_end = Some(describe(status));
        true
    }

    pub(super) fn status(&self) -> Status {
        let one = |tended: &Tended| {
            let pid = match tended.state {
                State::Up { pid } => Some(pid),
                State::Due { .. } => None,
            };
            let status = PartStatus {
                pid,
                starts: tended.starts,
                last_end: tended.last_end.clone(),
            };
            (tended.part.name.clone(), status)
        };
        Status {
            parts: self.parts.iter().map(one).collect(),
            failure: None,
        }
    }
}

fn answers(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(socket) => UnixStream::connect(socket).is_ok(),
        // Only addresses of the namespace itself are waited for, which answer or refuse at once.
        Endpoint::Tcp(address) => TcpStream::connect(address).is_ok(),
    }
}

fn start(part: &Part) -> io::Result<i32> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&part.log)?;
    let Some((program, arguments)) = part.argv.split_first() else {
        return Err(io::Error::other("no program named"));
    };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&part.env)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    // The handle is dropped: the first process collects every child by itself.
    i32::try_from(child.id()).map_err(io::Error::other)
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use rustix::process::{Pid, WaitOptions, waitpid};

    use super::*;

    fn part(name: &str, argv: &[&str], log: &Path) -> Part {
        Part {
            name: name.to_owned(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: BTreeMap::new(),
            log: log.to_owned(),
            after: None,
        }
    }

    #[test]
    fn a_part_that_ends_is_due_again_after_a_pause_and_says_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let now = Instant::now();
        let mut parts = Parts::new(
            &[part("p", &["/bin/sh", "-c", "echo out; exit 3"], &log)],
            now,
        );
        assert!(parts.start_due(now).unwrap());
        assert!(!parts.any_due());
        let pid = parts.status().parts["p"].pid.unwrap();
        let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty())
            .unwrap()
            .unwrap();
        assert!(parts.ended(pid, status, now));
        assert!(!parts.start_due(now).unwrap(), "its pause is not over");
        let seen = &parts.status().parts["p"];
        assert_eq!(
            (seen.pid, seen.starts, seen.last_end.as_deref()),
            (None, 1, Some("exit status 3"))
        );
        assert_eq!(std::fs::read_to_string(log).unwrap(), "out\n");
        assert!(parts.start_due(now + PAUSE).unwrap());
        let pid = parts.status().parts["p"].pid.unwrap();
        waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap();
    }

    #[test]
    fn a_part_waits_for_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let now = Instant::now();
        let mut waiting = part("p", &["/bin/true"], &dir.path().join("log"));
        waiting.after = Some(Endpoint::Unix(socket.clone()));
        let mut parts = Parts::new(&[waiting], now);
        assert!(!parts.start_due(now).unwrap());
        let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        assert!(parts.start_due(now).unwrap());
        let pid = parts.status().parts["p"].pid.unwrap();
        waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap();
    }
}
