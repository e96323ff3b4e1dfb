//! What `nvidia-imex-ctl` says of daemons (NVIDIA's IMEX guide, "IMEX Service Command Service").

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;
use thiserror::Error;

/// Longest word that is taken for a state.
const LONGEST_STATE: usize = 32;

/// The state of one daemon: what `nvidia-imex-ctl -q` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonState {
    /// It serves.
    Ready,
    /// It was not reached.
    Unavailable,
    /// One of the states on the way to these or from them, as it is written: `INITIALIZING`,
    /// `WAITING_FOR_RECOVERY`, `SHUTTING_DOWN` and others.
    Other(String),
}

impl DaemonState {
    /// Reads what was printed. Only the word itself is taken: `NOT_READY` is not `READY`.
    pub fn parse(printed: &str) -> Self {
        let last = printed
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        match last {
            Some("READY") => Self::Ready,
            Some(word) if is_state(word) && word != "UNAVAILABLE" => Self::Other(word.to_owned()),
            _ => Self::Unavailable,
        }
    }
}

fn is_state(word: &str) -> bool {
    let letter = |c: char| c.is_ascii_uppercase() || c == '_';
    word.len() <= LONGEST_STATE && !word.is_empty() && word.chars().all(letter)
}

impl fmt::Display for DaemonState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "READY",
            Self::Unavailable => "UNAVAILABLE",
            Self::Other(word) => word,
        })
    }
}

/// What `nvidia-imex-ctl -N -j` cannot be read for.
#[derive(Debug, Error)]
pub enum DomainError {
    /// It is no JSON.
    #[error("what nvidia-imex-ctl -N -j printed is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It says nothing of a node.
    #[error("nvidia-imex-ctl -N -j says nothing of node {0}")]
    NoRow(u32),
}

/// How one daemon is connected to its peers: one row of what `nvidia-imex-ctl -N -j` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    connected: BTreeSet<u32>,
}

impl Domain {
    /// Reads the row of the daemon `own`.
    pub fn parse(printed: &str, own: u32) -> Result<Self, DomainError> {
        let all: Value = serde_json::from_str(printed)?;
        let row = all
            .get("nodes")
            .and_then(|nodes| nodes.get(own.to_string()));
        let connections = row
            .and_then(|row| row.get("connections"))
            .and_then(Value::as_object)
            .ok_or(DomainError::NoRow(own))?;
        let is_connected =
            |value: &Value| value.get("status").and_then(Value::as_str) == Some("CONNECTED");
        let connected = connections.iter().filter(|(_, value)| is_connected(value));
        Ok(Self {
            connected: connected
                .filter_map(|(index, _)| index.parse().ok())
                .collect(),
        })
    }

    /// Those of `peers` to which there is no connection.
    pub fn missing(&self, peers: impl Iterator<Item = u32>) -> Vec<u32> {
        peers
            .filter(|peer| !self.connected.contains(peer))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_state_is_the_word_and_nothing_like_it() {
        for (printed, expected) in [
            ("READY\n", "READY"),
            ("a warning of the loader\nREADY\n\n", "READY"),
            ("NOT_READY", "NOT_READY"),
            ("WAITING_FOR_RECOVERY\n", "WAITING_FOR_RECOVERY"),
            ("", "UNAVAILABLE"),
            ("it is READY", "UNAVAILABLE"),
            ("Segmentation fault", "UNAVAILABLE"),
        ] {
            assert_eq!(
                DaemonState::parse(printed).to_string(),
                expected,
                "{printed:?}"
            );
        }
        assert_ne!(DaemonState::parse("NOT_READY"), DaemonState::Ready);
    }

    #[test]
    fn a_row_tells_the_peers_that_are_connected() {
        let printed = r#"{"nodes": {
            "0": {"status": "READY", "host": "a", "connections": {
                "0": {"host": "a", "status": "CONNECTED"},
                "1": {"host": "b", "status": "CONNECTED"},
                "2": {"host": "c", "status": "RECOVERING"}}},
            "1": {"status": "UNAVAILABLE", "host": "b", "connections": {}}},
            "status": "DEGRADED"}"#;
        let domain = Domain::parse(printed, 0).unwrap();
        assert_eq!(domain.missing([1, 2, 3].into_iter()), [2, 3]);
        assert!(matches!(
            Domain::parse(printed, 7),
            Err(DomainError::NoRow(7))
        ));
        assert!(matches!(
            Domain::parse("DOWN", 0),
            Err(DomainError::Json(_))
        ));
    }

    proptest! {
        #[test]
        fn whatever_is_printed_is_read_or_refused(printed in ".{0,200}", own in 0u32..4) {
            let _ = Domain::parse(&printed, own);
            let state = DaemonState::parse(&printed).to_string();
            prop_assert!(state.len() <= LONGEST_STATE);
        }
    }
}
