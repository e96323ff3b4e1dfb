//! Makes the parts of the plugin from the command line, and starts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tessera_api::available;
use tessera_device::mig::MigLayouts;
use tessera_nvml::KernelFiles;
use tessera_prepare::cdi::{CdiKind, LimitHook};
use tessera_prepare::notice::Happening;
use tessera_prepare::record::{BootId, RecordedDevice};
use tessera_shell::client::{self, ApiSource};
use tessera_shell::resource_api::ResourceApi;
use tokio::sync::watch;

use crate::args::Args;
use crate::cdi_dir::CdiDir;
use crate::claim_reader::ApiClaimReader;
use crate::claims::{Claims, Grace, Identity};
use crate::directories::Directories;
use crate::driver_root::DriverRoot;
use crate::events::board::KubeBoard;
use crate::events::{EventMetrics, Inbox, Notices, Teller};
use crate::executor::LocalNode;
use crate::hardware::{HardwareMetrics, HardwareProbe, HardwareWatch, LocalSight, Pace, Places};
use crate::hook_file;
use crate::journal::{Journal, JournalOf};
use crate::locks::GpuLocks;
use crate::memory_limits::{self, Cgroups, MemoryLimits, NvmlLimits, OpenDriver, Written};
use crate::metrics::PreparedDevices;
use crate::mig::{Mig, NvmlMig};
use crate::offering::{Offering, Planned};
use crate::parts::Parts;
use crate::publisher::{KubeSlices, PublishState, Publisher, Turns};
use crate::reconcile::{self, LookAfter, RepairMetrics, Schedule};
use crate::share_status::{self, KubeStatuses, ShareStatuses, Sight, StatusMetrics};
use crate::shares::Shares;
use crate::slice_metrics::SliceMetrics;
use crate::takeover::{self, TakeoverMetrics};
use crate::time_slice::{NvidiaSmi, TimeSlices};
use crate::wait::Waits;

/// Where Linux says which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The claims of the API server, on this node.
pub(super) type NodeClaims = Claims<ApiClaimReader, Journal, LocalNode>;

/// What the parts have in common while they are put together.
pub(super) struct Assembly<'a> {
    pub(super) parts: &'a mut Parts,
    pub(super) args: &'a Args,
    pub(super) directories: &'a Directories,
    pub(super) client: Client,
    pub(super) resources: ResourceApi,
    pub(super) registry: Registry,
}

impl<'a> Assembly<'a> {
    /// No part yet. The API server is not asked for anything.
    pub(super) async fn begin(
        parts: &'a mut Parts,
        args: &'a Args,
        directories: &'a Directories,
    ) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        tessera_shell::metrics::register_process(&mut registry);
        let source = ApiSource {
            kubeconfig: args.kubeconfig.clone(),
            program: "tessera-kubelet-plugin",
        };
        let client = client::connect(&source).await?;
        Ok(Self {
            parts,
            args,
            directories,
            resources: ResourceApi::new(client.clone(), args.resource_api_version),
            client,
            registry,
        })
    }

    /// What the journal itself tells.
    pub(super) fn register_journal<D: RecordedDevice>(&mut self, journal: &JournalOf<D>) {
        self.registry.register(
            "tessera_damaged_records",
            "Journal records that were damaged and set aside",
            journal.damaged().clone(),
        );
        let Args {
            drivers, node_name, ..
        } = self.args;
        PreparedDevices::register(
            &mut self.registry,
            journal.clone(),
            drivers.name(),
            node_name,
        );
    }

    /// A worker's own counters begin anew with it; this one is the keeper's.
    pub(super) fn register_restarts(&mut self, restarts: u32) {
        let counter = Counter::<u64>::default();
        counter.inc_by(restarts.into());
        self.registry.register(
            "tessera_worker_restarts",
            "Processes of the plugin in this container that ended unasked and were replaced",
            counter,
        );
    }

    /// The hook, which is installed if nobody else did.
    pub(super) fn hook(&self) -> anyhow::Result<PathBuf> {
        let Self {
            args, directories, ..
        } = self;
        // Ours is there in any case: it has containers limited, which no other does.
        let own = hook_file::install(&args.bundled_cdi_hook, &directories.plugin)?;
        Ok(args.nvidia_cdi_hook_path.clone().unwrap_or(own))
    }

    /// Where the driver and the hook are.
    pub(super) fn places(&self, hook: Option<&PathBuf>) -> Places {
        let args = self.args;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let ldconfig = Some(args.ldconfig_path.clone()).filter(|path| !path.is_empty());
        Places {
            driver_root: DriverRoot::new(&args.container_driver_root, &args.nvidia_driver_root),
            kernel: KernelFiles {
                sysfs: args.sysfs_root.clone(),
                proc: args.proc_root.clone(),
            },
            hook: hook.map(|hook| text(hook)),
            limit_hook: LimitHook {
                program: text(&hook_file::installed(&self.directories.plugin)),
                socket: text(&self.directories.limit_socket()),
            },
            ldconfig,
            moves_limits: args.memory_agent,
        }
    }

    /// Follows the driver and its GPUs.
    pub(super) fn follow_hardware(&mut self, places: Places, notices: Notices) -> HardwareWatch {
        let (probe, hardware) = HardwareProbe::new(LocalSight(places), Pace::default(), notices);
        let probe = probe.with(self.args.mig_layouts());
        self.parts.start("hardware", |stop| async move {
            probe.run(stop.clone()).await;
            stop.cancelled().await;
            Ok(())
        });
        HardwareMetrics::register(&mut self.registry, hardware.clone());
        hardware
    }

    /// Which driver on which node in which boot this is.
    pub(super) fn identity(
        &self,
        cdi_kind: CdiKind,
        mig_layouts: MigLayouts,
    ) -> anyhow::Result<Identity> {
        let boot = fs::read_to_string(BOOT_ID).with_context(|| format!("read {BOOT_ID}"))?;
        Ok(Identity {
            driver: self.args.drivers.name().to_owned(),
            pool: self.args.node_name.clone(),
            cdi_kind,
            mig_layouts,
            unowned_mig: self.args.unowned_mig_devices,
            boot: BootId(boot.trim().to_owned()),
            sharing: self.args.consumable_shares,
            features: available(self.args.feature_gates.time_slicing_settings),
        })
    }

    /// What plans act on, with its directory made.
    pub(super) fn node(&self) -> anyhow::Result<LocalNode> {
        let root = &self.args.cdi_root;
        let cdi =
            CdiDir::open(root).with_context(|| format!("open CDI directory {}", root.display()))?;
        Ok(LocalNode {
            cdi,
            mig: None,
            time_slices: None,
        })
    }

    /// The claims for GPUs, with the node's directories made.
    pub(super) fn claims(
        &self,
        journal: Journal,
        hardware: HardwareWatch,
        waits: Waits,
    ) -> anyhow::Result<NodeClaims> {
        let directories = self.directories;
        let identity = self.identity(CdiKind::claim(), self.args.mig_layouts())?;
        let Places {
            driver_root,
            kernel,
            ..
        } = self.places(None);
        // What was made is destroyed, whether more is to be made or not.
        let time_slices = Some(TimeSlices::by(NvidiaSmi {
            driver_root: driver_root.clone(),
        }));
        let mig = Some(Mig::by(NvmlMig {
            driver_root,
            kernel,
        }));
        let node = LocalNode {
            mig,
            time_slices,
            ..self.node()?
        };
        let locks = GpuLocks::open(&directories.locks())
            .with_context(|| format!("open lock directory {}", directories.locks().display()))?;
        let reader = ApiClaimReader::new(self.resources.clone());
        Ok(Claims::new(
            identity, reader, journal, node, locks, hardware, waits,
        ))
    }

    /// Holds containers to their shares, from when the driver can or one is held.
    pub(super) fn hold_containers(&mut self, journal: Journal, mut hardware: HardwareWatch) {
        let Places {
            driver_root,
            kernel,
            ..
        } = self.places(None);
        let cgroups = kernel.sysfs.join("fs/cgroup");
        let operations = NvmlLimits {
            driver_root,
            cgroups: cgroups.clone(),
        };
        let notes = self.directories.limits();
        let held = notes.exists();
        let locks = GpuLocks::at(&self.directories.limit_locks());
        let notes = Written::new(notes, Cgroups(cgroups));
        let limits = Arc::new(MemoryLimits::new(operations, journal, notes, locks));
        let socket = self.directories.limit_socket();
        self.parts.start("memory limits", move |stop| async move {
            let needed = async {
                while !held && !can_hold(&hardware) {
                    hardware.changed().await;
                }
            };
            if stop.run_until_cancelled(needed).await.is_some() {
                memory_limits::serve(limits, socket, stop).await;
            }
            Ok(())
        });
    }

    /// Tells in the claims of shares how these fare.
    pub(super) fn tell_of_shares(&mut self, journal: Journal) {
        let Places {
            driver_root,
            kernel,
            ..
        } = self.places(None);
        let cgroups = kernel.sysfs.join("fs/cgroup");
        let driver = Arc::new(OpenDriver::new(driver_root, cgroups.clone()));
        let notes = Written::new(self.directories.limits(), Cgroups(cgroups));
        let locks = GpuLocks::at(&self.directories.limit_locks());
        let sight = Sight::new(driver.clone(), notes, locks);
        let board = KubeStatuses::new(self.resources.clone());
        let metrics = StatusMetrics::new(&mut self.registry);
        let statuses = ShareStatuses::new(self.args.drivers.name(), journal, sight, board, metrics);
        let turns = Turns::at(&self.directories.share_status());
        self.parts.start("share status", move |stop| async move {
            share_status::run(statuses, driver, turns, stop).await;
            Ok(())
        });
    }

    /// Takes over what the reference driver has prepared, if it was here.
    pub(super) async fn take_over(
        &mut self,
        claims: &NodeClaims,
        notices: &Notices,
    ) -> anyhow::Result<()> {
        let metrics = TakeoverMetrics::new(&mut self.registry);
        let report = takeover::take_over(&self.directories.plugin, claims, &metrics).await?;
        if let Some(report) = &report {
            notices.tell(Happening::TakenOver { report });
        }
        Ok(())
    }

    /// Writes what there is to tell as events.
    pub(super) fn teller(&mut self, inbox: Inbox) -> Teller<ApiClaimReader, KubeBoard> {
        let reader = ApiClaimReader::new(self.resources.clone());
        let driver = self.args.drivers.name();
        let board = KubeBoard::new(self.resources.clone(), driver, &self.args.node_name);
        Teller::new(inbox, reader, board, EventMetrics::new(&mut self.registry))
    }

    /// Looks after claims that nobody asks about.
    pub(super) fn look_after<C: LookAfter>(&mut self, claims: Arc<C>, hardware: HardwareWatch) {
        let schedule = Schedule {
            interval: self.args.reconcile_interval,
            grace: Grace(self.args.leftover_grace),
        };
        let repairs = RepairMetrics::new(&mut self.registry);
        self.parts.start("reconcile", move |stop| async move {
            reconcile::run(claims, hardware, schedule, repairs, stop).await;
            Ok(())
        });
    }

    /// How devices can be shared. `ring` rings when that is known.
    pub(super) fn shares(&mut self, ring: watch::Sender<()>) -> Shares {
        let shares = Shares::wanted(self.args.consumable_shares);
        let (client, asked) = (self.client.clone(), shares.clone());
        self.parts.start("shares", |stop| async move {
            stop.run_until_cancelled(asked.find_out(&client)).await;
            ring.send_replace(());
            stop.cancelled().await;
            Ok(())
        });
        shares
    }

    /// Publishes what the hardware is worth, once the kubelet has registered us.
    pub(super) fn publish(
        &mut self,
        planned: Planned,
        hardware: HardwareWatch,
        registrations: watch::Receiver<u64>,
    ) -> watch::Receiver<PublishState> {
        let (driver, node) = (self.args.drivers.name(), &self.args.node_name);
        let (offers, offer) = watch::channel(None);
        let slices = KubeSlices::new(self.resources.clone(), node, driver);
        let turns = Turns::at(&self.directories.publisher());
        let metrics = SliceMetrics::new(&mut self.registry);
        let (publisher, state) = Publisher::new(slices, metrics, offer, turns);
        self.parts.start("publisher", |stop| async move {
            publisher.run(stop).await;
            Ok(())
        });
        let offering = Offering {
            client: self.client.clone(),
            node: node.clone(),
            driver,
            planned,
            hardware,
            registrations,
            offers,
        };
        self.parts.start("offer", |stop| offering.run(stop));
        state
    }
}

/// Whether the driver of this node can hold containers to limits.
fn can_hold(hardware: &HardwareWatch) -> bool {
    hardware
        .now()
        .is_some_and(|hardware| hardware.inventory.driver().memory_limiting.holds())
}
