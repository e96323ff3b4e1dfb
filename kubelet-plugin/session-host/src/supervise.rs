//! Keeps the daemon as it should be.
//!
//! One loop owns the daemon. Each time something happens it asks [`decide()`] what is to be done, does it, and
//! says how the session is. What the daemon is asked meanwhile is the business of [`Questions`].

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use tessera_session::decide::{END_LIMIT, Running, Wanted, failures_with};
use tessera_session::{Daemon, DaemonState, Decision, Report, Roster, SessionState, Step, decide};
use tessera_shell::logging::chain;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::daemon::{Process, Record};
use crate::files::{FileError, Files};
use crate::metrics::Metrics;
use crate::programs::Programs;
use crate::questions::{Answer, Questions};

/// Time between two looks for the programs, where they are missing.
const LOOK_FOR_PROGRAMS: Duration = Duration::from_secs(5);

/// How long to wait after a step that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Why a step was not done.
#[derive(Debug, Error)]
pub enum StepError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The daemon could not be started.
    #[error("start nvidia-imex")]
    Start(#[source] io::Error),
    /// The daemon could not be sent a signal.
    #[error("send nvidia-imex a signal")]
    Signal(#[source] io::Error),
}

/// What the supervisor works with.
#[derive(Debug)]
pub struct Ports {
    /// The driver installation, as this process sees it.
    pub driver_root: PathBuf,
    /// The daemon's files.
    pub files: Files,
    /// Who is to be in the session, and what is wrong with that.
    pub wanted: watch::Receiver<Wanted>,
    /// Where it is said how the session is.
    pub reports: watch::Sender<Report>,
    /// What is counted.
    pub metrics: Metrics,
}

/// The one that owns the daemon.
struct Supervisor {
    ports: Ports,
    begun: Instant,
    programs: Option<Programs>,
    daemon: Daemon,
    process: Option<Process>,
    /// The files of its credentials when it last read them.
    credentials: String,
    /// When the running daemon was started, or found.
    started: Duration,
    /// How often it ended by itself before that.
    failures: u32,
    questions: Questions,
    look_at: Duration,
    /// No step before this, because one failed.
    hold_until: Duration,
    problem: String,
}

/// Supervises the daemon until `stop`, and ends it then.
pub async fn supervise(ports: Ports, stop: CancellationToken) {
    let mut supervisor = Supervisor::new(ports);
    supervisor.adopt();
    while !stop.is_cancelled() {
        supervisor.look_for_programs();
        let next = supervisor.act();
        supervisor.report();
        supervisor.await_something(next, &stop).await;
    }
    supervisor.end().await;
}

impl Supervisor {
    fn new(ports: Ports) -> Self {
        Self {
            ports,
            begun: Instant::now(),
            programs: None,
            daemon: Daemon::NotInstalled,
            process: None,
            credentials: String::new(),
            started: Duration::ZERO,
            failures: 0,
            questions: Questions::new(),
            look_at: Duration::ZERO,
            hold_until: Duration::ZERO,
            problem: String::new(),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Goes on with the daemon of a process before this one.
    fn adopt(&mut self) {
        let Some(record) = Record::load(&self.ports.files.record()) else {
            return;
        };
        let Some(process) = Process::find(&record) else {
            return;
        };
        info!("nvidia-imex runs already; going on with it");
        self.ports.metrics.adopted();
        self.process = Some(process);
        self.credentials = record.credentials;
        self.daemon = Daemon::Up(Running::new(record.nodes_file, record.hosts));
    }

    /// A driver may come late, and another version has other programs.
    fn look_for_programs(&mut self) {
        if self.process.is_some() || self.now() < self.look_at {
            return;
        }
        self.look_at = self.now() + LOOK_FOR_PROGRAMS;
        let found = Programs::find(&self.ports.driver_root).unwrap_or_else(|error| {
            warn!(%error, "the driver installation cannot be looked at");
            None
        });
        let before = self.programs.is_some();
        self.programs = found;
        match (&self.programs, &self.daemon) {
            (None, _) => {
                if before || self.problem.is_empty() {
                    "the driver installation has no nvidia-imex and nvidia-imex-ctl"
                        .clone_into(&mut self.problem);
                    info!(root = %self.ports.driver_root.display(), "{}: there is nothing to supervise", self.problem);
                }
                self.daemon = Daemon::NotInstalled;
            }
            (Some(_), Daemon::NotInstalled) => {
                info!("the driver installation has nvidia-imex");
                self.problem.clear();
                self.daemon = Daemon::Down {
                    failures: 0,
                    since: self.now(),
                };
            }
            (Some(_), _) => {}
        }
    }

    /// Does what is to be done now; says when to look again.
    fn act(&mut self) -> Option<Duration> {
        let now = self.now();
        if now < self.hold_until {
            return Some(self.hold_until);
        }
        self.look_at_credentials();
        let wanted = self.ports.wanted.borrow().clone();
        let Decision { steps, again_at } = decide(&wanted, &self.daemon, now);
        if steps.is_empty() {
            return again_at;
        }
        for step in &steps {
            if let Err(error) = self.step(step, &wanted) {
                self.problem = chain(&error).to_string();
                warn!(?step, error = %self.problem, "not done; it is tried again");
                self.hold_until = now + AFTER_FAILURE;
                return Some(self.hold_until);
            }
        }
        // What follows from it is decided at once.
        Some(now)
    }

    /// The kubelet renews the files of a Secret in their places, and nobody tells of it. While a daemon runs, it is asked
    /// every few seconds, and they are looked at as often.
    fn look_at_credentials(&mut self) {
        let present = self.ports.files.credentials();
        if let Daemon::Up(running) = &mut self.daemon {
            running.renewed = !present.is_empty() && present != self.credentials;
        }
    }

    fn step(&mut self, step: &Step, wanted: &Wanted) -> Result<(), StepError> {
        let files = &self.ports.files;
        match (step, wanted) {
            (Step::WriteFiles, Wanted::Members(roster)) => files.write(roster)?,
            (Step::WriteHosts, Wanted::Members(roster)) => files.write_hosts(roster)?,
            (Step::Start, Wanted::Members(roster)) => self.start(roster)?,
            (Step::Reload, Wanted::Members(roster)) => self.reload(roster)?,
            // Only members have files and a daemon.
            (Step::WriteFiles | Step::WriteHosts | Step::Start | Step::Reload, _) => {}
            (Step::End, _) => {
                info!(
                    "nvidia-imex is told to end: its list of nodes is another one now, or it has none"
                );
                self.signal(Signal::TERM)?;
                self.daemon = Daemon::Ending { since: self.now() };
            }
            (Step::Kill, _) => {
                warn!("nvidia-imex does not end within {END_LIMIT:?} and is killed");
                self.signal(Signal::KILL)?;
                self.daemon = Daemon::Ending { since: self.now() };
            }
        }
        Ok(())
    }

    fn start(&mut self, roster: &Roster) -> Result<(), StepError> {
        let Some(programs) = &self.programs else {
            return Ok(());
        };
        let config = self.ports.files.config();
        let process = Process::start(programs, &config).map_err(StepError::Start)?;
        let (nodes_file, hosts) = (roster.nodes_file(), roster.hosts_file(""));
        info!(
            clique = roster.clique(),
            domain = roster.domain(),
            index = roster.own(),
            epoch = roster.epoch(),
            "nvidia-imex is started"
        );
        self.ports.metrics.started();
        self.credentials = self.ports.files.credentials();
        self.record(&process, &nodes_file, &hosts);
        self.process = Some(process);
        self.daemon = Daemon::Up(Running::new(nodes_file, hosts));
        self.started = self.now();
        self.questions.begin(self.started);
        self.problem.clear();
        Ok(())
    }

    fn reload(&mut self, roster: &Roster) -> Result<(), StepError> {
        // Before the signal: what is renewed after it may not have been read.
        let credentials = self.ports.files.credentials();
        self.signal(Signal::USR1)?;
        self.ports.metrics.reloaded();
        self.credentials = credentials;
        let now = self.now();
        let Daemon::Up(running) = &mut self.daemon else {
            return Ok(());
        };
        running.hosts = roster.hosts_file("");
        running.told = Some(now);
        running.attempts = running.attempts.saturating_add(1);
        let (nodes_file, hosts) = (running.nodes_file.clone(), running.hosts.clone());
        info!(
            epoch = roster.epoch(),
            "nvidia-imex is told to look its peers up again"
        );
        if let Some(process) = &self.process {
            self.record(process, &nodes_file, &hosts);
        }
        self.questions.peers_change(now);
        Ok(())
    }

    /// A record that cannot be written costs the session only if this process dies as well.
    fn record(&self, process: &Process, nodes_file: &str, hosts: &str) {
        let Some(record) = process.record(nodes_file, hosts, &self.credentials) else {
            return;
        };
        if let Err(error) = record.store(&self.ports.files.record()) {
            warn!(error = %chain(&error), "the daemon is not recorded");
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), StepError> {
        let process = self.process.as_ref();
        process.map_or(Ok(()), |process| {
            process.signal(signal).map_err(StepError::Signal)
        })
    }

    /// Says how the session is, if it is not as it was.
    fn report(&mut self) {
        let wanted = self.ports.wanted.borrow();
        let state = SessionState::of(&wanted, &self.daemon, self.questions.said());
        let mut report = Report {
            state: state.to_string(),
            message: self.problem.clone(),
            ..Report::default()
        };
        match &*wanted {
            Wanted::Members(roster) => {
                roster.clique().clone_into(&mut report.clique);
                roster
                    .domain()
                    .unwrap_or_default()
                    .clone_into(&mut report.domain);
                report.epoch = roster.epoch();
                if state.is_ready() {
                    report.unreachable = roster.nodes(self.questions.apart().iter().copied());
                }
            }
            Wanted::Invalid(why) => report.message = why.to_string(),
            // Without the epoch of members that are not its own: their changes are no news of this node.
            Wanted::Idle { clique } => clique.clone_into(&mut report.clique),
            Wanted::Unknown | Wanted::Nobody => {}
        }
        drop(wanted);
        self.ports.reports.send_if_modified(|present| {
            if *present == report {
                return false;
            }
            if present.state != report.state || present.unreachable != report.unreachable {
                info!(state = report.state, epoch = report.epoch, unreachable = ?report.unreachable, message = report.message, "the session");
            }
            self.ports.metrics.is(&report);
            *present = report;
            true
        });
    }

    async fn await_something(&mut self, next: Option<Duration>, stop: &CancellationToken) {
        self.ask();
        let own = match &self.process {
            None => Some(self.look_at),
            Some(_) => self.questions.due(),
        };
        let wake = next.into_iter().chain(own).min();
        let due = self.begun + wake.unwrap_or_default();
        tokio::select! {
            () = stop.cancelled() => {}
            Ok(()) = self.ports.wanted.changed() => {}
            () = ended(self.process.as_ref()) => self.has_ended(),
            answer = self.questions.answered() => self.heard(answer),
            () = sleep_until(due), if wake.is_some() => {}
        }
    }

    fn ask(&mut self) {
        let now = self.now();
        if self.process.is_none() || self.questions.due().is_none_or(|due| now < due) {
            return;
        }
        if self.programs.is_none() {
            // A daemon that was found: its driver installation is looked for once more.
            self.programs = Programs::find(&self.ports.driver_root).ok().flatten();
        }
        let Some(programs) = self.programs.clone() else {
            self.questions.put_off(now + LOOK_FOR_PROGRAMS);
            return;
        };
        let config = self.ports.files.config();
        let has_peers = self.roster().as_ref().is_some_and(Roster::has_peers);
        self.questions.ask(programs, config, has_peers, now);
    }

    /// The members that are to be in the session.
    fn roster(&self) -> Option<Roster> {
        match &*self.ports.wanted.borrow() {
            Wanted::Members(roster) => Some(roster.clone()),
            _ => None,
        }
    }

    fn heard(&mut self, answer: Option<Answer>) {
        let roster = self.roster();
        self.questions.hear(answer, roster.as_ref(), self.now());
        if let Daemon::Up(running) = &mut self.daemon {
            running.answers |= *self.questions.said() != DaemonState::Unavailable;
            let has_peers = roster.as_ref().is_some_and(Roster::has_peers);
            running.apart = has_peers && !self.questions.apart().is_empty();
            if !running.apart {
                running.attempts = 0;
            }
        }
    }

    fn has_ended(&mut self) {
        let now = self.now();
        self.process = None;
        self.questions.begin(now);
        self.failures = if matches!(self.daemon, Daemon::Ending { .. }) {
            0
        } else {
            self.ports.metrics.failed();
            failures_with(self.failures, now.saturating_sub(self.started))
        };
        if self.failures > 0 {
            self.problem = format!(
                "nvidia-imex ended by itself, {} times in a row",
                self.failures
            );
            warn!(
                failures = self.failures,
                "nvidia-imex ended; it is started again"
            );
        }
        self.daemon = Daemon::Down {
            failures: self.failures,
            since: now,
        };
        self.look_at = now;
    }

    /// Ends the daemon: with this pod goes its address, and peers are to be told.
    async fn end(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        info!("nvidia-imex is told to end, because this pod does");
        self.daemon = Daemon::Ending { since: self.now() };
        self.report();
        let told = process.signal(Signal::TERM);
        if told.is_err() || timeout(END_LIMIT, process.ended()).await.is_err() {
            warn!("nvidia-imex does not end within {END_LIMIT:?} and is killed");
            let _ = process.signal(Signal::KILL);
        }
        let _ = std::fs::remove_file(self.ports.files.record());
    }
}

/// Waits until the daemon has ended; for ever where there is none.
async fn ended(process: Option<&Process>) {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}
