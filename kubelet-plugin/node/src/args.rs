//! The command line, with the flags and environment names of the reference driver's plugin.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use jiff::SignedDuration;
use tessera_device::mig::MigLayouts;
use tessera_resource_api::Version;
use tessera_sharing::ConsumableShares;
use tessera_shell::args::{LogArgs, PageArgs};
use tessera_shell::feature_gates::FeatureGates;

use crate::claims::UnownedMig;

/// How a worker is told from the keeper that starts it.
pub const KEPT: &str = "--kept";

/// A driver that this binary can run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// gpu.nvidia.com: whole GPUs.
    Gpu,
    /// compute-domain.nvidia.com: the channels of compute domains.
    ComputeDomain,
}

impl Driver {
    /// Name under which the kubelet and claims know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu.nvidia.com",
            Self::ComputeDomain => "compute-domain.nvidia.com",
        }
    }
}

/// Offers the GPUs of one node to Kubernetes and prepares the claims that are allocated to them.
///
/// Runs on every GPU node, usually as a DaemonSet that the Helm chart installs. It publishes
/// ResourceSlices, registers with the kubelet over a Unix socket, and for each claim writes a CDI
/// spec from which the container runtime takes device nodes and driver files.
///
/// Every flag can be given by the environment variable that stands beside it.
#[derive(Clone, Debug, Parser)]
#[command(name = "tessera-kubelet-plugin", version, max_term_width = 100)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct Args {
    /// Which driver to run. Each runs in a process of its own.
    #[arg(long, env = "DRIVERS", value_enum, default_value = "gpu")]
    pub drivers: Driver,

    /// Name of this node: that of its Node object. It is also the name of the pool.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// UID of the pod that this process runs in. Given, the names of its sockets carry it, so that
    /// the old and the new pod of an upgrade can serve the kubelet side by side; that needs a kubelet
    /// of 1.33 or later. Without it there can be one instance at a time.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: Option<String>,

    /// Whether to run as two processes: one that keeps the sockets, and one that does the work and
    /// is replaced at once when it dies. Without it there is one, which is easier to debug.
    #[arg(long, env = "KEEPER", default_value_t = true, action = ArgAction::Set)]
    pub keeper: bool,

    /// Set by the keeper for the process that it starts.
    #[arg(long, hide = true)]
    pub kept: bool,

    /// A kubeconfig file. Without one, the service account of the pod is used.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// The version of resource.k8s.io to speak: v1, v1beta2 or v1beta1. Without one, the newest that
    /// the API server says it serves.
    #[arg(long, env = "RESOURCE_API_VERSION")]
    pub resource_api_version: Option<Version>,

    /// Directory in which the container runtime looks for CDI specs.
    #[arg(long, env = "CDI_ROOT", default_value = "/var/run/cdi")]
    pub cdi_root: PathBuf,

    /// How claims may share a device, by the scheduler's account alone: disabled; memory (who asks for no
    /// amount has the device alone); unlimited; or a number of shares. Only for the driver gpu.
    #[arg(long, env = "CONSUMABLE_SHARES", default_value = "")]
    pub consumable_shares: ConsumableShares,

    /// Whether tessera-agent runs on the node and moves the memory limits of shares that are in use. Only then are
    /// shares granted that may grow above their guarantee. Only for the driver gpu.
    #[arg(long, env = "MEMORY_AGENT", default_value_t = false, action = ArgAction::Set)]
    pub memory_agent: bool,

    /// Whether claims with shares say in their status what holds each share and how it fares. Only for the driver
    /// gpu.
    #[arg(long, env = "SHARE_STATUS", default_value_t = false, action = ArgAction::Set)]
    pub share_status: bool,

    /// Root of the NVIDIA driver installation on the host: / where the driver is installed on the
    /// host itself, /run/nvidia/driver where a driver container installs it.
    #[arg(long, env = "NVIDIA_DRIVER_ROOT", default_value = "/")]
    pub nvidia_driver_root: PathBuf,

    /// The same root as this process sees it.
    #[arg(long, env = "DRIVER_ROOT_CTR_PATH", default_value = "/driver-root")]
    pub container_driver_root: PathBuf,

    /// Path on the host of a CDI hook that is installed there. Without one, the hook that came with
    /// this plugin is copied into the plugin's directory and used.
    #[arg(long, env = "NVIDIA_CDI_HOOK_PATH")]
    pub nvidia_cdi_hook_path: Option<PathBuf>,

    /// The hook that came with this plugin, as this process sees it.
    #[arg(
        long,
        env = "BUNDLED_CDI_HOOK",
        default_value = "/usr/bin/tessera-cdi-hook"
    )]
    pub bundled_cdi_hook: PathBuf,

    /// Path on the host of ldconfig, which the hook runs to make driver libraries known to the
    /// loader in a container. Empty: the one of the driver root, else the host's in its usual
    /// places.
    #[arg(long, env = "LDCONFIG_PATH", default_value = "")]
    pub ldconfig_path: String,

    /// Directory that the kubelet watches for registration sockets.
    #[arg(
        long,
        env = "KUBELET_REGISTRAR_DIRECTORY_PATH",
        default_value = "/var/lib/kubelet/plugins_registry"
    )]
    pub kubelet_registrar_directory_path: PathBuf,

    /// Directory below which plugins keep their own. It must have the same path on the host.
    #[arg(
        long,
        env = "KUBELET_PLUGINS_DIRECTORY_PATH",
        default_value = "/var/lib/kubelet/plugins"
    )]
    pub kubelet_plugins_directory_path: PathBuf,

    /// Directory on a tmpfs of the host for what dies with the boot: the journal and lock files.
    #[arg(long, env = "STATE_DIRECTORY_PATH", default_value = "/run/tessera")]
    pub state_directory_path: PathBuf,

    /// Time between two comparisons of journal, CDI directory and API, e.g. 5m.
    #[arg(long, env = "RECONCILE_INTERVAL", default_value = "5m", value_parser = duration)]
    pub reconcile_interval: Duration,

    /// How long a claim that is gone from the API is left to the kubelet before it is taken back:
    /// its containers may still be ending. E.g. 2m.
    #[arg(long, env = "LEFTOVER_GRACE", default_value = "2m", value_parser = duration)]
    pub leftover_grace: Duration,

    /// The sysfs in which the GPUs' PCI devices are.
    #[arg(long, env = "SYSFS_ROOT", default_value = "/sys")]
    pub sysfs_root: PathBuf,

    /// The procfs in which the kernel's driver says which device nodes belong to which MIG device.
    #[arg(long, env = "PROC_ROOT", default_value = "/proc")]
    pub proc_root: PathBuf,
    /// The kernel's list of device numbers, in which the major number of IMEX channels is looked up; of
    /// use where another file stands in for it. Only for the driver compute-domain.
    #[arg(long, env = "ALT_PROC_DEVICES_PATH", default_value = "/proc/devices")]
    pub alt_proc_devices: PathBuf,

    /// Where the session host of the node says whether its NVLink session is ready. Given, a claim for a
    /// channel on a node with NVLink fabric to others is prepared when it is. Only for the driver
    /// compute-domain.
    #[arg(long, env = "SESSION_SOCKET", conflicts_with = "imex_host_socket")]
    pub session_socket: Option<PathBuf>,

    /// The command socket of the nvidia-imex that the host runs, as this process sees it. Given, a claim for a channel on
    /// a node with NVLink fabric to others is prepared when that nvidia-imex says that it is ready. Only for the driver
    /// compute-domain.
    #[arg(long, env = "IMEX_HOST_SOCKET_CTR_PATH")]
    pub imex_host_socket: Option<PathBuf>,

    /// The same socket as the host has it, for messages. That of this process, if it is not given.
    #[arg(long, env = "IMEX_HOST_SOCKET_PATH")]
    pub imex_host_socket_path: Option<PathBuf>,

    /// Whether to label the node with its NVLink clique (nvidia.com/gpu.clique), for clusters without GPU
    /// Feature Discovery; a label of somebody else is left alone. Only for the driver compute-domain.
    #[arg(long, env = "GPU_CLIQUE_LABEL_ENABLED", default_value_t = false, action = ArgAction::Set)]
    pub gpu_clique_label_enabled: bool,

    /// Features that are on or off, as the reference driver names them: DynamicMIG=true,
    /// TimeSlicingSettings=true. Others of its gates are taken and without effect.
    #[arg(long, env = "FEATURE_GATES", default_value = "")]
    pub feature_gates: FeatureGates,

    /// What becomes of a MIG device that no claim has, on a GPU that the plugin cuts itself (feature gate
    /// DynamicMIG): destroy it after the time of --leftover-grace, or keep it, because somebody else
    /// makes some too.
    #[arg(
        long,
        env = "UNOWNED_MIG_DEVICES",
        value_enum,
        default_value = "destroy"
    )]
    pub unowned_mig_devices: UnownedMig,

    /// Where pages are served.
    #[command(flatten)]
    pub pages: PageArgs,

    /// Port of the gRPC health service, which calls through both of the plugin's sockets.
    /// Negative: none.
    #[arg(long, env = "HEALTHCHECK_PORT", default_value_t = -1, allow_negative_numbers = true)]
    pub healthcheck_port: i32,

    /// XIDs, separated by commas, that are the application's fault and not the GPU's. Accepted
    /// for compatibility; GPU health does not watch XIDs yet.
    #[arg(long, env = "ADDITIONAL_XIDS_TO_IGNORE", value_delimiter = ',')]
    pub additional_xids_to_ignore: Vec<u32>,

    /// How it logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Args {
    /// Who cuts this node's GPUs.
    pub fn mig_layouts(&self) -> MigLayouts {
        if self.feature_gates.dynamic_mig {
            MigLayouts::Dynamic
        } else {
            MigLayouts::Static
        }
    }
}

/// Reads a time such as `90s` or `5m`.
fn duration(text: &str) -> Result<Duration, String> {
    let time: SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; try 90s or 5m"))?;
    let time = Duration::try_from(time).map_err(|_| "it is negative".to_owned())?;
    if time.is_zero() {
        Err("it is zero".to_owned())
    } else {
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_of_the_reference_is_taken_in_both_forms() {
        let command = Args::command();
        for (flag, env) in [
            ("node-name", "NODE_NAME"),
            ("kubeconfig", "KUBECONFIG"),
            ("cdi-root", "CDI_ROOT"),
            ("nvidia-driver-root", "NVIDIA_DRIVER_ROOT"),
            ("container-driver-root", "DRIVER_ROOT_CTR_PATH"),
            ("nvidia-cdi-hook-path", "NVIDIA_CDI_HOOK_PATH"),
            (
                "kubelet-registrar-directory-path",
                "KUBELET_REGISTRAR_DIRECTORY_PATH",
            ),
            (
                "kubelet-plugins-directory-path",
                "KUBELET_PLUGINS_DIRECTORY_PATH",
            ),
            ("consumable-shares", "CONSUMABLE_SHARES"),
            ("http-endpoint", "HTTP_ENDPOINT"),
            ("metrics-path", "METRICS_PATH"),
            ("healthcheck-port", "HEALTHCHECK_PORT"),
            ("additional-xids-to-ignore", "ADDITIONAL_XIDS_TO_IGNORE"),
            ("drivers", "DRIVERS"),
            ("feature-gates", "FEATURE_GATES"),
        ] {
            let arg = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(flag))
                .unwrap_or_else(|| panic!("--{flag} is missing"));
            assert_eq!(
                arg.get_env().and_then(|env| env.to_str()),
                Some(env),
                "--{flag}"
            );
        }
        command.debug_assert();
    }

    #[test]
    fn a_version_of_the_resource_api_is_chosen_by_name_or_not_at_all() {
        let parsed = |line: &[&str]| Args::try_parse_from(line);
        let with =
            |version| parsed(&["plugin", "--node-name=n", "--resource-api-version", version]);
        let chosen = with("v1beta1").unwrap().resource_api_version;
        assert_eq!(chosen, Some(Version::V1beta1));
        let error = with("v2").unwrap_err().to_string();
        assert!(error.contains("v1beta2"), "{error}");
        let plain = parsed(&["plugin", "--node-name=n"]).unwrap();
        assert_eq!(plain.resource_api_version, None);
    }

    #[test]
    fn the_keeper_marks_its_worker_with_a_flag_that_exists() {
        let parsed = |line: &[&str]| Args::try_parse_from(line).unwrap();
        assert!(parsed(&["plugin", "--node-name=n", KEPT]).kept);
        let plain = parsed(&["plugin", "--node-name=n", "--keeper=false"]);
        assert!(!plain.kept && !plain.keeper);
    }

    #[test]
    fn a_driver_that_is_not_there_is_refused_with_those_that_are() {
        let parsed = Args::try_parse_from(["plugin", "--node-name=n", "--drivers=vfio"]);
        assert!(parsed.unwrap_err().to_string().contains("compute-domain"));
    }
}
