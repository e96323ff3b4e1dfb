//! The daemon as a process: started by this one, or by one before it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::files::{FileError, replace};
use crate::programs::Programs;

/// Which process the daemon is, and what it goes by: what the next process must know to go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pid: i32,
    /// When it was started, in the kernel's ticks since the boot: numbers of processes come again.
    started: u64,
    /// The list of nodes that it was started with.
    pub nodes_file: String,
    /// The lines of members in the hosts file that it last read.
    pub hosts: String,
    /// The files of its credentials when it last read them.
    #[serde(default)]
    pub credentials: String,
}

/// A running daemon.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    handle: Arc<OwnedFd>,
    ended: watch::Receiver<bool>,
}

impl Process {
    /// Starts the daemon.
    pub fn start(programs: &Programs, config: &Path) -> io::Result<Self> {
        // Dropping the child neither waits for it nor ends it.
        let child = programs.start(config)?;
        Self::of(Pid::from_child(&child))
    }

    /// The daemon of a record, if it runs still.
    pub fn find(record: &Record) -> Option<Self> {
        let pid = Pid::from_raw(record.pid)?;
        let process = Self::of(pid).ok()?;
        // Looked at when there is a handle, so that it cannot be another one by now.
        (started(pid)? == record.started).then_some(process)
    }

    fn of(pid: Pid) -> io::Result<Self> {
        let handle = Arc::new(pidfd_open(pid, PidfdFlags::empty())?);
        let (ends, ended) = watch::channel(false);
        let watched = handle.clone();
        // It ends with the process that it watches, or with this one.
        thread::Builder::new()
            .name("nvidia-imex".to_owned())
            .spawn(move || {
                await_end(&watched);
                ends.send_replace(true);
            })?;
        Ok(Self { pid, handle, ended })
    }

    /// What is to be recorded of it.
    pub fn record(&self, nodes_file: &str, hosts: &str, credentials: &str) -> Option<Record> {
        Some(Record {
            pid: self.pid.as_raw_nonzero().get(),
            started: started(self.pid)?,
            nodes_file: nodes_file.to_owned(),
            hosts: hosts.to_owned(),
            credentials: credentials.to_owned(),
        })
    }

    /// Sends a signal; one that has ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&*self.handle, signal) {
            Err(Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        // The thread says so before it ends, so an error is the end as well.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
        // Of one that an earlier process started, the keeper takes the end.
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
    }
}

/// A descriptor of a process is readable for good once the process has ended.
fn await_end(handle: &OwnedFd) {
    while let Ok(0) | Err(Errno::INTR) = poll(&mut [PollFd::new(handle, PollFlags::IN)], None) {}
}

impl Record {
    /// Reads the record at `path`; none where there is none that can be read.
    pub fn load(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes it to `path`.
    pub fn store(&self, path: &Path) -> Result<(), FileError> {
        let text = serde_json::to_string(self).expect("strings and numbers are JSON");
        replace(path, &text)
    }
}

/// When a process was started (`proc(5)`, field 22 of `/proc/<pid>/stat`); none for one that has ended.
fn started(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    start_time(&stat)
}

fn start_time(stat: &str) -> Option<u64> {
    // The second field is a name in parentheses, which may have spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_past_any_name_and_the_dead_have_none() {
        let rest: Vec<String> = (4..=30).map(|number| number.to_string()).collect();
        let rest = rest.join(" ");
        assert_eq!(start_time(&format!("7 (a) b) S {rest}")), Some(22));
        assert_eq!(start_time(&format!("7 (a) Z {rest}")), None);
        assert_eq!(start_time("7"), None);
    }

    #[tokio::test]
    async fn a_process_is_found_again_by_its_record_and_no_other_is() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::of(Pid::from_child(&child)).unwrap();
        let record = process.record("nodes", "hosts", "credentials").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.json");
        assert_eq!(Record::load(&path), None);
        record.store(&path).unwrap();
        assert_eq!(Record::load(&path), Some(record.clone()));
        let found = Process::find(&record).unwrap();
        let another = Record {
            started: record.started + 1,
            ..record.clone()
        };
        assert!(Process::find(&another).is_none());
        found.signal(Signal::KILL).unwrap();
        found.ended().await;
        let _ = child.wait();
        assert!(Process::find(&record).is_none());
        found.signal(Signal::TERM).unwrap();
    }
}
