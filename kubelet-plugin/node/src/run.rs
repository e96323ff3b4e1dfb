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
mod compute_domains;
mod gpus;
mod kubelet;
mod pages;
mod role;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use self::assembly::Assembly;
use self::compute_domains::ComputeDomains;
use self::gpus::Gpus;
use self::role::Role;
use crate::args::{Args, Driver};
use crate::directories::{Directories, leave_nothing_unneeded};
use crate::events::{Notices, Telling};
use crate::journal::JournalOf;
use crate::metrics::Metrics;
use crate::parts::Parts;
use crate::presence::Presence;
use crate::rpc::Plugin;
use crate::sockets::Instance;
use crate::wait::Waits;

/// Runs the plugin until `stop` is cancelled or a part of it fails.
pub async fn run(args: Args, instance: Instance, stop: CancellationToken) -> anyhow::Result<()> {
    match args.drivers {
        Driver::Gpu => run_as::<Gpus>(args, instance, stop).await,
        Driver::ComputeDomain => run_as::<ComputeDomains>(args, instance, stop).await,
    }
}

async fn run_as<R: Role>(
    args: Args,
    instance: Instance,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let driver = args.drivers.name();
    info!(
        version = tessera_shell::VERSION,
        driver,
        node = args.node_name,
        "starting"
    );
    args.feature_gates.tell_what_has_no_effect();
    let directories = Directories::of(
        driver,
        &args.kubelet_plugins_directory_path,
        &args.state_directory_path,
    );
    // First of all: from here on no other process tidies up under this one.
    let presence = Presence::enter(&directories.presence()).await?;
    let journal = JournalOf::open(&directories.journal(), R::cdi_kind())?;
    let mut parts = Parts::new(stop);
    let telling = start::<R>(&mut parts, &args, &directories, &journal, instance).await?;
    info!(driver, node = args.node_name, "serving");

    let ended = parts.run_to_the_end().await;
    telling.finish().await;
    leave_nothing_unneeded(&directories, &journal, presence);
    ended
}

/// Starts every part, the kubelet's sockets first of those that anybody waits for. What is returned
/// goes on until nobody is left who has something to tell.
async fn start<R: Role>(
    parts: &mut Parts,
    args: &Args,
    directories: &Directories,
    journal: &JournalOf<R::Device>,
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
    let hook = R::hook(&assembly)?;
    let places = assembly.places(hook.as_ref());
    let hardware = assembly.follow_hardware(places, R::hardware_news(&notices));
    let hurry = CancellationToken::new();
    let waits = Waits::new(
        &mut assembly.registry,
        driver,
        notices.clone(),
        hurry.clone(),
    );
    let claims = Arc::new(R::claims(
        &assembly,
        journal.clone(),
        hardware.clone(),
        waits,
    )?);
    R::take_over(&mut assembly, &claims, &notices).await?;
    let metrics = Metrics::new(&mut assembly.registry, driver);
    let plugin = Plugin::new(claims.clone(), metrics, notices);
    let health = R::health(args, &hardware);
    let registrations = assembly.serve_kubelet(plugin, health, sockets, post, hurry);
    assembly.watch_own_files(&paths, hook);

    let teller = assembly.teller(inbox);
    assembly.look_after(claims.clone(), hardware.clone());
    let planned = R::planned(&mut assembly, &claims);
    let published = assembly.publish(planned, hardware.clone(), registrations);
    R::start_others(&mut assembly, &claims, journal, &hardware);
    assembly.open_pages(paths, hardware, published).await?;
    if let Some(serving) = serving {
        serving.tell();
    }
    Ok(teller.start())
}
