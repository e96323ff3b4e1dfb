//! A daemon: its ports, and one thread for each peer that it calls.
//!
//! A peer that does not answer is called again after 15, 31, 62 and then every 125 seconds, so that one
//! which starts late may be picked up minutes later; `SIGUSR1` calls all of them anew.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, TcpListener},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    config::{Config, Credentials},
    nodes::{Nodes, NodesError, address},
    peer::{Alive, Greeting, Link, Meeting, VERSION},
    state::{Connection, DaemonState, Session},
    status::{self, Status},
};

/// How fast things happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Pauses before each further call of a peer that does not answer; the last repeats.
    pub retries: Vec<Duration>,
    /// Time between two signs of life.
    pub heartbeat: Duration,
    /// How long one call or answer may take.
    pub patience: Duration,
    /// How often `SIGUSR1` is heeded at most.
    pub reload: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            retries: [15, 31, 62, 125].map(Duration::from_secs).to_vec(),
            heartbeat: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            reload: Duration::from_secs(5),
        }
    }
}

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is in no domain.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// A file of the credentials cannot be used.
    #[error("read the credentials in {path}")]
    Credentials {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A port or socket cannot be opened.
    #[error("open {what}")]
    Open {
        /// Which.
        what: String,
        /// What the system says.
        source: io::Error,
    },
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    shared: Arc<Shared>,
    pace: Pace,
}

#[derive(Debug)]
struct Shared {
    session: Mutex<Session>,
    wake: Condvar,
    /// How often peers were to be called anew.
    calls: Mutex<(u64, Option<Instant>)>,
    /// With the credentials as they were last read.
    greeting: Mutex<Greeting>,
    own: usize,
    nodes: u32,
    credentials: Option<Credentials>,
    persisted: PathBuf,
    command_socket: Option<PathBuf>,
}

impl Daemon {
    /// Opens the ports and begins to call the peers. `state` is the directory of `persist.dat`.
    pub fn start(config: &Config, state: &Path, pace: Pace) -> Result<Self, StartError> {
        let nodes = Nodes::load(&config.nodes_file)?;
        let own = nodes.own_index(config.bind.as_deref())?;
        let persisted = state.join("persist.dat");
        let importers = importers(&persisted, nodes.key());
        let session = Session::new(nodes.names().len(), own, config.quorum, importers);
        let shared = Arc::new(Shared {
            session: Mutex::new(session),
            wake: Condvar::new(),
            calls: Mutex::new((0, None)),
            greeting: Mutex::new(Greeting {
                version: VERSION.to_owned(),
                nodes: nodes.key(),
                index: own,
                security: security(config.credentials.as_ref())?,
            }),
            own,
            nodes: nodes.key(),
            credentials: config.credentials.clone(),
            persisted,
            command_socket: config.command_socket.clone(),
        });
        let daemon = Self { shared, pace };
        daemon.open(config, &nodes)?;
        daemon.shared.change(Session::serves);
        for (peer, name) in nodes.names().iter().enumerate() {
            if peer != own {
                daemon.follow(peer, name.clone(), config);
            }
        }
        Ok(daemon)
    }

    /// What it says of itself.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Calls all peers anew, as `SIGUSR1` asks; says whether it was not too soon after the last time.
    pub fn reload(&self) -> bool {
        let mut calls = lock(&self.shared.calls);
        let (count, last) = *calls;
        if last.is_some_and(|last| last.elapsed() < self.pace.reload) {
            return false;
        }
        *calls = (count + 1, Some(Instant::now()));
        // Credentials that cannot be read leave it with those that it has.
        if let Ok(security) = security(self.shared.credentials.as_ref()) {
            lock(&self.shared.greeting).security = security;
        }
        drop(calls);
        self.shared.wake.notify_all();
        true
    }

    /// Tells the peers that it ends, and forgets who had imported: the end is a clean one.
    pub fn stop(&self) {
        self.shared.change(Session::stops);
        // One question of each peer is answered with the truth.
        thread::sleep(self.pace.heartbeat);
        if let Some(socket) = &self.shared.command_socket {
            let _ = fs::remove_file(socket);
        }
    }

    fn open(&self, config: &Config, nodes: &Nodes) -> Result<(), StartError> {
        let failed = |what: String| move |source| StartError::Open { what, source };
        let own = &nodes.names()[self.shared.own];
        let ip = address(own, 0).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |own| own.ip());
        let port = config.server_port;
        let listener = TcpListener::bind((ip, port)).map_err(failed(format!("port {port}")))?;
        let (shared, patience) = (self.shared.clone(), self.pace.patience);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || {
                    let greeting = shared.greeting();
                    let Ok(mut link) = Link::answer(stream, &greeting, patience) else {
                        return;
                    };
                    if greeting.meets(&link.other) == Meeting::NotTrusted {
                        return;
                    }
                    while link.serve(shared.is_ending()).is_ok() {}
                });
            }
        });
        if let Some(port) = config.command_port {
            let listener =
                TcpListener::bind((ip, port)).map_err(failed(format!("command port {port}")))?;
            let shared = self.shared.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let _ = stream.set_read_timeout(Some(patience));
                    let _ = status::answer(stream, &shared.status());
                }
            });
        }
        if let Some(path) = &config.command_socket {
            let _ = fs::remove_file(path);
            let what = format!("command socket {}", path.display());
            let listener = UnixListener::bind(path).map_err(failed(what))?;
            let shared = self.shared.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let _ = stream.set_read_timeout(Some(patience));
                    let _ = status::answer(stream, &shared.status());
                }
            });
        }
        Ok(())
    }

    /// Keeps a connection to a peer for as long as the process lives.
    fn follow(&self, peer: usize, name: String, config: &Config) {
        let (shared, pace) = (self.shared.clone(), self.pace.clone());
        let port = config.server_port;
        let grace = u64::try_from(config.grace_seconds)
            .ok()
            .map(Duration::from_secs);
        thread::spawn(move || {
            let mut failures = 0;
            let mut lost = None;
            loop {
                let calls = lock(&shared.calls).0;
                // Names are resolved anew at each call.
                let greeting = shared.greeting();
                let link = address(&name, port)
                    .ok_or_else(|| io::ErrorKind::NotFound.into())
                    .and_then(|address| Link::call(address, &greeting, pace.patience))
                    .and_then(|link| trusted(link, &greeting));
                if let Ok(link) = link {
                    failures = 0;
                    let end = shared.talk(peer, link, &pace, calls);
                    shared.change(|session| session.set(peer, end));
                    lost = Some(Instant::now());
                    if lock(&shared.calls).0 != calls {
                        continue;
                    }
                }
                if let (Some(grace), Some(since)) = (grace, lost)
                    && Instant::elapsed(&since) >= grace
                {
                    shared.change(|session| session.set(peer, Connection::Disconnected));
                }
                let pause = pace.retries.get(failures).or(pace.retries.last());
                failures += 1;
                shared.pause(pause.copied().unwrap_or_default(), calls);
            }
        });
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Session)) {
        // The session stays locked until the file says the same, so that of two changes the later
        // one is what is kept, and nobody sees a connection that a crash would forget.
        let mut session = lock(&self.session);
        change(&mut session);
        if session.state() == DaemonState::ShuttingDown {
            // A clean end leaves nothing to recover from.
            let _ = fs::remove_file(&self.persisted);
            return;
        }
        let importers: Vec<String> = session.importers().map(|peer| peer.to_string()).collect();
        let text = format!("{:08x} {}\n", self.nodes, importers.join(" "));
        // A daemon that cannot write it recovers from nothing, as one whose file was lost.
        let new = self.persisted.with_extension("new");
        let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.persisted));
    }

    fn greeting(&self) -> Greeting {
        lock(&self.greeting).clone()
    }

    fn is_ending(&self) -> bool {
        lock(&self.session).state() == DaemonState::ShuttingDown
    }

    fn status(&self) -> Status {
        let session = lock(&self.session);
        Status {
            state: session.state(),
            index: session.own(),
            connections: session.connections().to_vec(),
            version: VERSION.to_owned(),
        }
    }

    /// Talks to a peer until the connection ends, and returns what it is then.
    fn talk(&self, peer: usize, mut link: Link, pace: &Pace, calls: u64) -> Connection {
        match self.greeting().meets(&link.other) {
            Meeting::OtherVersion => return Connection::VersionMismatch,
            Meeting::OtherNodes => return Connection::NodeMapMismatch,
            // They were renewed in this moment.
            Meeting::NotTrusted => return Connection::Recovering,
            Meeting::Same => {}
        }
        loop {
            match link.ask() {
                Ok(Alive::Yes) => self.change(|session| session.set(peer, Connection::Connected)),
                Ok(Alive::Ending) => return Connection::Disconnected,
                Err(_) => return Connection::Recovering,
            }
            if self.pause(pace.heartbeat, calls) {
                return Connection::Recovering;
            }
        }
    }

    /// Sleeps; says whether peers are to be called anew.
    fn pause(&self, time: Duration, calls: u64) -> bool {
        let guard = lock(&self.calls);
        let (guard, _) = self
            .wake
            .wait_timeout_while(guard, time, |(now, _)| *now == calls)
            .unwrap_or_else(PoisonError::into_inner);
        guard.0 != calls
    }
}

/// What stands for credentials when daemons meet: two that have the same authority, and expect the same name, trust each
/// other. No certificate is checked, and nothing is encrypted.
fn security(credentials: Option<&Credentials>) -> Result<u32, StartError> {
    let Some(credentials) = credentials else {
        return Ok(0);
    };
    let mut authorities = Vec::new();
    for [key, certificate, authority] in [&credentials.server, &credentials.client] {
        for path in [key, certificate, authority] {
            let read = fs::read(path).and_then(|text| {
                let empty = || io::Error::from(io::ErrorKind::UnexpectedEof);
                (!text.is_empty()).then_some(text).ok_or_else(empty)
            });
            let text = read.map_err(|source| StartError::Credentials {
                path: path.clone(),
                source,
            })?;
            if path == authority {
                authorities.push(text);
            }
        }
    }
    let target = credentials.target.clone().unwrap_or_default();
    authorities.push(target.into_bytes());
    // Never that of a daemon without credentials.
    Ok(crc32fast::hash(&authorities.join(&0)).max(1))
}

/// As with TLS, a connection to somebody who is not trusted does not come about.
fn trusted(link: Link, own: &Greeting) -> io::Result<Link> {
    match own.meets(&link.other) {
        Meeting::NotTrusted => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(link),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The peers that had imported memory at the end of the process before, if that ended uncleanly and with
/// the same nodes file.
fn importers(path: &Path, key: u32) -> BTreeSet<usize> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut words = text.split_whitespace();
    let same = words.next() == Some(format!("{key:08x}").as_str());
    words
        .filter(|_| same)
        .filter_map(|word| word.parse().ok())
        .collect()
}
