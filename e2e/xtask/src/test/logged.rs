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
    /// What tells why it failed, and where the whole of the output is.
    pub(crate) fn why(&self) -> String {
        let why = failed_tests(&self.output).unwrap_or_else(|| end(&self.output));
        format!("{why}\nthe whole output is in {}", self.log.display())
    }
}

fn end(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// What failed tests wrote and their names: in an output of `cargo test`, other programs' results come after it.
fn failed_tests(output: &str) -> Option<String> {
    let mut lines = output.lines();
    let mut blocks = Vec::new();
    while lines.any(|line| line == "failures:") {
        let block = lines
            .by_ref()
            .take_while(|line| !line.starts_with("test result: "));
        blocks.push(block.collect::<Vec<_>>().join("\n"));
    }
    (!blocks.is_empty()).then(|| blocks.join("\n"))
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
            kill(child);
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

fn kill(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended in this very moment.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_tests_are_found_before_the_results_of_other_programs() {
        let output = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nleft: 1\n\nfailures:\n    a\n\n\
            test result: FAILED. 0 passed; 1 failed\n\nrunning 1 test\ntest b ... ok\n\n\
            test result: ok. 1 passed; 0 failed\nerror: 1 target failed";
        let why = failed_tests(output).unwrap();
        assert!(why.contains("left: 1") && why.contains("    a"), "{why}");
        assert!(!why.contains("test b") && !why.contains("target"), "{why}");
    }

    #[test]
    fn an_output_without_failed_tests_is_told_by_its_end() {
        assert_eq!(failed_tests("error: could not compile"), None);
        let long: Vec<_> = (0..=TAIL).map(|line| line.to_string()).collect();
        let shown = end(&long.join("\n"));
        assert_eq!(shown.lines().next(), Some("1"));
        assert_eq!(shown.lines().count(), TAIL);
    }
}
