//! When a daemon is started, told to look again, and ended.
//!
//! # Guarantees
//! - A daemon that runs with the list of nodes that it should have is never ended, whatever becomes of its
//!   peers: what its exports are used for runs on.
//! - Nothing ends because something is not known: a node whose clique is not known keeps its session.
//! - One that ends by itself is started again, later each time.
//! - One whose credentials are renewed is told to read them (`SIGUSR1`), and not ended.
//! - One whose peers are not all connected is told to look again, because by itself it calls a late peer
//!   only after 15, 31, 62 and then every 125 seconds.

use std::time::Duration;

use crate::roster::{Roster, RosterError};

/// Pause after the first end of a daemon that nobody had told to end.
pub const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause between two starts.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// A daemon that has run for so long was no failed start.
pub const SETTLED: Duration = Duration::from_mins(1);

/// How long a daemon may take to end before it is killed. It tells its peers and undoes its exports.
pub const END_LIMIT: Duration = Duration::from_secs(15);

/// A daemon heeds `SIGUSR1` once in five seconds (NVIDIA's IMEX guide), and forgets one that comes sooner.
pub const RELOAD_PAUSE: Duration = Duration::from_secs(6);

/// Longest pause between two reloads for peers that are not reached: about that of the daemon itself.
pub const LONGEST_RELOAD_PAUSE: Duration = Duration::from_mins(2);

/// Who is to be in the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is not known yet.
    Unknown,
    /// The node is in no clique, and in no session.
    Nobody,
    /// It is in this clique, and in no session: no domain has it.
    Idle {
        /// The clique.
        clique: String,
    },
    /// These.
    Members(Roster),
    /// Members of whom no session can be made.
    Invalid(RosterError),
}

/// What a running daemon goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The list of nodes that it was started with.
    pub nodes_file: String,
    /// The lines of members in the hosts file that it last read.
    pub hosts: String,
    /// Whether it has answered. Before, it may not have its signals in hand, and one would end it.
    pub answers: bool,
    /// When it was last told to look its peers up again.
    pub told: Option<Duration>,
    /// How often it was told so since all peers were connected.
    pub attempts: u32,
    /// Whether a peer that has an address was not connected at the last look.
    pub apart: bool,
    /// Whether the files of its credentials have changed since it read them.
    pub renewed: bool,
}

impl Running {
    /// A daemon of which no more is known than what it was given.
    pub fn new(nodes_file: String, hosts: String) -> Self {
        Self {
            nodes_file,
            hosts,
            answers: false,
            told: None,
            attempts: 0,
            apart: false,
            renewed: false,
        }
    }
}

/// A daemon. Times are since any fixed moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// The driver installation has no such program.
    NotInstalled,
    /// None runs.
    Down {
        /// How often in a row it ended by itself.
        failures: u32,
        /// Since when.
        since: Duration,
    },
    /// It runs.
    Up(Running),
    /// It was told to end, for the members that are wanted or because the process ends.
    Ending {
        /// When.
        since: Duration,
    },
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write configuration, list of nodes and hosts file.
    WriteFiles,
    /// Write the hosts file.
    WriteHosts,
    /// Start the daemon.
    Start,
    /// Tell it to look its peers up, and to read its credentials, again (`SIGUSR1`).
    Reload,
    /// Tell it to end (`SIGTERM`).
    End,
    /// End it (`SIGKILL`).
    Kill,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In this order.
    pub steps: Vec<Step>,
    /// When to decide again, if nothing happens before.
    pub again_at: Option<Duration>,
}

impl Decision {
    fn steps(steps: &[Step]) -> Self {
        Self {
            steps: steps.to_vec(),
            again_at: None,
        }
    }

    fn at(moment: Duration) -> Self {
        Self {
            steps: Vec::new(),
            again_at: Some(moment),
        }
    }
}

/// What is to be done now.
pub fn decide(wanted: &Wanted, daemon: &Daemon, now: Duration) -> Decision {
    match (daemon, wanted) {
        (Daemon::Ending { since }, _) => {
            let limit = since.saturating_add(END_LIMIT);
            if now >= limit {
                Decision::steps(&[Step::Kill])
            } else {
                Decision::at(limit)
            }
        }
        (Daemon::NotInstalled, _)
        | (_, Wanted::Unknown | Wanted::Invalid(_))
        | (Daemon::Down { .. }, Wanted::Nobody | Wanted::Idle { .. }) => Decision::default(),
        (Daemon::Up(_), Wanted::Nobody | Wanted::Idle { .. }) => Decision::steps(&[Step::End]),
        (Daemon::Down { failures, since }, Wanted::Members(_)) => {
            let start = since.saturating_add(pause(*failures));
            if now >= start {
                Decision::steps(&[Step::WriteFiles, Step::Start])
            } else {
                Decision::at(start)
            }
        }
        (Daemon::Up(running), Wanted::Members(roster)) => kept(running, roster, now),
    }
}

fn kept(running: &Running, roster: &Roster, now: Duration) -> Decision {
    if running.nodes_file != roster.nodes_file() {
        return Decision::steps(&[Step::End]);
    }
    let moved = running.hosts != roster.hosts_file("");
    if !running.answers || !(moved || running.renewed || running.apart) {
        return Decision::default();
    }
    let pause = if moved || running.renewed {
        RELOAD_PAUSE
    } else {
        doubled(RELOAD_PAUSE, running.attempts, LONGEST_RELOAD_PAUSE)
    };
    let due = running
        .told
        .map_or(Duration::ZERO, |told| told.saturating_add(pause));
    if now < due {
        return Decision::at(due);
    }
    if moved {
        Decision::steps(&[Step::WriteHosts, Step::Reload])
    } else {
        Decision::steps(&[Step::Reload])
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

/// The time between the end of a daemon and its next start.
pub fn pause(failures: u32) -> Duration {
    let doublings = failures.checked_sub(1);
    doublings.map_or(Duration::ZERO, |times| {
        doubled(FIRST_PAUSE, times, LONGEST_PAUSE)
    })
}

/// How often in a row a daemon ended by itself, with this end: one that had `settled` begins anew.
pub fn failures_with(before: u32, ran: Duration) -> u32 {
    if ran >= SETTLED {
        1
    } else {
        before.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{known_by, of_domains, roster};

    fn running(roster: &Roster, told: Option<Duration>) -> Running {
        Running {
            answers: true,
            told,
            ..Running::new(roster.nodes_file(), roster.hosts_file(""))
        }
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_daemon_is_started_at_once_and_one_that_ended_later_each_time() {
        let wanted = Wanted::Members(roster(1, &[("a", 0, "")]));
        let down = |failures, since| Daemon::Down { failures, since };
        let first = decide(&wanted, &down(0, s(0)), s(0));
        assert_eq!(first.steps, [Step::WriteFiles, Step::Start]);
        for (failures, millis) in [
            (1, 500),
            (2, 1000),
            (3, 2000),
            (8, 60_000),
            (40, 60_000),
            (u32::MAX, 60_000),
        ] {
            let start = s(10) + Duration::from_millis(millis);
            let early = decide(&wanted, &down(failures, s(10)), s(10));
            assert_eq!(early, Decision::at(start), "{failures}");
            let due = decide(&wanted, &down(failures, s(10)), start);
            assert_eq!(due.steps, [Step::WriteFiles, Step::Start]);
        }
        assert_eq!(failures_with(7, SETTLED), 1);
        assert_eq!(failures_with(7, s(2)), 8);
    }

    #[test]
    fn renewed_credentials_are_a_reload_as_soon_as_one_is_heeded() {
        let roster = roster(1, &[("a", 0, ""), ("b", 1, "10.0.0.2")]);
        let renewed = Daemon::Up(Running {
            renewed: true,
            attempts: 5,
            ..running(&roster, Some(s(100)))
        });
        let wanted = Wanted::Members(roster);
        let due = s(100) + RELOAD_PAUSE;
        assert_eq!(decide(&wanted, &renewed, s(101)), Decision::at(due));
        assert_eq!(decide(&wanted, &renewed, due).steps, [Step::Reload]);
    }

    #[test]
    fn a_member_with_another_address_is_a_reload_and_no_restart() {
        let before = roster(1, &[("a", 0, ""), ("b", 1, "10.0.0.2")]);
        let after = Wanted::Members(roster(
            2,
            &[("a", 0, ""), ("b", 1, "10.0.0.9"), ("c", 2, "10.0.0.3")],
        ));
        let told = Daemon::Up(running(&before, Some(s(100))));
        assert_eq!(
            decide(&after, &told, s(101)),
            Decision::at(s(100) + RELOAD_PAUSE)
        );
        let due = decide(&after, &told, s(100) + RELOAD_PAUSE);
        assert_eq!(due.steps, [Step::WriteHosts, Step::Reload]);
        let never = Daemon::Up(running(&before, None));
        assert_eq!(
            decide(&after, &never, s(0)).steps,
            [Step::WriteHosts, Step::Reload]
        );
        let silent = Running {
            answers: false,
            ..running(&before, None)
        };
        assert_eq!(
            decide(&after, &Daemon::Up(silent), s(99)),
            Decision::default()
        );
    }

    #[test]
    fn a_peer_that_is_not_reached_is_looked_up_again_less_often_each_time() {
        let roster = roster(1, &[("a", 0, ""), ("b", 1, "10.0.0.2")]);
        let wanted = Wanted::Members(roster.clone());
        for (attempts, seconds) in [(0, 6), (1, 12), (4, 96), (5, 120), (99, 120)] {
            let apart = Running {
                attempts,
                apart: true,
                ..running(&roster, Some(s(10)))
            };
            let daemon = Daemon::Up(apart);
            assert_eq!(
                decide(&wanted, &daemon, s(10)),
                Decision::at(s(10 + seconds))
            );
            assert_eq!(
                decide(&wanted, &daemon, s(10 + seconds)).steps,
                [Step::Reload]
            );
        }
    }

    #[test]
    fn another_list_of_nodes_needs_another_daemon() {
        let before = roster(1, &[("a", 0, "")]);
        let after = Wanted::Members(roster(2, &[("a", 0, ""), ("b", 18, "10.0.0.2")]));
        assert_eq!(
            decide(&after, &Daemon::Up(running(&before, None)), s(2)).steps,
            [Step::End]
        );
        let ending = Daemon::Ending { since: s(2) };
        assert_eq!(
            decide(&after, &ending, s(3)),
            Decision::at(s(2) + END_LIMIT)
        );
        assert_eq!(
            decide(&after, &ending, s(2) + END_LIMIT).steps,
            [Step::Kill]
        );
    }

    #[test]
    fn a_node_that_left_its_clique_has_no_session_and_one_of_which_nothing_is_known_keeps_it() {
        let roster = roster(1, &[("a", 0, "")]);
        let daemon = Daemon::Up(running(&roster, None));
        assert_eq!(decide(&Wanted::Nobody, &daemon, s(9)).steps, [Step::End]);
        assert_eq!(decide(&Wanted::Unknown, &daemon, s(9)), Decision::default());
        let down = Daemon::Down {
            failures: 0,
            since: s(0),
        };
        assert_eq!(decide(&Wanted::Unknown, &down, s(9)), Decision::default());
        assert_eq!(decide(&Wanted::Nobody, &down, s(9)), Decision::default());
        let members = Wanted::Members(roster);
        assert_eq!(
            decide(&members, &Daemon::NotInstalled, s(9)),
            Decision::default()
        );
    }

    #[test]
    fn a_domain_that_comes_to_an_idle_node_has_a_daemon_started_and_another_has_another() {
        let of = |domain| known_by("a", &of_domains(&[("a", 0, "", domain)]));
        let idle = Wanted::Idle {
            clique: "c.1".to_owned(),
        };
        let down = Daemon::Down {
            failures: 0,
            since: s(0),
        };
        assert_eq!(decide(&idle, &down, s(9)), Decision::default());
        let one = Wanted::Members(of("one"));
        let started = decide(&one, &down, s(9));
        assert_eq!(started.steps, [Step::WriteFiles, Step::Start]);
        let up = Daemon::Up(running(&of("one"), None));
        assert_eq!(decide(&one, &up, s(9)), Decision::default());
        for gone in [idle, Wanted::Members(of("two"))] {
            assert_eq!(decide(&gone, &up, s(9)).steps, [Step::End]);
        }
    }

    proptest! {
        #[test]
        fn a_daemon_with_the_right_list_is_never_ended(
            epochs in (1i64..9, 1i64..9),
            addresses in prop::collection::vec(prop_oneof![Just(""), Just("10.0.0.7"), Just("x")], 17),
            now in 0u64..1000,
        ) {
            let mut members = vec![("a".to_owned(), 0, String::new())];
            let before = roster(epochs.0, &members);
            let others = (1..).zip(&addresses);
            members.extend(others.map(|(index, address)| (format!("n{index}"), index, (*address).to_owned())));
            let after = Wanted::Members(roster(epochs.1, &members));
            let decision = decide(&after, &Daemon::Up(running(&before, None)), s(now));
            prop_assert!(!decision.steps.contains(&Step::End) && !decision.steps.contains(&Step::Kill));
        }

        #[test]
        fn where_nothing_is_done_now_it_is_known_when_it_is(
            failures in 0u32..50, since in 0u64..100, now in 0u64..200,
        ) {
            let wanted = Wanted::Members(roster(1, &[("a", 0, "")]));
            let now = s(now);
            let decision = decide(&wanted, &Daemon::Down { failures, since: s(since) }, now);
            match decision.again_at {
                Some(moment) => {
                    prop_assert!(moment > now && decision.steps.is_empty());
                    let later = decide(&wanted, &Daemon::Down { failures, since: s(since) }, moment);
                    prop_assert!(later.steps.contains(&Step::Start));
                }
                None => prop_assert!(!decision.steps.is_empty()),
            }
        }
    }
}
