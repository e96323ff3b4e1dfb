//! The first process: mounts, waits for its network, starts the parts, starts them again, and ends everything.

use std::fs;
use std::io::{self, BufRead as _};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, setsid, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::parts::Parts;
use super::{InitError, KEEP, Mount, Plan, START, Status};
use crate::causes::with_causes;
use crate::cgroup;

/// How long a part may be late to its start: the pace at which sockets are looked for.
const PACE: Duration = Duration::from_millis(50);
/// How long the kernel gets to end the killed processes.
const END_LIMIT: Duration = Duration::from_secs(20);

enum Event {
    Start,
    Keep,
    InputEnded,
    ChildEnded,
    Stop,
}

/// Runs a plan until it is told to stop, and leaves no process behind, whatever the outcome.
pub fn run(plan_file: &Path) -> Result<(), InitError> {
    // What follows changes every mount that it sees, which must not be the machine's.
    if std::process::id() != 1 {
        return Err(InitError::NotFirst);
    }
    // A session of its own: a Ctrl-C in the terminal is for whoever started this, who then says what to do.
    let _ = setsid();
    let plan = Plan::read(plan_file)?;
    let outcome = listen().and_then(|events| prepare(&plan).and_then(|()| tend(&plan, &events)));
    end(&plan);
    if let Err(error) = &outcome {
        let status = Status {
            failure: Some(with_causes(error)),
            ..Status::default()
        };
        if let Err(error) = status.write(&plan.status) {
            eprintln!("write {}: {error}", plan.status.display());
        }
    }
    outcome
}

fn listen() -> Result<Receiver<Event>, InitError> {
    let (sender, events) = mpsc::channel();
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM]).map_err(InitError::Signals)?;
    let from_signals = sender.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            let event = if signal == SIGCHLD {
                Event::ChildEnded
            } else {
                Event::Stop
            };
            if from_signals.send(event).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || read_orders(&sender));
    Ok(events)
}

fn read_orders(sender: &Sender<Event>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let event = match line.as_str() {
            START => Event::Start,
            KEEP => Event::Keep,
            _ => continue,
        };
        if sender.send(event).is_err() {
            return;
        }
    }
    // The receiver is gone only when everything ends anyway.
    let _ = sender.send(Event::InputEnded);
}

fn prepare(plan: &Plan) -> Result<(), InitError> {
    let failed = |at: &Path| {
        let at = at.to_owned();
        move |source: io::Error| InitError::Mount { at, source }
    };
    let root = Path::new("/");
    let change =
        |flags| mount_change("/", flags | MountPropagationFlags::REC).map_err(io::Error::from);
    // Private first, so that no mount of the node reaches the machine; then shared within, as on a real node, so that
    // pods can ask for propagation.
    change(MountPropagationFlags::PRIVATE).map_err(failed(root))?;
    change(MountPropagationFlags::SHARED).map_err(failed(root))?;
    for wanted in &plan.mounts {
        make(wanted).map_err(failed(wanted.at()))?;
    }
    let name = &plan.host_name;
    rustix::system::sethostname(name.as_bytes()).map_err(|error| InitError::HostName {
        name: name.clone(),
        source: error.into(),
    })
}

impl Mount {
    fn at(&self) -> &Path {
        match self {
            Self::Tmpfs { at } | Self::Proc { at } | Self::Bind { at, .. } => at,
        }
    }
}

fn make(wanted: &Mount) -> io::Result<()> {
    match wanted {
        Mount::Tmpfs { at } => {
            fs::create_dir_all(at)?;
            mount("tmpfs", at, "tmpfs", MountFlags::NOSUID, Some(c"mode=755"))?;
        }
        Mount::Proc { at } => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("proc", at, "proc", flags, None)?;
        }
        Mount::Bind { from, at } => {
            if !from.is_file() {
                fs::create_dir_all(from)?;
                fs::create_dir_all(at)?;
            }
            mount_bind_recursive(from, at)?;
        }
    }
    Ok(())
}

fn tend(plan: &Plan, events: &Receiver<Event>) -> Result<(), InitError> {
    let mut kept = false;
    let mut parts = Parts::new(&[], Instant::now());
    loop {
        if parts.start_due(Instant::now())? {
            note(&parts, plan);
        }
        let event = if parts.any_due() {
            events.recv_timeout(PACE)
        } else {
            events.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match event {
            Ok(Event::Start) => parts = Parts::new(&plan.parts, Instant::now()),
            Ok(Event::Keep) => kept = true,
            Ok(Event::InputEnded) if kept => {}
            Ok(Event::ChildEnded) => reap(&mut parts, plan),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::InputEnded | Event::Stop) | Err(RecvTimeoutError::Disconnected) => {
                return Ok(());
            }
        }
    }
}

fn reap(parts: &mut Parts, plan: &Plan) {
    let mut changed = false;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        changed |= parts.ended(pid.as_raw_pid(), status, Instant::now());
    }
    if changed {
        note(parts, plan);
    }
}

fn note(parts: &Parts, plan: &Plan) {
    // Whoever waits for the status has a deadline and will say that it never came.
    if let Err(error) = parts.status().write(&plan.status) {
        eprintln!("write {}: {error}", plan.status.display());
    }
}

/// Kills every process of the namespace, containers included, and removes their cgroups.
fn end(plan: &Plan) {
    let deadline = Instant::now() + END_LIMIT;
    while Instant::now() < deadline {
        let others = others();
        if others.is_empty() {
            break;
        }
        for pid in others {
            // Gone since it was listed, or a zombie that is collected below.
            let _ = kill_process(pid, Signal::KILL);
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        thread::sleep(Duration::from_millis(10));
    }
    if let Some(name) = &plan.cgroup
        && let Err(error) = cgroup::Hierarchies::of_machine().remove(name, deadline)
    {
        eprintln!("{}", with_causes(&error));
    }
}

/// The processes of this namespace but its first. Needs the namespace's own `/proc`.
fn others() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    entries
        .flatten()
        .filter_map(number)
        .filter(|pid| *pid != 1)
        .filter_map(Pid::from_raw)
        .collect()
}
