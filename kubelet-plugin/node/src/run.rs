//! Puts the plugin together and runs it until it is told to stop.
//!
//! # Flow
//! Claims of the reference driver are taken over before anybody can ask for their GPUs. The sockets are
//! served first otherwise, from memory: the kubelet finds us within a second, whatever the
//! hardware and the API server do meanwhile. The hardware is followed beside it. Slices are
//! published once the kubelet has registered us and the hardware is known, in either order, and
//! again whenever the hardware changes.
//!
//! # Guarantees
//! Each part is a task in one set; the first that ends, ends all. At SIGTERM calls in flight end
//! before the kubelet is told, and the slices are another process's to publish at once. Calls that
//! wait go on waiting for a while, and are then answered with the reason.

mod assembly;
mod kubelet;
mod pages;

use std::path::PathBuf;
use std::sync::Arc;

use tessera_prepare::cdi::CdiKind;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::assembly::Assembly;
use crate::args::Args;
use crate::directories::{Directories, leave_nothing_unneeded};
use crate::events::{Notices, Telling};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::parts::Parts;
use crate::presence::Presence;
use crate::rpc::Plugin;
use crate::sockets::Instance;
use crate::wait::Waits;

/// Runs the plugin until `stop` is cancelled or a part of it fails.
pub async fn run(args: Args, instance: Instance, stop: CancellationToken) -> anyhow::Result<()> {
    let driver = args.drivers.name();
    info!(
        version = tessera_shell::VERSION,
        driver,
        node = args.node_name,
        "starting"
    );
    let directories = Directories::of(
        driver,
        &args.kubelet_plugins_directory_path,
        &args.state_directory_path,
    );
    // First of all: from here on no other process tidies up under this one.
    let presence = Presence::enter(&directories.presence()).await?;
    let journal = Journal::open(&directories.journal(), CdiKind::claim())?;
    let mut parts = Parts::new(stop);
    let telling = start(&mut parts, &args, &directories, &journal, instance).await?;
    info!(driver, node = args.node_name, "serving");

    let ended = parts.run_to_the_end().await;
    telling.finish().await;
    leave_nothing_unneeded(&directories, &journal, presence);
    ended
}

/// Starts every part, the kubelet's sockets first of those that anybody waits for. What is returned
/// goes on until nobody is left who has something to tell.
async fn start(
    parts: &mut Parts,
    args: &Args,
    directories: &Directories,
    journal: &Journal,
    instance: Instance,
) -> anyhow::Result<Telling> {
    let Instance {
        paths,
        sockets,
        post,
        serving,
    } = instance;
    let driver = args.drivers.name();
    let mut assembly = Assembly::begin(parts, args, directories).await?;
    assembly.register_journal(journal);
    assembly.register_restarts(post.restarts);

    let (notices, inbox) = Notices::open();
    let places = assembly.places()?;
    let hook = places.hook.as_ref().map(PathBuf::from);
    let hardware = assembly.follow_hardware(places, notices.clone());
    let hurry = CancellationToken::new();
    let waits = Waits::new(
        &mut assembly.registry,
        driver,
        notices.clone(),
        hurry.clone(),
    );
    let claims = Arc::new(assembly.claims(journal.clone(), hardware.clone(), waits)?);
    assembly.take_over(&claims, &notices).await?;
    let metrics = Metrics::new(&mut assembly.registry, driver);
    let plugin = Plugin::new(claims.clone(), metrics, notices);
    let registrations = assembly.serve_kubelet(plugin, sockets, post, &hardware, hurry);
    assembly.watch_own_files(&paths, hook);

    let teller = assembly.teller(inbox);
    assembly.look_after(claims, hardware.clone());
    let published = assembly.publish(hardware.clone(), registrations);
    assembly.open_pages(paths, hardware, published).await?;
    if let Some(serving) = serving {
        serving.tell();
    }
    Ok(teller.start())
}
