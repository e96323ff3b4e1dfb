//! How the parts of a cluster are, for a person to read.

use std::fmt;

use crate::control_plane;
use crate::paths::StateDir;
use crate::supervisor::{PartStatus, Status};

/// Every part of the cluster and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Owner (`control` or a node), part, status.
    pub parts: Vec<(String, String, PartStatus)>,
}

impl Report {
    pub(super) fn read(dir: &StateDir, nodes: &[String]) -> Self {
        let owners = std::iter::once(control_plane::OWNER).chain(nodes.iter().map(String::as_str));
        let of = |owner: &str| {
            let status = Status::read(&dir.status(owner)).unwrap_or_default();
            let owner = owner.to_owned();
            status
                .parts
                .into_iter()
                .map(move |(part, status)| (owner.clone(), part, status))
        };
        Self {
            parts: owners.flat_map(of).collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (owner, part, status) in &self.parts {
            let state = if status.pid.is_some() { "up" } else { "down" };
            write!(
                f,
                "{owner:<8} {part:<24} {state:<5} started {}×",
                status.starts
            )?;
            match &status.last_end {
                Some(end) => writeln!(f, ", last ended with {end}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_was_started_again_says_how_it_ended() {
        let status = PartStatus {
            pid: Some(7),
            starts: 2,
            last_end: Some("signal 9".to_owned()),
        };
        let report = Report {
            parts: vec![("node0".to_owned(), "kubelet".to_owned(), status)],
        };
        assert_eq!(
            report.to_string(),
            "node0    kubelet                  up    started 2×, last ended with signal 9\n"
        );
    }
}
