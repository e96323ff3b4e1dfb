//! Daemons on the loopback addresses of this machine, each with a nodes file of its own.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use imex_sim::{
    config::{Config, Credentials, Quorum},
    daemon::{Daemon, Pace},
    state::{Connection, DaemonState},
    status,
};
use tempfile::TempDir;

/// No two tests may have a port in common.
static PORT: AtomicU16 = AtomicU16::new(0);

/// A machine of a domain: an address of the loopback network.
struct Machine {
    directory: TempDir,
    config: Config,
}

fn fast() -> Pace {
    Pace {
        retries: vec![Duration::from_millis(20)],
        heartbeat: Duration::from_millis(20),
        patience: Duration::from_secs(2),
        reload: Duration::from_secs(5),
    }
}

/// Machines with the addresses 127.0.0.2 and up, whose nodes files list all of them.
fn machines(count: u8) -> Vec<Machine> {
    let base = 20_000 + u16::try_from(std::process::id() % 20_000).unwrap();
    let port = base + PORT.fetch_add(2, Ordering::Relaxed);
    let address = |at: u8| format!("127.0.0.{}", at + 2);
    let nodes: Vec<String> = (0..count).map(address).collect();
    (0..count)
        .map(|at| {
            let directory = tempfile::tempdir().unwrap();
            let nodes_file = directory.path().join("nodes_config.cfg");
            std::fs::write(&nodes_file, nodes.join("\n") + "\n").unwrap();
            Machine {
                config: Config {
                    server_port: port,
                    command_port: Some(port + 1),
                    command_socket: Some(directory.path().join("cmd.sock")),
                    bind: Some(address(at)),
                    nodes_file,
                    quorum: Quorum::Recovery,
                    grace_seconds: -1,
                    credentials: None,
                },
                directory,
            }
        })
        .collect()
}

impl Machine {
    fn start(&self, pace: Pace) -> Daemon {
        Daemon::start(&self.config, self.directory.path(), pace).unwrap()
    }

    /// Gives it a key and a certificate of this authority.
    fn trusts(&mut self, authority: &str) {
        let files = [("key", "key"), ("crt", "certificate"), ("ca", authority)];
        let paths = files.map(|(name, text)| {
            let path = self.directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        self.config.credentials = Some(Credentials {
            server: paths.clone(),
            client: paths,
            target: Some("nvidia-imex".to_owned()),
        });
    }

    fn persisted(&self) -> PathBuf {
        self.directory.path().join("persist.dat")
    }
}

/// Waits until it holds; a test that waits for nothing ends at the limit.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < limit, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn connected(daemon: &Daemon) -> usize {
    let status = daemon.status();
    let all = status.connections.iter();
    all.filter(|connection| **connection == Connection::Connected)
        .count()
}

#[test]
fn daemons_are_ready_at_once_and_find_each_other() {
    let machines = machines(3);
    let first = machines[0].start(fast());
    assert_eq!(first.status().state, DaemonState::Ready);
    assert_eq!(connected(&first), 1);
    let others: Vec<_> = machines[1..]
        .iter()
        .map(|machine| machine.start(fast()))
        .collect();
    for daemon in others.iter().chain([&first]) {
        eventually("all are connected", || connected(daemon) == 3);
    }
    let socket = machines[1].config.command_socket.clone().unwrap();
    let asked = status::ask_at(&socket, Duration::from_secs(2)).unwrap();
    assert_eq!((asked.state, asked.index), (DaemonState::Ready, 1));
    let address = format!("127.0.0.4:{}", machines[2].config.command_port.unwrap());
    let asked = status::ask(address.parse().unwrap(), Duration::from_secs(2)).unwrap();
    assert_eq!(asked.connections, [Connection::Connected; 3]);
}

#[test]
fn a_peer_that_ends_cleanly_is_disconnected_and_forgotten() {
    let machines = machines(2);
    let (first, second) = (machines[0].start(fast()), machines[1].start(fast()));
    eventually("both are connected", || {
        connected(&first) == 2 && connected(&second) == 2
    });
    second.stop();
    eventually("the end is noticed", || {
        first.status().connections[1] == Connection::Disconnected
    });
    assert_eq!(second.status().state, DaemonState::ShuttingDown);
    assert!(!machines[1].persisted().exists());
    assert_eq!(first.status().state, DaemonState::Ready);
}

#[test]
fn a_peer_with_another_nodes_file_is_not_talked_to() {
    let machines = machines(2);
    std::fs::write(&machines[1].config.nodes_file, "127.0.0.3\n127.0.0.2\n").unwrap();
    let (first, _second) = (machines[0].start(fast()), machines[1].start(fast()));
    eventually("the difference is noticed", || {
        first.status().connections[1] == Connection::NodeMapMismatch
    });
}

#[test]
fn daemons_talk_to_those_of_their_authority_and_to_no_others() {
    let mut machines = machines(4);
    for (machine, authority) in machines.iter_mut().zip(["one", "one", "another"]) {
        machine.trusts(authority);
    }
    let daemons: Vec<_> = machines
        .iter()
        .map(|machine| machine.start(fast()))
        .collect();
    eventually("the two of one authority are connected", || {
        connected(&daemons[0]) == 2 && connected(&daemons[1]) == 2
    });
    // Each has called the others meanwhile.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(connected(&daemons[2]), 1, "of another authority");
    assert_eq!(connected(&daemons[3]), 1, "without TLS");
    let alone = daemons[0].status().connections;
    assert_eq!(alone[2..], [Connection::NeverConnected; 2]);

    // It gets a certificate of theirs, and is told so.
    machines[2].trusts("one");
    assert!(daemons[2].reload());
    eventually("the third is trusted", || connected(&daemons[2]) == 3);
    std::fs::remove_file(machines[1].directory.path().join("key")).unwrap();
    let refused = Daemon::start(&machines[1].config, machines[1].directory.path(), fast());
    assert!(refused.unwrap_err().to_string().contains("credentials"));
}

#[test]
fn after_an_unclean_end_a_daemon_waits_for_the_peers_that_it_had() {
    let machines = machines(2);
    let key = {
        let first = machines[0].start(fast());
        let second = machines[1].start(fast());
        eventually("both are connected", || connected(&first) == 2);
        second.stop();
        std::fs::read_to_string(machines[0].persisted()).unwrap()
    };
    // The first one's threads live on in this process, so the next life is on other ports.
    let next = self::machines(2);
    let key = key.split_whitespace().next().unwrap();
    std::fs::write(next[0].persisted(), format!("{key} 1\n")).unwrap();
    let first = next[0].start(fast());
    assert_eq!(first.status().state, DaemonState::WaitingForRecovery);
    let _second = next[1].start(fast());
    eventually("the peer is back", || {
        first.status().state == DaemonState::Ready
    });
}

#[test]
fn a_late_peer_is_found_only_at_the_next_call_unless_all_are_called_anew() {
    let machines = machines(2);
    let patient = Pace {
        retries: vec![Duration::from_hours(1)],
        ..fast()
    };
    let first = machines[0].start(patient);
    thread::sleep(Duration::from_millis(100));
    let _second = machines[1].start(fast());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(first.status().connections[1], Connection::NeverConnected);
    assert!(first.reload());
    eventually("the peer is found", || connected(&first) == 2);
    assert!(!first.reload(), "the signal is heeded once in five seconds");
}
