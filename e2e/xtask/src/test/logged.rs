//! Runs a long command with its output in a log file, which is shown when the command fails.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tessera_cluster::paths::checkout;
use tessera_cluster::{ClusterError, interrupt};

/// From nothing on two cores, the longest of these takes ten minutes.
const LIMIT: Duration = Duration::from_mins(40);

/// How often the wait looks for the command's end and for an interrupt.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How much of a log is shown.
const TAIL: usize = 60;

/// What a command wrote, and whether it succeeded.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) succeeded: bool,
    pub(crate) output: String,
    log: PathBuf,
}

impl Logged {
    /// The end of the output, and where the whole of it is.
    pub(crate) fn end(&self) -> String {
        let lines: Vec<_> = self.output.lines().collect();
        let end = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("{end}\nthe whole output is in {}", self.log.display())
    }
}

/// Runs the command to its end. Both its outputs go to the log of this name.
pub(crate) fn run(name: &str, command: &mut Command) -> anyhow::Result<Logged> {
    let log = checkout().join(format!("target/test-logs/{name}.log"));
    let kept = || format!("keep the output of {name} in {}", log.display());
    let file = create(&log).with_context(kept)?;
    command
        .current_dir(checkout())
        .stdin(Stdio::null())
        .stdout(file.try_clone().with_context(kept)?)
        .stderr(file)
        // A group of its own, so that everything that it starts can be ended with it.
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let status = wait(&mut child, name)?;
    let output = fs::read(&log).with_context(kept)?;
    Ok(Logged {
        succeeded: status.success(),
        output: String::from_utf8_lossy(&output).into_owned(),
        log,
    })
}

fn create(log: &Path) -> io::Result<File> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(log)
}

fn wait(child: &mut Child, name: &str) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let looked = child.try_wait().with_context(|| format!("wait for {name}"));
        if let Some(status) = looked? {
            return Ok(status);
        }
        let interrupted = interrupt::requested();
        if interrupted || Instant::now() >= deadline {
            end(child);
            anyhow::ensure!(
                interrupted,
                "{name} is not done after {} s",
                LIMIT.as_secs()
            );
            return Err(ClusterError::Interrupted.into());
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended in this very moment.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}
