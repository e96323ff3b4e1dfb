//! Decides what follows when a worker has ended.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// So many workers in a row that end before they serve are a worker that cannot come up: a wrong
/// flag, a port in use.
const STILLBORN_LIMIT: u32 = 5;

/// So many ends within [`WINDOW`] are a worker that falls at once, such as over a library that
/// crashes when it is loaded, even if it served for a moment each time.
const LIMIT: usize = 10;

/// See [`LIMIT`].
const WINDOW: Duration = Duration::from_secs(10);

/// Exit code of a process that a signal ended, less the signal (a shell's convention, which
/// container runtimes follow).
const SIGNALLED: i32 = 128;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// By itself, with this code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl Cause {
    /// The exit code of a process that ends for the same cause.
    pub(super) fn code(self) -> u8 {
        let code = match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => SIGNALLED + signal,
        };
        // The kernel keeps eight bits of a code, so there are no others.
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// The end of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// When, since the keeper began.
    pub(super) at: Duration,
    /// Whether it had served the sockets.
    pub(super) served: bool,
    /// Whether the keeper had been told to stop.
    pub(super) told: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another worker.
    Restart,
    /// The keeper's own end, as it was told.
    End,
    /// The keeper's own end, because another worker would end as well.
    GiveUp(Hopeless),
}

/// Why another worker is not worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hopeless {
    /// The last ones ended before they served.
    NeverServed,
    /// They end too fast.
    TooOften,
}

impl fmt::Display for Hopeless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverServed => write!(f, "{STILLBORN_LIMIT} in a row ended before they served"),
            Self::TooOften => write!(f, "{LIMIT} ended within {} s", WINDOW.as_secs()),
        }
    }
}

/// The ends so far, as far as they matter.
#[derive(Debug, Default)]
pub(super) struct Ends {
    recent: VecDeque<Duration>,
    stillborn: u32,
}

impl Ends {
    /// Takes note of an end and decides.
    pub(super) fn next(&mut self, end: End) -> Next {
        if end.told {
            return Next::End;
        }
        self.recent.push_back(end.at);
        let since = end.at.saturating_sub(WINDOW);
        self.recent.retain(|at| *at >= since);
        self.stillborn = if end.served { 0 } else { self.stillborn + 1 };
        if self.stillborn >= STILLBORN_LIMIT {
            Next::GiveUp(Hopeless::NeverServed)
        } else if self.recent.len() >= LIMIT {
            Next::GiveUp(Hopeless::TooOften)
        } else {
            Next::Restart
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows the last of some ends: after so many milliseconds each, having served or not.
    fn after(ends: impl IntoIterator<Item = (u64, bool)>) -> Next {
        let (mut history, mut now) = (Ends::default(), 0);
        let mut next = Next::End;
        for (life, served) in ends {
            assert!(
                !matches!(next, Next::GiveUp(_)),
                "it gave up before the last"
            );
            now += life;
            let at = Duration::from_millis(now);
            next = history.next(End {
                at,
                served,
                told: false,
            });
        }
        next
    }

    fn times<T: Clone>(count: usize, end: T) -> impl Iterator<Item = T> {
        std::iter::repeat_n(end, count)
    }

    #[test]
    fn a_worker_is_replaced_unless_there_is_no_hope() {
        let never = Next::GiveUp(Hopeless::NeverServed);
        let often = Next::GiveUp(Hopeless::TooOften);
        let (slow, quick) = (20_000, 100);
        for (what, ends, wanted) in [
            ("one", vec![(slow, true)], Next::Restart),
            ("one at once", vec![(1, false)], Next::Restart),
            (
                "four that never served",
                times(4, (quick, false)).collect(),
                Next::Restart,
            ),
            ("five", times(5, (quick, false)).collect(), never),
            ("five slow ones", times(5, (slow, false)).collect(), never),
            (
                "five with one between that served",
                times(4, (quick, false))
                    .chain([(slow, true), (quick, false)])
                    .collect(),
                Next::Restart,
            ),
            (
                "nine that served for a moment",
                times(9, (quick, true)).collect(),
                Next::Restart,
            ),
            ("ten", times(10, (quick, true)).collect(), often),
            (
                "ten, one a second",
                times(10, (1_000, true)).collect(),
                often,
            ),
            (
                "a hundred, one every two seconds",
                times(100, (2_000, true)).collect(),
                Next::Restart,
            ),
        ] {
            assert_eq!(after(ends), wanted, "{what}");
        }
    }

    #[test]
    fn who_was_told_to_stop_starts_nobody() {
        for served in [false, true] {
            let end = End {
                at: Duration::ZERO,
                served,
                told: true,
            };
            assert_eq!(Ends::default().next(end), Next::End);
        }
    }

    #[test]
    fn a_cause_is_passed_on_as_an_exit_code() {
        for (cause, code, text) in [
            (Cause::Exit(0), 0, "exit code 0"),
            (Cause::Exit(2), 2, "exit code 2"),
            (Cause::Signal(9), 137, "signal 9"),
        ] {
            assert_eq!((cause.code(), cause.to_string().as_str()), (code, text));
        }
    }
}
