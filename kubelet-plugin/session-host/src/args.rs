//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use tessera_session::config::{Ports, Security, Tls};
use tessera_shell::args::{LogArgs, PageArgs};

/// How the process that does the work is told from the keeper that starts it.
pub const KEPT: &str = "--kept";

/// Runs the NVLink session of one node.
///
/// It supervises nvidia-imex of the node's driver installation: configures it with the members of the node's
/// NVLink clique, or with those that the domain has which has the node, keeps it running, tells it of changes, and says whether the session is ready, on a Unix
/// socket and in the status of the clique. Where the driver installation has no nvidia-imex, or the node
/// is in no clique, it does nothing and says so. What nvidia-imex itself writes goes where this process logs,
/// as it is.
///
/// Every flag can be given by the environment variable that stands beside it.
#[derive(Clone, Debug, Parser)]
#[command(name = "tessera-session-host", version, max_term_width = 100)]
pub struct Args {
    /// Name of this node: that of its Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// Address of this pod, at which the daemons of other nodes reach that of this one.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: IpAddr,

    /// Whether to run as two processes: one that keeps the daemon alive, and one that does the work and is
    /// replaced when it dies. Without it there is one, which is easier to debug.
    #[arg(long, env = "KEEPER", default_value_t = true, action = ArgAction::Set)]
    pub keeper: bool,

    /// Set by the keeper for the process that it starts.
    #[arg(long, hide = true)]
    pub kept: bool,

    /// A kubeconfig file. Without one, the service account of the pod is used.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// Root of the NVIDIA driver installation, as this process sees it.
    #[arg(long, env = "DRIVER_ROOT_CTR_PATH", default_value = "/driver-root")]
    pub container_driver_root: PathBuf,

    /// Directory for the daemon's configuration and for the record of the running daemon. It must end with
    /// the pod and outlive its containers.
    #[arg(
        long,
        env = "SESSION_DIRECTORY",
        default_value = "/run/tessera-session"
    )]
    pub session_directory: PathBuf,

    /// Directory in which the daemon keeps what it must know after an unclean end. Emptied before a daemon is started for
    /// another session.
    #[arg(
        long,
        env = "IMEX_STATE_DIRECTORY",
        default_value = "/var/run/nvidia-imex"
    )]
    pub imex_state_directory: PathBuf,

    /// The hosts file of the daemon.
    #[arg(long, env = "HOSTS_FILE", default_value = "/etc/hosts")]
    pub hosts_file: PathBuf,

    /// Where it is told whether the session is ready: one line of JSON at once and at each change. Root and
    /// the own user are served.
    #[arg(
        long,
        env = "SESSION_SOCKET",
        default_value = "/run/tessera/session/session.sock"
    )]
    pub session_socket: PathBuf,

    /// Port at which daemons reach each other. The same on all nodes of a clique.
    #[arg(long, env = "IMEX_SERVER_PORT", default_value_t = Ports::default().server)]
    pub imex_server_port: u16,

    /// Port at which daemons are asked how they are, from other nodes too.
    #[arg(long, env = "IMEX_COMMAND_PORT", default_value_t = Ports::default().command)]
    pub imex_command_port: u16,

    /// Directory with tls.key, tls.crt and ca.crt. Given, daemons show each other a certificate of this authority, and what
    /// they say is encrypted. The same on all nodes of a clique. Files that are renewed are read again.
    #[arg(long, env = "IMEX_TLS_DIRECTORY")]
    pub imex_tls_directory: Option<PathBuf>,

    /// Name that the certificate of every daemon has.
    #[arg(long, env = "IMEX_TLS_NAME", default_value = "nvidia-imex", value_parser = certificate_name)]
    pub imex_tls_name: String,

    /// Where pages are served.
    #[command(flatten)]
    pub pages: PageArgs,

    /// How it logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Args {
    /// Where the daemon listens.
    pub fn ports(&self) -> Ports {
        Ports {
            server: self.imex_server_port,
            command: self.imex_command_port,
        }
    }

    /// How it makes sure of its peers.
    pub fn security(&self) -> Security {
        let directory = self.imex_tls_directory.as_deref();
        directory.map_or(Security::Open, |directory| {
            Security::Tls(Tls::in_directory(directory, &self.imex_tls_name))
        })
    }
}

/// A DNS name: it becomes a line of the daemon's configuration.
fn certificate_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if (1..=253).contains(&text.len()) && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("it is no DNS name: letters, digits, dots and hyphens, up to 253".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_name_that_would_be_more_than_one_line_is_refused() {
        for (name, taken) in [
            ("nvidia-imex", true),
            ("imex.cluster.local", true),
            ("a\nSERVER_PORT=1", false),
            ("a b", false),
            ("", false),
        ] {
            assert_eq!(certificate_name(name).is_ok(), taken, "{name:?}");
        }
    }

    #[test]
    fn every_flag_has_an_environment_name() {
        for arg in Args::command().get_arguments() {
            let id = arg.get_id().as_str();
            assert!(
                arg.get_env().is_some() || matches!(id, "help" | "version" | "kept"),
                "{id}"
            );
        }
    }
}
