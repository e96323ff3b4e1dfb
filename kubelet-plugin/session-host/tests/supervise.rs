//! The supervisor with programs that stand in for `nvidia-imex` and `nvidia-imex-ctl`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tessera_session::Report;
use tessera_session::config::{Ports as Numbers, Security, Tls};
use tessera_session::decide::Wanted;
use tessera_session::testing::{known_by, of_domains, roster};
use tessera_session_host::files::Files;
use tessera_session_host::metrics::Metrics;
use tessera_session_host::supervise::{Ports, supervise};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longest time that anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A node whose driver is a few scripts.
struct Machine {
    root: TempDir,
    security: Security,
    wanted: watch::Sender<Wanted>,
    reports: watch::Receiver<Report>,
    told: watch::Sender<Report>,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("hosts"), "127.0.0.1 localhost\n").unwrap();
        let (wanted, _) = watch::channel(Wanted::Unknown);
        let (told, reports) = watch::channel(Report::default());
        Self {
            root,
            security: Security::Open,
            wanted,
            reports,
            told,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Installs the programs: a daemon that writes what it is told, and one that answers for it.
    fn install(&self) {
        let log = self.path("log");
        let log = log.display();
        // Sleeping in the background, so that a signal is heeded at once.
        self.program(
            "nvidia-imex",
            &format!(
                "trap 'echo reload >> {log}' USR1\ntrap 'echo end >> {log}; exit 0' TERM\n\
                 echo start $$ >> {log}\nwhile :; do sleep 0.1 & wait $!; done\n"
            ),
        );
        self.answers(r#"{"1": {"status": "CONNECTED"}}"#);
    }

    /// What the daemon says of its connections.
    fn answers(&self, connections: &str) {
        let all =
            format!(r#"{{"nodes": {{"0": {{"connections": {connections}}}}}, "status": "UP"}}"#);
        self.program(
            "nvidia-imex-ctl",
            &format!("case $1 in -q) echo READY;; *) echo '{all}';; esac\n"),
        );
    }

    fn program(&self, name: &str, text: &str) {
        let folder = self.path("driver/usr/bin");
        fs::create_dir_all(&folder).unwrap();
        let new = folder.join("new");
        fs::write(&new, format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, folder.join(name)).unwrap();
    }

    fn start(&self, stop: &CancellationToken) -> JoinHandle<()> {
        let ports = Ports {
            driver_root: self.path("driver"),
            files: Files::new(
                &self.path("session"),
                &self.path("hosts"),
                Numbers::default(),
                self.security.clone(),
            ),
            wanted: self.wanted.subscribe(),
            reports: self.told.clone(),
            metrics: Metrics::default(),
        };
        tokio::spawn(supervise(ports, stop.clone()))
    }

    /// The peer of the node listens at this address; no address is one that is not known yet.
    fn wants(&self, peer: &str) {
        let roster = roster(1, &[("a", 0, ""), ("b", 1, peer)]);
        self.wanted.send_replace(Wanted::Members(roster));
    }

    async fn says(&self, state: &str) {
        self.reports_that(|report| report.state == state, state)
            .await;
    }

    async fn reports_that(&self, holds: impl Fn(&Report) -> bool, what: &str) {
        let mut reports = self.reports.clone();
        let held = timeout(LIMIT, reports.wait_for(holds)).await;
        assert!(
            held.is_ok(),
            "{what} never came: {:?}",
            self.reports.borrow()
        );
    }

    /// What the daemon has written.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn logs(&self, last: &str, count: usize) {
        for _ in 0..LIMIT.as_millis() / 20 {
            let log = self.log();
            if log.iter().filter(|line| line.starts_with(last)).count() >= count {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{count} times {last:?} never came: {:?}", self.log());
    }

    /// The process of the daemon that was started last.
    fn daemon(&self) -> String {
        let log = self.log();
        let started = log
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix("start "));
        started.unwrap().to_owned()
    }
}

fn kill(pid: &str) {
    let killed = std::process::Command::new("kill")
        .args(["-9", pid])
        .status();
    assert!(killed.unwrap().success());
}

fn is_there(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[tokio::test]
async fn a_daemon_is_started_told_of_changes_started_again_and_ended() {
    let machine = Machine::new();
    machine.install();
    let stop = CancellationToken::new();
    let supervising = machine.start(&stop);
    machine.says("UNKNOWN").await;
    machine.wants("");
    machine.says("READY").await;
    let hosts = || fs::read_to_string(machine.path("hosts")).unwrap();
    assert!(hosts().contains("10.0.0.1"), "{}", hosts());

    machine.wants("10.0.0.2");
    machine.logs("reload", 1).await;
    machine.says("READY").await;
    assert!(hosts().contains("10.0.0.2"), "{}", hosts());

    let first = machine.daemon();
    kill(&first);
    machine.logs("start", 2).await;
    machine.says("READY").await;
    assert_ne!(machine.daemon(), first);

    machine.wanted.send_replace(Wanted::Nobody);
    machine.logs("end", 1).await;
    machine.says("NO_CLIQUE").await;
    machine.wants("10.0.0.2");
    machine.logs("start", 3).await;
    machine.says("READY").await;

    stop.cancel();
    timeout(LIMIT, supervising).await.unwrap().unwrap();
    assert_eq!(machine.log().last().unwrap(), "end");
    assert_eq!(machine.reports.borrow().state, "STOPPED");
}

#[tokio::test]
async fn a_node_runs_the_daemon_of_the_domain_that_has_it_and_none_for_nobody() {
    let machine = Machine::new();
    machine.install();
    let stop = CancellationToken::new();
    let supervising = machine.start(&stop);
    let idle = || Wanted::Idle {
        clique: "c.1".to_owned(),
    };
    let of = |domain: &str| {
        let members = [("a", 0, "", domain), ("b", 1, "10.0.0.2", "elsewhere")];
        Wanted::Members(known_by("a", &of_domains(&members)))
    };
    let is_of = |domain: &'static str| {
        move |report: &Report| report.state == "READY" && report.domain == domain
    };
    machine.wanted.send_replace(idle());
    machine.says("NO_DOMAIN").await;
    assert_eq!(machine.reports.borrow().clique, "c.1");
    assert!(machine.log().is_empty());

    machine.wanted.send_replace(of("one"));
    machine
        .reports_that(is_of("one"), "the session of one")
        .await;
    let nodes = || fs::read_to_string(machine.path("session/nodes_config.cfg")).unwrap();
    assert!(nodes().contains("-one-0000"), "{}", nodes());
    let hosts = fs::read_to_string(machine.path("hosts")).unwrap();
    assert!(!hosts.contains("10.0.0.2"), "{hosts}");

    let first = machine.daemon();
    machine.wanted.send_replace(of("two"));
    machine
        .reports_that(is_of("two"), "the session of two")
        .await;
    assert!(nodes().contains("-two-0000"), "{}", nodes());
    assert_ne!(machine.daemon(), first);
    machine.logs("end", 1).await;

    machine.wanted.send_replace(idle());
    machine.logs("end", 2).await;
    machine.says("NO_DOMAIN").await;
    stop.cancel();
    timeout(LIMIT, supervising).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_outlives_its_supervisor_and_the_next_one_goes_on_with_it() {
    let machine = Machine::new();
    machine.install();
    let first = machine.start(&CancellationToken::new());
    machine.wants("");
    machine.says("READY").await;
    let daemon = machine.daemon();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(is_there(&daemon));

    machine.told.send_replace(Report::default());
    let stop = CancellationToken::new();
    let second = machine.start(&stop);
    machine.says("READY").await;
    assert_eq!(machine.daemon(), daemon, "no other was started");
    stop.cancel();
    timeout(LIMIT, second).await.unwrap().unwrap();
    assert_eq!(machine.log().last().unwrap(), "end");
}

#[tokio::test]
async fn a_peer_without_a_connection_is_named_and_the_daemon_told_to_look_again() {
    let machine = Machine::new();
    machine.install();
    machine.answers("{}");
    let stop = CancellationToken::new();
    let supervising = machine.start(&stop);
    machine.wants("10.0.0.2");
    machine
        .reports_that(|report| report.unreachable == ["b"], "an unreachable peer")
        .await;
    machine.logs("reload", 1).await;
    machine.answers(r#"{"1": {"status": "CONNECTED"}}"#);
    machine
        .reports_that(
            |report| report.state == "READY" && report.unreachable.is_empty(),
            "a peer",
        )
        .await;
    stop.cancel();
    timeout(LIMIT, supervising).await.unwrap().unwrap();
}

#[tokio::test]
async fn credentials_are_waited_for_and_renewed_ones_are_read_again() {
    let mut machine = Machine::new();
    machine.install();
    machine.security = Security::Tls(Tls::in_directory(&machine.path("tls"), "nvidia-imex"));
    let stop = CancellationToken::new();
    let supervising = machine.start(&stop);
    machine.wants("10.0.0.2");
    let missing = |report: &Report| report.message.contains("tls.key");
    machine.reports_that(missing, "missing credentials").await;
    fs::create_dir(machine.path("tls")).unwrap();
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        fs::write(machine.path("tls").join(name), "first").unwrap();
    }
    machine.says("READY").await;
    let config = fs::read_to_string(machine.path("session/config.cfg")).unwrap();
    assert!(
        config.contains("\nIMEX_AUTH_ENCRYPTION_MODE=SSL_TLS\n"),
        "{config}"
    );
    let daemon = machine.daemon();
    let renewed = machine.path("renewed");
    fs::write(&renewed, "second").unwrap();
    fs::rename(renewed, machine.path("tls/tls.crt")).unwrap();
    machine.logs("reload", 1).await;
    assert_eq!(machine.daemon(), daemon, "no other was started");
    stop.cancel();
    timeout(LIMIT, supervising).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_the_programs_nothing_is_done_until_they_are_there() {
    let machine = Machine::new();
    let stop = CancellationToken::new();
    let supervising = machine.start(&stop);
    machine.wants("");
    machine.says("NOT_INSTALLED").await;
    assert!(machine.reports.borrow().message.contains("nvidia-imex"));
    machine.install();
    machine.says("READY").await;
    stop.cancel();
    timeout(LIMIT, supervising).await.unwrap().unwrap();
}
