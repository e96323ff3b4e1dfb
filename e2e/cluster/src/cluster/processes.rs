//! Processes of a cluster, as the machine counts them: found by name, stopped and continued.

use std::fs;
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::interrupt;
use crate::process::LOOK_AGAIN;

/// The processes that share a process namespace with the first one given and have this name.
pub(super) fn beside(first: u32, name: &str) -> Vec<u32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(wanted) = namespace(first) else {
        return Vec::new();
    };
    let is_named = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    all()
        .filter(is_named)
        .filter(|pid| namespace(*pid).as_ref() == Some(&wanted))
        .collect()
}

/// The processes below this cgroup, in whatever hierarchy, whose program has this file name.
pub(super) fn below(cgroup: &str, program: &str) -> Vec<u32> {
    let inside = format!(":/{cgroup}/");
    let is_below = |pid: &u32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.lines().any(|line| line.contains(&inside))
    };
    let runs = |pid: &u32| {
        fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|file| file.file_name().is_some_and(|name| name == program))
    };
    all().filter(runs).filter(is_below).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Sends the signal. A process that has ended by now needs none.
pub(super) fn send(pids: &[u32], signal: Signal) {
    let pids = pids.iter().filter_map(|pid| i32::try_from(*pid).ok());
    for pid in pids.filter_map(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// What was waited for did not come true in time, or an interrupt came first.
#[derive(Debug)]
pub(super) struct Late;

/// Waits until this is so.
pub(super) fn until(deadline: Instant, is_so: impl Fn() -> bool) -> Result<(), Late> {
    while !is_so() {
        if Instant::now() >= deadline || interrupt::requested() {
            return Err(Late);
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Processes that are stopped as long as this value lives: their sockets take connections and data, and nobody answers.
#[derive(Debug)]
pub struct Stopped {
    pids: Vec<u32>,
}

impl Stopped {
    pub(super) fn stop(pids: Vec<u32>) -> Self {
        send(&pids, Signal::STOP);
        Self { pids }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        send(&self.pids, Signal::CONT);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    fn state(child: &Child) -> String {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let (_, after) = stat.rsplit_once(") ").unwrap();
        after[..1].to_owned()
    }

    fn reaches(child: &Child, wanted: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if state(child) == wanted {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn a_stopped_process_goes_on_when_the_value_ends() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let stopped = Stopped::stop(vec![child.id()]);
        let did_stop = reaches(&child, "T");
        drop(stopped);
        let went_on = reaches(&child, "S");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(did_stop && went_on);
    }

    #[test]
    fn a_process_is_found_beside_another_of_its_namespace() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        // The kernel lets the parent go on a moment before the child has its new name.
        let deadline = Instant::now() + Duration::from_secs(10);
        let found = until(deadline, || {
            beside(std::process::id(), "sleep").contains(&child.id())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        found.unwrap();
    }
}
