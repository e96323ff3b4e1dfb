//! Puts the plugin together and runs it until it is told to stop.
//!
//! # Flow
//! The sockets are served first, from memory: the kubelet finds us within a second, whatever the
//! hardware and the API server do meanwhile. The hardware is followed beside it. Slices are
//! published once the kubelet has registered us and the hardware is known, in either order, and
//! again whenever the hardware changes.
//!
//! # Guarantees
//! Each part is a task in one set; the first that ends, ends all. At SIGTERM calls in flight end
//! before the kubelet is told, and the slices are another process's to publish at once. Calls that
//! wait go on waiting for [`PATIENCE`], and are then answered with the reason.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tessera_prepare::cdi::CdiKind;
use tessera_prepare::record::BootId;
use tessera_proto::{
    CALL_LIMIT, DraPlugin, Ending, RegistrationEvent, Served, SocketPaths, Sockets,
};
use tessera_shell::client::{self, ApiSource};
use tessera_shell::http::{self, Health, ListenAddress, Pages};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::args::Args;
use crate::cdi_dir::CdiDir;
use crate::claim_reader::ApiClaimReader;
use crate::claims::{Claims, Grace, Identity};
use crate::directories::{Directories, leave_nothing_unneeded};
use crate::driver_root::DriverRoot;
use crate::events::board::KubeBoard;
use crate::events::{EventMetrics, Notices, Teller, Telling};
use crate::executor::LocalNode;
use crate::hardware::{HardwareMetrics, HardwareProbe, HardwareWatch, LocalSight, Pace, Places};
use crate::health::GpuHealth;
use crate::hook_file;
use crate::journal::Journal;
use crate::locks::GpuLocks;
use crate::metrics::{Metrics, PreparedDevices};
use crate::offering::Offering;
use crate::own_files;
use crate::parts::Parts;
use crate::presence::Presence;
use crate::probe::Probe;
use crate::publisher::{KubeSlices, PublishState, Publisher, Turns};
use crate::reconcile::{self, RepairMetrics, Schedule};
use crate::rpc::Plugin;
use crate::slice_metrics::SliceMetrics;
use crate::sockets::Instance;
use crate::wait::Waits;

/// Where Linux says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long the kubelet may take to hang up once the registration socket is gone: it looks every
/// second. The chart gives the pod 60 s between SIGTERM and SIGKILL, for this and a longest call; what
/// is not done then is resumed from the journal.
const HANG_UP: Duration = Duration::from_secs(3);

/// How long calls may go on waiting once we are told to stop: for an unprepare, say, which another
/// plugin may do by then. To end them at once would cost each pod a minute, and to let them run
/// into [`CALL_LIMIT`] would end them without an answer.
const PATIENCE: Duration = Duration::from_secs(40);

// What no longer waits still needs time to answer.
const _: () = assert!(PATIENCE.as_secs() < CALL_LIMIT.as_secs());

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
    let driver = args.drivers.name();
    let mut registry = Registry::default();
    tessera_shell::metrics::register_process(&mut registry);
    register_restarts(&mut registry, instance.post.restarts);
    registry.register(
        "tessera_damaged_records",
        "Journal records that were damaged and set aside",
        journal.damaged().clone(),
    );
    let metrics = Metrics::new(&mut registry, driver);
    PreparedDevices::register(&mut registry, journal.clone(), driver, &args.node_name);
    let kubeconfig = args.kubeconfig.clone();
    let source = ApiSource {
        kubeconfig,
        program: "tessera-kubelet-plugin",
    };
    let client = client::connect(&source).await?;

    let places = places(args, directories)?;
    let hook = places.hook.as_ref().map(PathBuf::from);
    let (notices, inbox) = Notices::open();
    let hardware = start_hardware(parts, places, notices.clone());
    HardwareMetrics::register(&mut registry, hardware.clone());
    let hurry = CancellationToken::new();
    let claims = claims(
        args,
        directories,
        &client,
        journal.clone(),
        hardware.clone(),
        Waits::new(&mut registry, driver, notices.clone(), hurry.clone()),
    )?;
    let claims = Arc::new(claims);
    let plugin = Plugin::new(claims.clone(), metrics, notices);
    let Instance {
        paths,
        sockets,
        post,
        serving,
    } = instance;
    let (registered, registrations) = watch::channel(0);
    let served = Served {
        driver: driver.to_owned(),
        plugin: Arc::new(plugin),
        health: Arc::new(GpuHealth::new(args.node_name.clone(), hardware.clone())),
        observer: Arc::new(move |event| observe(&event, post.taken_over, &registered)),
    };
    start_sockets(parts, sockets, served, hurry);
    watch_own_files(parts, args, &paths, hook);
    let reader = ApiClaimReader::new(client.clone());
    let board = KubeBoard::new(client.clone(), driver, &args.node_name);
    let teller = Teller::new(inbox, reader, board, EventMetrics::new(&mut registry));

    let schedule = Schedule {
        interval: args.reconcile_interval,
        grace: Grace(args.leftover_grace),
    };
    let repairs = RepairMetrics::new(&mut registry);
    let gpus = hardware.clone();
    parts.start("reconcile", move |stop| async move {
        reconcile::run(claims, gpus, schedule, repairs, stop).await;
        Ok(())
    });

    let (offers, offer) = watch::channel(None);
    let slices = KubeSlices::new(client.clone(), &args.node_name, driver);
    let turns = Turns::at(&directories.publisher());
    let (publisher, state) = Publisher::new(slices, SliceMetrics::new(&mut registry), offer, turns);
    parts.start("publisher", |stop| async move {
        publisher.run(stop).await;
        Ok(())
    });
    let node = args.node_name.clone();
    let offering = Offering {
        client,
        node,
        driver,
        hardware: hardware.clone(),
        registrations,
        offers,
    };
    parts.start("offer", |stop| offering.run(stop));
    start_pages(parts, args, registry, &hardware, &state).await?;
    start_probe(parts, args, paths, hardware, state).await?;
    if let Some(serving) = serving {
        serving.tell();
    }
    Ok(teller.start())
}

/// A worker's own counters begin anew with it; this one is the keeper's.
fn register_restarts(registry: &mut Registry, restarts: u32) {
    let counter = Counter::<u64>::default();
    counter.inc_by(restarts.into());
    registry.register(
        "tessera_worker_restarts",
        "Processes of the plugin in this container that ended unasked and were replaced",
        counter,
    );
}

fn start_hardware(parts: &mut Parts, places: Places, notices: Notices) -> HardwareWatch {
    let (probe, hardware) = HardwareProbe::new(LocalSight(places), Pace::default(), notices);
    parts.start("hardware", |stop| async move {
        probe.run(stop.clone()).await;
        stop.cancelled().await;
        Ok(())
    });
    hardware
}

/// Serves the kubelet. `hurry` is cancelled when calls may not wait any longer.
fn start_sockets<P: DraPlugin>(
    parts: &mut Parts,
    sockets: Sockets,
    served: Served<P, GpuHealth>,
    hurry: CancellationToken,
) {
    let ending = Ending {
        told: parts.told().clone(),
        calls: CALL_LIMIT,
        hang_up: HANG_UP,
    };
    parts.start("kubelet sockets", |stop| async move {
        let serving = sockets.serve(served, stop.clone(), ending);
        Ok(hurrying(serving, stop, PATIENCE, hurry).await?)
    });
}

/// Awaits `serving`, and cancels `hurry` so much time after the stop.
async fn hurrying<T>(
    serving: impl Future<Output = T>,
    stop: CancellationToken,
    patience: Duration,
    hurry: CancellationToken,
) -> T {
    let out_of_patience = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
        hurry.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = serving => ended,
        never = out_of_patience => never,
    }
}

/// Watches what a start puts where the node looks for it.
fn watch_own_files(parts: &mut Parts, args: &Args, paths: &SocketPaths, hook: Option<PathBuf>) {
    // A hook that somebody else installed is on the host, and not for us to see.
    let hook = hook.filter(|_| args.nvidia_cdi_hook_path.is_none());
    let sockets = [&paths.dra, paths.registration.as_socket_path()];
    let sockets = sockets.map(|path| path.as_path().to_owned());
    let files = sockets.into_iter().chain(hook).collect();
    parts.start("own files", |stop| async move {
        Ok(own_files::watch(files, stop).await?)
    });
}

fn places(args: &Args, directories: &Directories) -> anyhow::Result<Places> {
    let hook = match &args.nvidia_cdi_hook_path {
        Some(installed) => installed.clone(),
        None => hook_file::install(&args.bundled_cdi_hook, &directories.plugin)?,
    };
    let ldconfig = Some(args.ldconfig_path.clone()).filter(|path| !path.is_empty());
    Ok(Places {
        driver_root: DriverRoot::new(&args.container_driver_root, &args.nvidia_driver_root),
        sysfs: args.sysfs_root.clone(),
        hook: Some(hook.to_string_lossy().into_owned()),
        ldconfig,
    })
}

fn claims(
    args: &Args,
    directories: &Directories,
    client: &Client,
    journal: Journal,
    hardware: HardwareWatch,
    waits: Waits,
) -> anyhow::Result<Claims<ApiClaimReader, Journal, LocalNode>> {
    let boot = fs::read_to_string(BOOT_ID).with_context(|| format!("read {BOOT_ID}"))?;
    let identity = Identity {
        driver: args.drivers.name().to_owned(),
        pool: args.node_name.clone(),
        cdi_kind: CdiKind::claim(),
        boot: BootId(boot.trim().to_owned()),
    };
    let cdi = CdiDir::open(&args.cdi_root)
        .with_context(|| format!("open CDI directory {}", args.cdi_root.display()))?;
    let locks = GpuLocks::open(&directories.locks())
        .with_context(|| format!("open lock directory {}", directories.locks().display()))?;
    let reader = ApiClaimReader::new(client.clone());
    Ok(Claims::new(
        identity,
        reader,
        journal,
        LocalNode { cdi },
        locks,
        hardware,
        waits,
    ))
}

/// Counts how often the kubelet has registered us.
fn observe(event: &RegistrationEvent, taken_over: bool, registered: &watch::Sender<u64>) {
    match event {
        RegistrationEvent::Unheard { .. } | RegistrationEvent::Refused { .. } => warn!("{event}"),
        RegistrationEvent::InfoRead => tracing::debug!("{event}"),
        RegistrationEvent::Registered => {
            info!("{event}");
            registered.send_modify(|times| *times += 1);
        }
        // The kubelet registers a socket's file once, so to a process that took it over it says
        // nothing else. A connection to a new file can be left over from one of the same path, and the kubelet
        // is about to take that out of its list.
        RegistrationEvent::Connected if !taken_over => {}
        RegistrationEvent::Connected => {
            registered.send_if_modified(|times| {
                let first = *times == 0;
                *times += u64::from(first);
                first
            });
        }
    }
}

async fn start_pages(
    parts: &mut Parts,
    args: &Args,
    registry: Registry,
    hardware: &HardwareWatch,
    published: &watch::Receiver<PublishState>,
) -> anyhow::Result<()> {
    let Some(listener) = http::listen(&args.http_endpoint).await? else {
        return Ok(());
    };
    let (hardware, published) = (hardware.clone(), published.clone());
    let pages = Pages::new(registry, &args.metrics_path).ready_when(move || {
        match (hardware.problem(), &*published.borrow()) {
            (Some(problem), _) => Health::Failing(problem.into()),
            (None, PublishState::Published { .. } | PublishState::Standby) => Health::Ok,
            (None, PublishState::NotYet) => {
                Health::Failing("the kubelet has not registered the driver yet".into())
            }
            (None, PublishState::Failing { reason }) => Health::Failing(reason.clone().into()),
        }
    });
    parts.start("HTTP endpoint", |stop| async move {
        Ok(http::serve(listener, pages, stop).await?)
    });
    Ok(())
}

async fn start_probe(
    parts: &mut Parts,
    args: &Args,
    paths: SocketPaths,
    hardware: HardwareWatch,
    published: watch::Receiver<PublishState>,
) -> anyhow::Result<()> {
    if args.healthcheck_port < 0 {
        return Ok(());
    }
    let port = u16::try_from(args.healthcheck_port).with_context(|| {
        format!(
            "--healthcheck-port is {}; use a port up to 65535",
            args.healthcheck_port
        )
    })?;
    let address = ListenAddress::Everywhere(port);
    let listener: TcpListener = http::listen(&address)
        .await?
        .context("an address with a port is never switched off")?;
    let probe = Probe::new(paths, hardware, published);
    parts.start("gRPC health", |stop| async move {
        Ok(probe.serve(listener, stop).await?)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_hurried_only_some_time_after_the_stop() {
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let serving = {
            let (stop, hurry) = (stop.clone(), hurry.clone());
            async move {
                tokio::time::sleep(PATIENCE * 2).await;
                assert!(!hurry.is_cancelled(), "nobody has said stop");
                stop.cancel();
                let stopped = tokio::time::Instant::now();
                hurry.cancelled().await;
                stopped.elapsed()
            }
        };
        assert_eq!(hurrying(serving, stop, PATIENCE, hurry).await, PATIENCE);
    }
}
