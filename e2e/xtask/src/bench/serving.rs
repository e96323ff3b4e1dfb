//! From the start of the plugin's process to its sockets being served.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tessera_cluster::{Node, interrupt};
use tessera_proto::client;
use tessera_proto::pluginregistration::InfoRequest;
use tessera_proto::pluginregistration::registration_client::RegistrationClient;
use tessera_scenarios::Failure;
use tokio::runtime::{Builder, Runtime};

use super::standalone::Standalone;

/// What a start may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Small against what is measured, and large enough to leave the machine to the plugin.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Starts the program that lies in `programs` so many times, and times each until `GetInfo` is answered.
pub(super) fn time(
    programs: &Path,
    node: &Node,
    kubeconfig: &Path,
    times: usize,
) -> anyhow::Result<Vec<Duration>> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let once = |_| {
        let begun = Instant::now();
        let mut plugin = Standalone::start(programs, node, kubeconfig)?;
        answered(&runtime, &mut plugin)?;
        Ok(begun.elapsed())
    };
    (0..times).map(once).collect()
}

/// Waits until the plugin says who it is.
pub(super) fn answered(runtime: &Runtime, plugin: &mut Standalone) -> anyhow::Result<()> {
    let begun = Instant::now();
    // The file is there a moment before it takes connections.
    while UnixStream::connect(plugin.registration().as_path()).is_err() {
        if interrupt::requested() {
            return Err(Failure::Interrupted.into());
        }
        if let Some(status) = plugin.ended()? {
            bail!("start the plugin: it ended with {status} before it served");
        }
        if begun.elapsed() > LIMIT {
            bail!("start the plugin: no socket after {} s", LIMIT.as_secs());
        }
        thread::sleep(LOOK_AGAIN);
    }
    runtime.block_on(async {
        let channel = client::connect(plugin.registration(), LIMIT).await?;
        let mut registration = RegistrationClient::new(channel);
        let answer = registration.get_info(InfoRequest {}).await;
        answer.context("ask the plugin who it is")?;
        Ok(())
    })
}
