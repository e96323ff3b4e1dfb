//! What is said of a node's session: on the session host's socket, and in the `NVLinkClique`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::DaemonState;
use crate::decide::{Daemon, Running, Wanted};
use crate::roster::Roster;

/// Longest line on the socket, its end included.
pub const LONGEST_LINE: usize = 64 * 1024;

/// The state of a node's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It is not known in which clique the node is.
    Unknown,
    /// The node is in no clique: there is nobody to have a session with.
    NoClique,
    /// The node is in a clique in which each domain has a session of its own, and no domain has it.
    NoDomain,
    /// The driver installation has no `nvidia-imex`.
    NotInstalled,
    /// The members are such that no session can be made of them.
    InvalidMembers,
    /// No daemon runs: it is about to be started, or started again.
    Stopped,
    /// The daemon runs with members that have changed since.
    OldMembers,
    /// What the daemon says of itself.
    Daemon(DaemonState),
}

impl SessionState {
    /// What is known of a daemon, and what it said when it was last asked.
    pub fn of(wanted: &Wanted, daemon: &Daemon, said: &DaemonState) -> Self {
        let roster = match wanted {
            Wanted::Unknown => return Self::Unknown,
            Wanted::Nobody => return Self::NoClique,
            // Nobody will wait for a session here, and that is known before a domain comes.
            Wanted::Idle { .. } if *daemon == Daemon::NotInstalled => return Self::NotInstalled,
            Wanted::Idle { .. } => return Self::NoDomain,
            Wanted::Invalid(_) => return Self::InvalidMembers,
            Wanted::Members(roster) => roster,
        };
        match daemon {
            Daemon::NotInstalled => Self::NotInstalled,
            Daemon::Down { .. } | Daemon::Ending { .. } => Self::Stopped,
            Daemon::Up(running) if is_of(running, roster) => Self::Daemon(said.clone()),
            Daemon::Up(_) => Self::OldMembers,
        }
    }

    /// Whether pods can use the session.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Daemon(DaemonState::Ready))
    }
}

fn is_of(running: &Running, roster: &Roster) -> bool {
    running.nodes_file == roster.nodes_file() && running.hosts == roster.hosts_file("")
}

/// Words in the manner of `nvidia-imex-ctl`, among which they stand.
impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("UNKNOWN"),
            Self::NoClique => f.write_str("NO_CLIQUE"),
            Self::NoDomain => f.write_str(NO_DOMAIN),
            Self::NotInstalled => f.write_str(NOT_INSTALLED),
            Self::InvalidMembers => f.write_str("INVALID_MEMBERS"),
            Self::Stopped => f.write_str("STOPPED"),
            Self::OldMembers => f.write_str("OLD_MEMBERS"),
            Self::Daemon(state) => state.fmt(f),
        }
    }
}

/// The state of a node whose driver installation has no `nvidia-imex`.
pub const NOT_INSTALLED: &str = "NOT_INSTALLED";

/// The state of a node that no domain has, where each domain has a session of its own.
pub const NO_DOMAIN: &str = "NO_DOMAIN";

/// One line on the socket: whoever connects is told the state of the session, and each change of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The state, as [`SessionState`] writes it.
    pub state: String,
    /// The clique, if there is one.
    #[serde(default)]
    pub clique: String,
    /// UID of the domain whose session it is; empty where it is that of the whole clique.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// The epoch of the members.
    #[serde(default)]
    pub epoch: i64,
    /// Members to which the daemon has no connection.
    #[serde(default)]
    pub unreachable: Vec<String>,
    /// What is wrong, for people.
    #[serde(default)]
    pub message: String,
}

/// What a pod that needs the session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes ahead.
    Go,
    /// It waits.
    Wait,
}

impl Report {
    /// What a pod of this domain does that needs the session. Where the session host has nothing to run, the
    /// session is somebody else's, and is not waited for.
    pub fn verdict(&self, domain: &str) -> Verdict {
        match self.state.as_str() {
            NOT_INSTALLED => Verdict::Go,
            "READY" if !self.is_of_another(domain) => Verdict::Go,
            _ => Verdict::Wait,
        }
    }

    /// Whether it is the session of another domain than this one.
    pub fn is_of_another(&self, domain: &str) -> bool {
        !(self.domain.is_empty() || self.domain == domain)
    }

    /// The line.
    pub fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and numbers are JSON");
        json + "\n"
    }

    /// Reads a line; none where it is none of ours.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing;

    fn roster(peer: u8) -> Roster {
        let address = format!("10.0.0.{peer}");
        testing::roster(1, &[("a", 0, ""), ("b", 1, &address)])
    }

    fn up(peer: u8) -> Daemon {
        let roster = roster(peer);
        Daemon::Up(Running::new(roster.nodes_file(), roster.hosts_file("")))
    }

    #[test]
    fn a_session_is_ready_with_a_ready_daemon_of_the_present_members_alone() {
        let wanted = Wanted::Members(roster(2));
        let down = Daemon::Down {
            failures: 3,
            since: Duration::ZERO,
        };
        let idle = Wanted::Idle {
            clique: "c.1".to_owned(),
        };
        let recovering = DaemonState::parse("WAITING_FOR_RECOVERY");
        for (wanted, daemon, said, expected, verdict) in [
            (&wanted, up(2), DaemonState::Ready, "READY", Verdict::Go),
            (
                &wanted,
                up(1),
                DaemonState::Ready,
                "OLD_MEMBERS",
                Verdict::Wait,
            ),
            (
                &wanted,
                up(2),
                recovering,
                "WAITING_FOR_RECOVERY",
                Verdict::Wait,
            ),
            (
                &wanted,
                up(2),
                DaemonState::Unavailable,
                "UNAVAILABLE",
                Verdict::Wait,
            ),
            (&wanted, down, DaemonState::Ready, "STOPPED", Verdict::Wait),
            (
                &wanted,
                Daemon::NotInstalled,
                DaemonState::Unavailable,
                "NOT_INSTALLED",
                Verdict::Go,
            ),
            (
                &Wanted::Unknown,
                up(2),
                DaemonState::Ready,
                "UNKNOWN",
                Verdict::Wait,
            ),
            (
                &Wanted::Nobody,
                up(2),
                DaemonState::Ready,
                "NO_CLIQUE",
                Verdict::Wait,
            ),
            (&idle, up(2), DaemonState::Ready, "NO_DOMAIN", Verdict::Wait),
            (
                &idle,
                Daemon::NotInstalled,
                DaemonState::Ready,
                "NOT_INSTALLED",
                Verdict::Go,
            ),
        ] {
            let state = SessionState::of(wanted, &daemon, &said);
            assert_eq!(state.to_string(), expected);
            assert_eq!(state.is_ready(), expected == "READY");
            let report = Report {
                state: state.to_string(),
                ..Report::default()
            };
            assert_eq!(report.verdict("d1"), verdict, "{expected}");
        }
    }

    #[test]
    fn a_session_of_a_domain_is_for_its_pods_alone() {
        let report = |state: &str, domain: &str| Report {
            state: state.to_owned(),
            domain: domain.to_owned(),
            ..Report::default()
        };
        for (state, of, verdict) in [
            ("READY", "", Verdict::Go),
            ("READY", "d1", Verdict::Go),
            ("READY", "d2", Verdict::Wait),
            ("STOPPED", "d1", Verdict::Wait),
            ("NO_DOMAIN", "", Verdict::Wait),
            (NOT_INSTALLED, "d2", Verdict::Go),
        ] {
            assert_eq!(report(state, of).verdict("d1"), verdict, "{state} {of}");
        }
    }

    #[test]
    fn a_report_survives_its_line_and_strangers_are_no_report() {
        let report = Report {
            state: "READY".to_owned(),
            clique: "c.1".to_owned(),
            domain: "d1".to_owned(),
            epoch: 4,
            unreachable: vec!["b".to_owned()],
            message: "a\nb".to_owned(),
        };
        let line = report.line();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(Report::parse(&line), Some(report));
        assert_eq!(Report::parse("READY"), None);
        assert_eq!(Report::parse("{}"), None);
    }
}
