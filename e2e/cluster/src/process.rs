//! Runs the programs that bring-up needs, each with a deadline, and says what a failed one wrote.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::interrupt;

/// How often a wait looks again. Small against everything that is waited for here.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program did not start.
    #[error("start {program}: is it installed and in PATH?")]
    Start {
        /// What was started.
        program: String,
        /// Why it did not.
        source: io::Error,
    },
    /// The program's output could not be kept or read.
    #[error("keep the output of {program}")]
    Output {
        /// What ran.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The program said that it failed.
    #[error("{line}: {status}\n{tail}")]
    Failed {
        /// The command line.
        line: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        tail: String,
    },
    /// The program took longer than it may.
    #[error("{line}: not done after {} s\n{tail}", limit.as_secs())]
    Slow {
        /// The command line.
        line: String,
        /// How long it could take.
        limit: Duration,
        /// The end of what it wrote.
        tail: String,
    },
    /// A signal came while it ran.
    #[error("interrupted")]
    Interrupted,
}

/// Runs `command` to its end and returns what it wrote to standard output.
///
/// The program is killed when `limit` passes or an interrupt comes.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<String, RunError> {
    run_until(command, limit, &|| false)
}

/// Like [`run`], and kills the program as soon as `give_up` says so, as if its time were over.
pub(crate) fn run_until(
    command: &mut Command,
    limit: Duration,
    give_up: &dyn Fn() -> bool,
) -> Result<String, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let kept = |source| RunError::Output {
        program: program.clone(),
        source,
    };
    // Files rather than pipes: a program that writes much never blocks on a reader.
    let (mut out, mut err) = (
        tempfile::tempfile().map_err(kept)?,
        tempfile::tempfile().map_err(kept)?,
    );
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(kept)?)
        .stderr(err.try_clone().map_err(kept)?);
    let mut child = command.spawn().map_err(|source| RunError::Start {
        program: program.clone(),
        source,
    })?;
    let ended = wait(&mut child, Instant::now() + limit, give_up).map_err(kept)?;
    let said = text(&mut out).map_err(kept)?;
    let line = line(command);
    let tail = last_lines(
        &format!("{said}{}", text(&mut err).map_err(kept)?),
        TAIL_LINES,
    );
    match ended {
        Ended::Exited(status) if status.success() => Ok(said),
        Ended::Exited(status) => Err(RunError::Failed { line, status, tail }),
        Ended::Slow => Err(RunError::Slow { line, limit, tail }),
        Ended::Interrupted => Err(RunError::Interrupted),
    }
}

enum Ended {
    Exited(ExitStatus),
    Slow,
    Interrupted,
}

fn wait(child: &mut Child, deadline: Instant, give_up: &dyn Fn() -> bool) -> io::Result<Ended> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Exited(status));
        }
        let ended = if interrupt::requested() {
            Ended::Interrupted
        } else if Instant::now() >= deadline || give_up() {
            Ended::Slow
        } else {
            thread::sleep(LOOK_AGAIN);
            continue;
        };
        child.kill()?;
        child.wait()?;
        return Ok(ended);
    }
}

fn text(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// How much of a log an error shows.
pub(crate) const TAIL_LINES: usize = 20;

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The end of a log file, or why there is none.
pub(crate) fn log_tail(log: &Path) -> String {
    match std::fs::read(log) {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes), TAIL_LINES),
        Err(source) => format!("(no log at {}: {source})", log.display()),
    }
}

/// Where a program of this name lies in PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Not every user's PATH names the system directories, where iproute2 and busybox lie on some distributions.
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_a_program_comes_back() {
        assert_eq!(
            run(Command::new("echo").arg("hello"), Duration::from_secs(10)).unwrap(),
            "hello\n"
        );
    }

    #[test]
    fn a_failed_program_is_named_with_the_end_of_what_it_wrote() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo before; echo cause >&2; exit 3"]);
        let error = run(&mut command, Duration::from_secs(10))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("sh -c ") && error.contains("exit status: 3"),
            "{error}"
        );
        assert!(error.ends_with("before\ncause"), "{error}");
    }

    #[test]
    fn a_program_that_never_ends_is_killed_at_its_deadline() {
        let error = run(Command::new("sleep").arg("1000"), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, RunError::Slow { .. }), "{error}");
    }

    #[test]
    fn the_tail_of_a_text_is_its_last_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }
}
