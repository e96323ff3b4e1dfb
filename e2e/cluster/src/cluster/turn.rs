//! Whose turn it is: of all processes on a machine, one at a time has a cluster that ends with it.
//!
//! The sign is a listening socket with an abstract name. The kernel takes it away with its process, however that ends;
//! it leaves no file, tells whoever connects which process holds it, and belongs to the network namespace, as the
//! addresses and the link of a cluster do.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;

use super::ClusterError;
use crate::interrupt;
use crate::progress::{Progress, step};

/// What every process on a machine calls it.
const NAME: &str = "tessera-cluster.turn";

/// How long a turn is waited for: the longest that one process has a cluster is a whole test run.
const LIMIT: Duration = Duration::from_hours(1);

const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The turn, as long as this value lives.
#[derive(Debug)]
pub(super) struct Turn {
    _held: UnixListener,
}

impl Turn {
    /// Takes the turn, after the cluster of another process has ended.
    pub(super) fn take(progress: &dyn Progress) -> Result<Self, ClusterError> {
        Self::take_within(NAME, LIMIT, progress)
    }

    fn take_within(
        name: &str,
        limit: Duration,
        progress: &dyn Progress,
    ) -> Result<Self, ClusterError> {
        if let Some(turn) = Self::try_take(name)? {
            return Ok(turn);
        }
        let whose = whose(name);
        let what = format!("wait for the cluster of {whose} to end: there is one per machine");
        step(progress, &what, || {
            let deadline = Instant::now() + limit;
            loop {
                if let Some(turn) = Self::try_take(name)? {
                    return Ok(turn);
                }
                if interrupt::requested() {
                    return Err(ClusterError::Interrupted);
                }
                if Instant::now() >= deadline {
                    return Err(ClusterError::NoTurn { whose, limit });
                }
                thread::sleep(LOOK_AGAIN);
            }
        })
    }

    fn try_take(name: &str) -> Result<Option<Self>, ClusterError> {
        let bound =
            SocketAddr::from_abstract_name(name).and_then(|at| UnixListener::bind_addr(&at));
        match bound {
            Ok(held) => Ok(Some(Self { _held: held })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(ClusterError::Turn(error)),
        }
    }
}

/// The process whose turn it is, in words.
fn whose(name: &str) -> String {
    let at = SocketAddr::from_abstract_name(name);
    let holder = at
        .and_then(|at| UnixStream::connect_addr(&at))
        .and_then(|stream| socket_peercred(&stream).map_err(io::Error::from));
    match holder {
        Ok(holder) => format!("process {}", holder.pid),
        Err(_just_ended) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::progress::Silent;

    use super::*;

    /// A name that no other test run on this machine uses.
    fn name(test: &str) -> String {
        format!("tessera-cluster.turn.{test}.{}", std::process::id())
    }

    #[test]
    fn a_turn_that_is_taken_is_not_given_again_and_the_error_names_its_process() {
        let name = name("taken");
        let held = Turn::take_within(&name, Duration::ZERO, &Silent).unwrap();
        let error = Turn::take_within(&name, Duration::ZERO, &Silent).unwrap_err();
        let holder = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        drop(held);
        Turn::take_within(&name, Duration::ZERO, &Silent).unwrap();
    }

    #[test]
    fn a_turn_that_ends_is_taken_by_who_waits_for_it() {
        let name = name("waits");
        let held = Turn::take_within(&name, Duration::ZERO, &Silent).unwrap();
        let waiting = thread::spawn({
            let name = name.clone();
            move || Turn::take_within(&name, Duration::from_mins(1), &Silent).is_ok()
        });
        drop(held);
        assert!(waiting.join().unwrap());
    }
}
