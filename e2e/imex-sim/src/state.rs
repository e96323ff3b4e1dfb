//! What a daemon is and what it knows of its peers. Nothing here waits or asks anybody.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::config::Quorum;

/// The state of one daemon, as `nvidia-imex-ctl -q` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DaemonState {
    /// It reads its configuration and opens its ports.
    Initializing,
    /// It ended uncleanly, and peers that had imported memory are not back yet.
    WaitingForRecovery,
    /// It serves.
    Ready,
    /// It was told to end.
    ShuttingDown,
    /// It cannot be asked. Nobody says so of itself.
    Unavailable,
}

impl fmt::Display for DaemonState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initializing => "INITIALIZING",
            Self::WaitingForRecovery => "WAITING_FOR_RECOVERY",
            Self::Ready => "READY",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Unavailable => "UNAVAILABLE",
        })
    }
}

/// How a daemon is connected to a peer. The letter is that of the connectivity table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Connection {
    /// Nothing is known: the daemon whose row it is was not reached.
    Invalid,
    /// It has not been connected yet.
    NeverConnected,
    /// The connection was lost, and nothing has been cleaned up yet.
    Recovering,
    /// The connection was lost for longer than the grace time, or the peer said that it ends.
    Disconnected,
    /// The peer is of another version.
    VersionMismatch,
    /// The peer's nodes file is another one.
    NodeMapMismatch,
    /// It is connected.
    Connected,
}

impl Connection {
    /// The mark in the table.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Invalid => "I",
            Self::NeverConnected => "N",
            Self::Recovering => "R",
            Self::Disconnected => "D",
            Self::VersionMismatch => "!V!",
            Self::NodeMapMismatch => "!M!",
            Self::Connected => "C",
        }
    }
}

/// The state of the domain as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DomainState {
    /// Every daemon is ready and connected to every other.
    Up,
    /// Some are.
    Degraded,
    /// None is ready.
    Down,
}

impl fmt::Display for DomainState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "UP",
            Self::Degraded => "DEGRADED",
            Self::Down => "DOWN",
        })
    }
}

/// The state of the domain, from what its daemons say of themselves and of their connections.
pub fn domain(rows: &[(DaemonState, Vec<Connection>)]) -> DomainState {
    let ready = |(state, _): &&(DaemonState, Vec<Connection>)| *state == DaemonState::Ready;
    let connected = |(_, row): &(DaemonState, Vec<Connection>)| {
        row.iter()
            .all(|connection| *connection == Connection::Connected)
    };
    match rows.iter().filter(ready).count() {
        0 => DomainState::Down,
        count if count == rows.len() && rows.iter().all(connected) => DomainState::Up,
        _ => DomainState::Degraded,
    }
}

/// A daemon's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    own: usize,
    connections: Vec<Connection>,
    awaited: BTreeSet<usize>,
    serving: bool,
    stopping: bool,
}

impl Session {
    /// The session of member `own` of so many. `importers` are the peers that had imported memory when the
    /// daemon ended uncleanly.
    pub fn new(members: usize, own: usize, quorum: Quorum, importers: BTreeSet<usize>) -> Self {
        let mut connections = vec![Connection::NeverConnected; members];
        if let Some(itself) = connections.get_mut(own) {
            *itself = Connection::Connected;
        }
        let awaited = match quorum {
            Quorum::None => BTreeSet::new(),
            Quorum::Recovery => importers.into_iter().filter(|peer| *peer != own).collect(),
        };
        Self {
            own,
            connections,
            awaited,
            serving: false,
            stopping: false,
        }
    }

    /// The own index.
    pub fn own(&self) -> usize {
        self.own
    }

    /// The ports are open.
    pub fn serves(&mut self) {
        self.serving = true;
    }

    /// It was told to end.
    pub fn stops(&mut self) {
        self.stopping = true;
    }

    /// What has become of the connection to a peer. A lost one that never was is still one that never was.
    pub fn set(&mut self, peer: usize, connection: Connection) {
        let Some(present) = self.connections.get_mut(peer) else {
            return;
        };
        let was_connected = !matches!(
            present,
            Connection::NeverConnected | Connection::VersionMismatch | Connection::NodeMapMismatch
        );
        match connection {
            Connection::Recovering | Connection::Disconnected if !was_connected => {}
            connection => *present = connection,
        }
        if connection == Connection::Connected {
            self.awaited.remove(&peer);
        }
    }

    /// The connections, by index.
    pub fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// The peers that have a connection: what is kept for the case of an unclean end.
    pub fn importers(&self) -> impl Iterator<Item = usize> {
        let own = self.own;
        let connected = self.connections.iter().enumerate();
        connected
            .filter(move |(peer, connection)| *peer != own && **connection == Connection::Connected)
            .map(|(peer, _)| peer)
            .chain(self.awaited.iter().copied())
    }

    /// The state.
    pub fn state(&self) -> DaemonState {
        match (self.stopping, self.serving, self.awaited.is_empty()) {
            (true, _, _) => DaemonState::ShuttingDown,
            (_, false, _) => DaemonState::Initializing,
            (_, true, false) => DaemonState::WaitingForRecovery,
            (_, true, true) => DaemonState::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(importers: &[usize]) -> Session {
        let importers = importers.iter().copied().collect();
        let mut session = Session::new(3, 0, Quorum::Recovery, importers);
        assert_eq!(session.state(), DaemonState::Initializing);
        session.serves();
        session
    }

    #[test]
    fn a_daemon_is_ready_without_its_peers_unless_it_ended_uncleanly() {
        assert_eq!(session(&[]).state(), DaemonState::Ready);
        let mut recovering = session(&[1, 2]);
        assert_eq!(recovering.state(), DaemonState::WaitingForRecovery);
        recovering.set(1, Connection::Connected);
        assert_eq!(recovering.state(), DaemonState::WaitingForRecovery);
        recovering.set(2, Connection::Connected);
        assert_eq!(recovering.state(), DaemonState::Ready);
        recovering.set(2, Connection::Recovering);
        assert_eq!(recovering.state(), DaemonState::Ready);
        recovering.stops();
        assert_eq!(recovering.state(), DaemonState::ShuttingDown);
        let ignoring = Session::new(3, 0, Quorum::None, BTreeSet::from([1]));
        assert!(ignoring.importers().next().is_none());
    }

    #[test]
    fn a_domain_is_up_when_all_are_connected_and_down_when_none_is_ready() {
        use Connection::{Connected as C, NeverConnected as N};
        use DaemonState::{Ready, Unavailable};
        for (rows, expected) in [
            (
                vec![(Ready, vec![C, C]), (Ready, vec![C, C])],
                DomainState::Up,
            ),
            (
                vec![(Ready, vec![C, N]), (Ready, vec![C, C])],
                DomainState::Degraded,
            ),
            (
                vec![(Ready, vec![C, C]), (Unavailable, vec![])],
                DomainState::Degraded,
            ),
            (
                vec![(Unavailable, vec![]), (Unavailable, vec![])],
                DomainState::Down,
            ),
        ] {
            assert_eq!(domain(&rows), expected, "{rows:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_never_connected_is_never_said_to_be_lost(
            changes in prop::collection::vec((0usize..4, 0u8..3), 0..20)
        ) {
            let mut session = session(&[]);
            let mut seen = BTreeSet::new();
            for (peer, change) in changes {
                let connection = match change {
                    0 => Connection::Connected,
                    1 => Connection::Recovering,
                    _ => Connection::Disconnected,
                };
                session.set(peer, connection);
                if connection == Connection::Connected {
                    seen.insert(peer);
                }
                for (peer, now) in session.connections().iter().enumerate().skip(1) {
                    prop_assert_eq!(*now == Connection::NeverConnected, !seen.contains(&peer));
                }
            }
        }
    }
}
