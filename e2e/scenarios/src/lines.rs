//! Reads what a running program writes, line by line, with a deadline.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use tessera_cluster::interrupt;

/// How often a wait for a line looks whether a signal has come.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A running program. It ends with this value.
pub(crate) struct Lines {
    child: Child,
    errors: File,
    output: Receiver<String>,
}

/// What came of a wait for a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Line(String),
    /// The deadline passed.
    Late,
    /// The program has closed its output, with this on its standard error.
    Ended(String),
    Interrupted,
}

impl Lines {
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let errors = tempfile::tempfile()?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?);
        let mut child = command.spawn()?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("it has no standard output"))?;
        let (send, received) = mpsc::channel();
        // The thread ends with the program, because the pipe closes then.
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            child,
            errors,
            output: received,
        })
    }

    pub(crate) fn next(&mut self, deadline: Instant) -> Next {
        loop {
            if interrupt::requested() {
                return Next::Interrupted;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left.min(LOOK_AGAIN)) {
                Ok(line) => return Next::Line(line),
                Err(RecvTimeoutError::Disconnected) => return Next::Ended(self.said()),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Next::Late,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        // Its last words are wanted for a message only; without them the message says less.
        let _ = self.errors.rewind();
        let _ = self.errors.read_to_string(&mut said);
        said.trim().to_owned()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Lines {
        Lines::start(Command::new("sh").args(["-c", script])).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn lines_come_in_order_and_then_the_end_with_what_the_program_complained_about() {
        let mut lines = shell("echo one; echo two; echo cause >&2");
        assert_eq!(lines.next(soon()), Next::Line("one".to_owned()));
        assert_eq!(lines.next(soon()), Next::Line("two".to_owned()));
        assert_eq!(lines.next(soon()), Next::Ended("cause".to_owned()));
    }

    #[test]
    fn a_program_that_says_nothing_is_waited_for_until_the_deadline() {
        let mut lines = shell("exec sleep 1000");
        assert_eq!(lines.next(Instant::now()), Next::Late);
    }
}
