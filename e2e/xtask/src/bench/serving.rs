//! From the start of the plugin's process to its sockets being served.
//!
//! The shipped program is started in directories of its own beside the real plugin, with the cluster's API server and the
//! node's driver: so the moment of its start is known to the microsecond, which nothing keeps for a container's process.
//! No kubelet finds it, so it offers nothing.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tessera_cluster::{Node, interrupt};
use tessera_proto::pluginregistration::InfoRequest;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_proto::{SocketPaths, client};
use tessera_scenarios::Failure;
use tessera_scenarios::gpus::DRIVER;
use tokio::runtime::{Builder, Runtime};

use crate::shipped::{HOOK, PLUGIN};

/// What a start may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Small against what is measured, and large enough to leave the machine to the plugin.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// A process that ends with this value.
struct Plugin(Child);

impl Drop for Plugin {
    fn drop(&mut self) {
        // What it leaves lies in a temporary directory.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program that lies in `programs` so many times, and times each until `GetInfo` is answered.
pub(super) fn time(
    programs: &Path,
    node: &Node,
    kubeconfig: &Path,
    times: usize,
) -> anyhow::Result<Vec<Duration>> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    (0..times)
        .map(|_| once(&runtime, programs, node, kubeconfig))
        .collect()
}

fn once(
    runtime: &Runtime,
    programs: &Path,
    node: &Node,
    kubeconfig: &Path,
) -> anyhow::Result<Duration> {
    let dir = tempfile::tempdir().context("make a directory for the plugin")?;
    for name in ["registrar", "plugins", "state", "cdi"] {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
    }
    let mut command = command(programs, node, kubeconfig, dir.path());
    let (registrar, plugins) = (dir.path().join("registrar"), dir.path().join("plugins"));
    let sockets = SocketPaths::new(&registrar, &plugins, DRIVER, None)?;
    let socket = sockets.registration.as_socket_path();
    let begun = Instant::now();
    let plugin = command.spawn();
    let mut plugin = Plugin(plugin.with_context(|| format!("start {}", programs.display()))?);
    // The file is there a moment before it takes connections.
    while UnixStream::connect(socket.as_path()).is_err() {
        if interrupt::requested() {
            return Err(Failure::Interrupted.into());
        }
        if let Some(status) = plugin.0.try_wait().context("look at the plugin")? {
            bail!("start the plugin: it ended with {status} before it served");
        }
        if begun.elapsed() > LIMIT {
            bail!("start the plugin: no socket after {} s", LIMIT.as_secs());
        }
        thread::sleep(LOOK_AGAIN);
    }
    runtime.block_on(async {
        let channel = client::connect(socket, LIMIT).await?;
        let mut registration = RegistrationClient::new(channel);
        let answer = registration.get_info(InfoRequest {}).await;
        answer.context("ask the plugin who it is")?;
        Ok(begun.elapsed())
    })
}

fn command(programs: &Path, node: &Node, kubeconfig: &Path, dir: &Path) -> Command {
    let driver = node.driver_root();
    let mut command = Command::new(programs.join(PLUGIN));
    command
        .env_clear()
        .arg(format!("--node-name={}", node.name()))
        .arg(with_path("--kubeconfig", kubeconfig))
        .arg(with_path("--nvidia-driver-root", &driver))
        .arg(with_path("--container-driver-root", &driver))
        .arg(with_path("--sysfs-root", &driver.join("sys")))
        .arg(with_path("--proc-root", &driver.join("proc")))
        .arg(with_path("--bundled-cdi-hook", &programs.join(HOOK)))
        .arg(with_path("--cdi-root", &dir.join("cdi")))
        .arg(with_path("--state-directory-path", &dir.join("state")))
        .arg(with_path(
            "--kubelet-registrar-directory-path",
            &dir.join("registrar"),
        ))
        .arg(with_path(
            "--kubelet-plugins-directory-path",
            &dir.join("plugins"),
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn with_path(flag: &str, path: &Path) -> String {
    format!("{flag}={}", path.display())
}
