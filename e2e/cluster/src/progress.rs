//! What a person sees while something long runs.

use std::time::{Duration, Instant};

/// Is told when a long step starts and ends. Steps may overlap.
pub trait Progress: Sync {
    /// `what` has begun.
    fn started(&self, what: &str);
    /// `what` is done.
    fn finished(&self, what: &str, took: Duration);
}

/// Writes one line per finished step to standard error, and one at the start of steps that are worth announcing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Screen;

impl Progress for Screen {
    fn started(&self, what: &str) {
        eprintln!("  … {what}");
    }

    fn finished(&self, what: &str, took: Duration) {
        eprintln!("  ✓ {what} ({:.1} s)", took.as_secs_f64());
    }
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _what: &str) {}
    fn finished(&self, _what: &str, _took: Duration) {}
}

/// Runs one step and reports its start and, if it succeeds, its end.
pub fn step<T, E>(
    progress: &dyn Progress,
    what: &str,
    run: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    progress.started(what);
    let result = run()?;
    progress.finished(what, began.elapsed());
    Ok(result)
}
