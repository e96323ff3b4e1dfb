//! Sets up the process's log: one line per event on standard error.
//!
//! JSON lines carry the event's fields at the top level and the innermost span's fields under
//! `span`, so a claim's UID that a span holds stands in every line about that claim.

use std::error::Error;
use std::fmt;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt as lines};

use crate::args::LogArgs;

/// Prefix of the targets of our own crates.
const OURS: &str = "tessera";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, for log collectors.
    #[default]
    Json,
    /// Plain text, for a person at a terminal.
    Text,
}

/// Names a log format that does not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("log format {0:?} is unknown: use json or text")]
pub struct UnknownLogFormat(String);

impl std::str::FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(UnknownLogFormat(other.to_owned())),
        }
    }
}

/// Starts logging for the whole process; call once, before anything is logged.
///
/// The verbosity is the reference driver's `-v` (0–6, see [`levels`]). The error means that a log was already set up.
pub fn init(args: LogArgs) -> Result<(), TryInitError> {
    let LogArgs {
        verbosity,
        log_format,
    } = args;
    let lines = lines::layer().with_writer(std::io::stderr);
    let lines = match log_format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    let levels = levels(verbosity);
    let filter = Targets::new()
        .with_default(levels.others)
        .with_target(OURS, levels.ours);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
}

/// What is logged at one verbosity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Level of our own crates.
    pub ours: LevelFilter,
    /// Level of everything that we link.
    pub others: LevelFilter,
}

/// Maps the Go drivers' verbosity to levels.
///
/// | verbosity | ours | others | klog's meaning |
/// |---|---|---|---|
/// | 0 | warn | warn | what an operator must always see |
/// | 1–4 | info | warn | changes of state; 4 is the chart's default |
/// | 5 | debug | info | detail for a person who debugs |
/// | 6 and more | trace | debug | requests to the API server too |
pub fn levels(verbosity: u8) -> Levels {
    let (ours, others) = match verbosity {
        0 => (Level::WARN, Level::WARN),
        1..=4 => (Level::INFO, Level::WARN),
        5 => (Level::DEBUG, Level::INFO),
        6.. => (Level::TRACE, Level::DEBUG),
    };
    Levels {
        ours: ours.into(),
        others: others.into(),
    }
}

/// Shows an error with everything that caused it, as one line: `what: why: why that`.
///
/// For the boundary where an error is logged, once: `error = %chain(&error)`.
pub fn chain(error: &dyn Error) -> impl fmt::Display + '_ {
    Chain(error)
}

struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_changes_are_logged_at_the_charts_default_verbosity() {
        assert_eq!(levels(4).ours, LevelFilter::INFO);
        assert_eq!(levels(4).others, LevelFilter::WARN);
    }

    #[test]
    fn a_higher_verbosity_never_logs_less() {
        for verbosity in 0..u8::MAX {
            assert!(levels(verbosity).ours <= levels(verbosity + 1).ours);
            assert!(levels(verbosity).others <= levels(verbosity + 1).others);
        }
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("open door")]
        struct Door(#[source] std::num::ParseIntError);
        let error = Door("key".parse::<u8>().unwrap_err());
        assert_eq!(
            chain(&error).to_string(),
            "open door: invalid digit found in string"
        );
    }

    #[test]
    fn an_unknown_format_is_refused_by_name() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("text".parse(), Ok(LogFormat::Text));
        assert_eq!(
            "xml".parse::<LogFormat>(),
            Err(UnknownLogFormat("xml".to_owned()))
        );
    }
}
