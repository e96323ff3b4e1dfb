//! A node of its own for each run: directories, the plugin on them, and the API server that it talks to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tessera_hw::{Artifacts, Effect, Injection, Installed, Repeat, TimeSlice};
use tessera_proto::SocketPaths;
use tokio::sync::Mutex;

use crate::api::Api;
use crate::claims::{DRIVER, NODE};
use crate::failure::Failure;
use crate::fuse::{Fuse, Point};
use crate::process::Process;

/// What an end at SIGTERM may take, with what others leave of the processor.
const END: Duration = Duration::from_mins(3);

/// A tmpfs that every Linux has.
const SHARED_MEMORY: &str = "/dev/shm";

/// How much of the plugin's log is shown.
const LAST_WORDS: usize = 12;

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `tessera-kubelet-plugin`.
    pub plugin: PathBuf,
    /// `tessera-cdi-hook`.
    pub hook: PathBuf,
}

/// Where runs take place one after the other: the programs, and a machine with simulated GPUs.
#[derive(Debug)]
pub struct Place {
    programs: Programs,
    pub(crate) driver: Installed,
    /// Where the driver is. Its library is loaded, which not every tmpfs allows.
    _driver_root: TempDir,
    /// Where nodes are.
    root: TempDir,
}

impl Place {
    /// Installs a simulated driver with eight GPUs.
    pub fn new(programs: &Programs, artifacts: &Artifacts) -> Result<Self, Failure> {
        let made = || Failure::io("make", "a directory");
        let driver_root = tempfile::tempdir().map_err(made())?;
        let driver = driver_root.path().join("driver");
        let driver = tessera_hw::install(&driver, "h100", NODE, artifacts)?;
        // What the plugin writes lies on a tmpfs on real nodes as well. The many small files of one run after the other
        // cost a file system on a disk several times as much.
        let root = tempfile::tempdir_in(SHARED_MEMORY).or_else(|_| tempfile::tempdir());
        Ok(Self {
            programs: programs.clone(),
            driver,
            _driver_root: driver_root,
            root: root.map_err(made())?,
        })
    }
}

/// The plugin at present.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) process: Option<Process>,
    pub(crate) registered: bool,
    pub(crate) deaths: usize,
}

/// One node.
#[derive(Debug)]
pub struct Node<'a> {
    place: &'a Place,
    /// What the plugin may write to.
    root: PathBuf,
    /// How long the plugin leaves claims to the kubelet that are gone.
    grace: &'static str,
    pub(crate) api: Api,
    pub(crate) fuse: Arc<Fuse>,
    pub(crate) sockets: SocketPaths,
    pub(crate) running: Mutex<Running>,
    /// The driver was told when to kill.
    doomed: AtomicBool,
    /// GPUs are cut for claims.
    cuts: bool,
    /// Time slices are set for claims.
    sets: bool,
    /// Claims whose record or spec is damaged before anything begins.
    damaged: &'static [&'static str],
}

impl<'a> Node<'a> {
    /// A node on which nothing has run yet, in the directories of the place's former one: CDI specs and the checksums of
    /// records speak of paths, and shall be comparable.
    pub fn new(place: &'a mut Place, fuse: Fuse) -> Result<Self, Failure> {
        let place = &*place;
        let made = || Failure::io("make", "a node's directories");
        // The kernel shows paths of open files as they are, without symbolic links.
        let dir = place.root.path().canonicalize().map_err(made())?;
        let root = dir.join("node");
        if root.exists() {
            fs::remove_dir_all(&root).map_err(made())?;
        }
        for name in ["registrar", "plugins", "state", "cdi"] {
            fs::create_dir_all(root.join(name)).map_err(made())?;
        }
        let (registrar, plugins) = (root.join("registrar"), root.join("plugins"));
        let sockets = SocketPaths::new(&registrar, &plugins, DRIVER, None)
            .map_err(|error| Failure::Sockets(root.clone(), error))?;
        let fuse = Arc::new(fuse);
        let api = Api::start(fuse.clone())?;
        api.put(
            "/api/v1/nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "uid": "node-uid"}}),
        );
        let node = Self {
            place,
            root,
            grace: "2m",
            api,
            fuse,
            sockets,
            running: Mutex::default(),
            doomed: AtomicBool::new(false),
            cuts: false,
            sets: false,
            damaged: &[],
        };
        fs::write(node.kubeconfig(), node.api.kubeconfig()).map_err(made())?;
        fs::write(node.log(), "").map_err(made())?;
        Ok(node)
    }

    /// The plugin takes claims back soon after they are gone from the API.
    pub fn with_grace(&mut self, grace: &'static str) {
        self.grace = grace;
    }

    /// The plugin cuts GPUs when claims need it.
    pub fn with_dynamic_mig(&mut self) {
        self.cuts = true;
    }

    /// The plugin sets time slices when claims ask for them.
    pub fn with_time_slices(&mut self) {
        self.sets = true;
    }

    /// The record or the spec of each of these claims is damaged, and the plugin has to make it anew.
    pub fn with_damaged(&mut self, claims: &'static [&'static str]) {
        self.damaged = claims;
    }

    fn kubeconfig(&self) -> PathBuf {
        self.root.with_file_name("kubeconfig")
    }

    fn log(&self) -> PathBuf {
        self.root.with_file_name("log")
    }

    fn command(&self) -> Result<Command, Failure> {
        let driver = &self.place.driver.root;
        let log = fs::File::options().append(true).open(self.log());
        let log = log.map_err(Failure::io("open", self.log()))?;
        let mut command = Command::new(&self.place.programs.plugin);
        let path = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        command
            .env_clear()
            // One process, so that nobody but the kubelet's stand-in starts another in its place.
            .env("KEEPER", "false")
            .arg(format!("--node-name={NODE}"))
            .arg(format!("--leftover-grace={}", self.grace))
            .arg(format!(
                "--feature-gates=DynamicMIG={},TimeSlicingSettings={}",
                self.cuts, self.sets
            ))
            .arg(path("kubeconfig", &self.kubeconfig()))
            .arg(path("nvidia-driver-root", driver))
            .arg(path("container-driver-root", driver))
            .arg(path("sysfs-root", &driver.join("sys")))
            .arg(path("proc-root", &driver.join("proc")))
            .arg(path("bundled-cdi-hook", &self.place.programs.hook))
            .arg(path("cdi-root", &self.root.join("cdi")))
            .arg(path("state-directory-path", &self.root.join("state")))
            .arg(path(
                "kubelet-registrar-directory-path",
                &self.root.join("registrar"),
            ))
            .arg(path(
                "kubelet-plugins-directory-path",
                &self.root.join("plugins"),
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    /// Starts a plugin that lives.
    pub(crate) fn start(&self) -> Result<Process, Failure> {
        Process::start(self.command()?)
    }

    /// Starts the plugin that is to die, with its points counted from its first instruction or from [`Node::arm`] on.
    pub(crate) async fn start_doomed(&self, from_the_start: bool) -> Result<(), Failure> {
        if from_the_start {
            self.doom()?;
        }
        let (command, root) = (self.command()?, self.root.clone());
        let process = Process::start_traced(command, root, self.fuse.clone(), from_the_start)?;
        let mut running = self.running.lock().await;
        running.process = Some(process);
        running.registered = false;
        Ok(())
    }

    /// Tells the driver at which call to kill, if it is to.
    fn doom(&self) -> Result<(), Failure> {
        if let Some(Point::Nvml(function, n)) = self.fuse.point() {
            let at = u64::try_from(n).unwrap_or(u64::MAX);
            let death = Injection::new(function, at, Repeat::Times(1), Effect::Die);
            let driver = &self.place.driver.state;
            driver.update(|driver| driver.inject(death))?;
            self.doomed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts the points of the running plugin from now on.
    pub(crate) async fn arm(&self) -> Result<(), Failure> {
        self.doom()?;
        if let Some(process) = &self.running.lock().await.process {
            self.fuse.set_to(process.handle()?);
        }
        Ok(())
    }

    /// Ends the plugin as Kubernetes does, and says whether it ended so and was not killed first.
    pub(crate) async fn terminate(&self) -> Result<bool, Failure> {
        let mut running = self.running.lock().await;
        if let Some(mut process) = running.process.take()
            && !process.terminate(END).await?
        {
            return Err(self.late("end at SIGTERM", END));
        }
        let killed = running.deaths == 0 && self.was_killed()?.is_some();
        running.deaths += usize::from(killed);
        Ok(!killed)
    }

    /// Ends the plugin as a power switch does.
    pub(crate) async fn kill(&self) -> Result<(), Failure> {
        match self.running.lock().await.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Whether the death of the plugin was asked for.
    pub(crate) fn was_killed(&self) -> Result<Option<String>, Failure> {
        if let Some(point @ Point::Nvml(..)) = self.fuse.point() {
            if !self.doomed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (_, driver) = self.place.driver.state.read()?;
            let gone = driver.injections.is_empty();
            return Ok(gone.then(|| point.to_string()));
        }
        Ok(self.fuse.burnt())
    }

    /// What took longer than `limit`, and what the plugin says about it.
    pub(crate) fn late(&self, what: &'static str, limit: Duration) -> Failure {
        let last_words = self.last_words();
        Failure::Late {
            what,
            limit,
            last_words,
        }
    }

    /// The end of the plugin's log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }

    /// What the plugin has made of the GPUs and not taken back.
    pub(crate) fn cut(&self) -> Result<Vec<String>, Failure> {
        let (_, driver) = self.place.driver.state.read()?;
        let is_cut = |gpu: &&tessera_hw::Gpu| {
            let mig = &gpu.condition.mig;
            mig.enabled || mig.pending || !mig.instances.is_empty() || !mig.bare.is_empty()
        };
        let cut = driver.gpus.iter().filter(is_cut);
        Ok(cut
            .map(|gpu| format!("MIG on GPU {}: {:?}", gpu.facts.minor, gpu.condition.mig))
            .collect())
    }

    /// The time slices that are not the driver's own.
    pub(crate) fn time_slices(&self) -> Result<Vec<String>, Failure> {
        let (_, driver) = self.place.driver.state.read()?;
        let is_set = |gpu: &&tessera_hw::Gpu| gpu.condition.time_slice != TimeSlice::Default;
        let set = driver.gpus.iter().filter(is_set);
        Ok(set
            .map(|gpu| format!("{:?} on GPU {}", gpu.condition.time_slice, gpu.facts.minor))
            .collect())
    }

    /// Everything that the plugin has left on the node: path and contents. Of a program, its size stands for its contents.
    pub fn files(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut files = BTreeMap::new();
        self.walk(&self.root, &mut files)
            .map_err(Failure::io("look at", &self.root))?;
        Ok(files)
    }

    fn walk(&self, directory: &Path, into: &mut BTreeMap<String, String>) -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                self.walk(&path, into)?;
            } else {
                let name = path.strip_prefix(&self.root).unwrap_or(&path);
                into.insert(name.display().to_string(), self.contents(&path)?);
            }
        }
        Ok(())
    }

    fn contents(&self, path: &Path) -> std::io::Result<String> {
        if fs::symlink_metadata(path)?.file_type().is_socket() {
            return Ok("a socket".to_owned());
        }
        let bytes = fs::read(path)?;
        let size = bytes.len();
        // Its own directory is what differs from node to node.
        let root = self.root.display().to_string();
        let text = String::from_utf8(bytes).map(|text| text.replace(&root, "<node>"));
        Ok(text.unwrap_or_else(|_| format!("{size} bytes")))
    }

    /// Where something of the node lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a claim's record lies.
    pub(crate) fn record(&self, claim: &str) -> PathBuf {
        let file = format!("state/{DRIVER}/claims/{}.record", crate::claims::uid(claim));
        self.root.join(file)
    }

    /// A claim's CDI spec, if it has one.
    pub(crate) fn spec(&self, claim: &str) -> Option<PathBuf> {
        let uid = crate::claims::uid(claim);
        let found = fs::read_dir(self.root.join("cdi")).ok()?.flatten();
        let mut paths = found.map(|entry| entry.path());
        paths.find(|path| is_spec(path) && path.display().to_string().contains(&uid))
    }

    /// What must hold at every moment: no GPU in two specs, no spec of which the journal says nothing.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let mut holders: BTreeMap<String, String> = BTreeMap::new();
        let files = self.files()?;
        for (path, contents) in files.iter().filter(|(path, _)| is_spec(Path::new(path))) {
            let mut damaged = self.damaged.iter();
            let damaged = damaged.any(|name| path.contains(&crate::claims::uid(name)));
            let Some(devices) = gpus(contents) else {
                if damaged {
                    continue;
                }
                return Err(Failure::Torn(path.clone()));
            };
            for device in devices {
                if let Some(first) = holders.insert(device.clone(), path.clone()) {
                    let second = path.clone();
                    return Err(Failure::Shared {
                        device,
                        first,
                        second,
                    });
                }
            }
            let mut records = files.keys().filter_map(|file| record_of(file));
            if !damaged && !records.any(|uid| path.contains(uid)) {
                return Err(Failure::Unrecorded(path.clone()));
            }
        }
        Ok(())
    }
}

/// The UID of the claim whose record this file is.
fn record_of(file: &str) -> Option<&str> {
    let (_, name) = file.rsplit_once('/')?;
    name.strip_suffix(".record")
}

/// Specs are what lies in the CDI directory: a checkpoint is JSON as well.
fn is_spec(path: &Path) -> bool {
    let ending = path.extension();
    let is_in_place = path
        .parent()
        .is_some_and(|directory| directory.ends_with("cdi"));
    is_in_place && ending.is_some_and(|ending| ending == "json" || ending == "yaml")
}

/// What no other CDI spec may give: the nodes of GPUs, and of a MIG device those of its capabilities, since the node of its
/// GPU is everybody's who has a part of it. Nothing if it is no spec.
fn gpus(spec: &str) -> Option<Vec<String>> {
    let spec: Value = serde_json::from_str(spec).ok()?;
    let mut own = Vec::new();
    for device in spec["devices"].as_array()? {
        let nodes = device["containerEdits"]["deviceNodes"].as_array();
        let paths = nodes.into_iter().flatten();
        let paths = paths.filter_map(|node| node["path"].as_str());
        let (capabilities, others): (Vec<_>, Vec<_>) =
            paths.partition(|path| path.starts_with("/dev/nvidia-caps/"));
        let numbered = |path: &&str| {
            let number = path.strip_prefix("/dev/nvidia");
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        let whole = others
            .into_iter()
            .filter(numbered)
            .filter(|_| capabilities.is_empty());
        own.extend(
            whole
                .chain(capabilities.iter().copied())
                .map(ToOwned::to_owned),
        );
    }
    Some(own)
}
