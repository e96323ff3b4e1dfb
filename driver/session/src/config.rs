//! The daemon's configuration file.

use std::path::{Path, PathBuf};

/// Where a daemon listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// `SERVER_PORT`: for its peers.
    pub server: u16,
    /// `IMEX_CMD_PORT`: for `nvidia-imex-ctl`, that of other nodes too.
    pub command: u16,
}

impl Default for Ports {
    /// NVIDIA's.
    fn default() -> Self {
        Self {
            server: 50000,
            command: 50005,
        }
    }
}

/// How daemons make sure of each other, and keep what they say from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all: whoever reaches the port is spoken to.
    Open,
    /// TLS in which both sides show a certificate.
    Tls(Tls),
}

/// Where the credentials of a daemon are, the same for both sides of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Its certificate.
    pub certificate: PathBuf,
    /// The authority that the certificates of peers are checked against.
    pub authority: PathBuf,
    /// The name that the certificates of peers must have, in place of the names and addresses under which they are called:
    /// these are indices of a list, and addresses of pods.
    pub name: String,
}

impl Tls {
    /// The credentials in `directory`, under the names that Secrets of type `kubernetes.io/tls` and cert-manager give them.
    pub fn in_directory(directory: &Path, name: &str) -> Self {
        Self {
            key: directory.join("tls.key"),
            certificate: directory.join("tls.crt"),
            authority: directory.join("ca.crt"),
            name: name.to_owned(),
        }
    }

    /// The files.
    pub fn files(&self) -> [&Path; 3] {
        [&self.key, &self.certificate, &self.authority]
    }
}

impl Security {
    /// Its lines of the configuration file (`IMEX_ENABLE_AUTH_ENCRYPTION` and following in the file that NVIDIA's package
    /// installs). Source and mode have no usable default: the daemon does not start with an empty one.
    fn lines(&self) -> String {
        let Self::Tls(tls) = self else {
            return "IMEX_ENABLE_AUTH_ENCRYPTION=0\n".to_owned();
        };
        let Tls {
            key,
            certificate,
            authority,
            name,
        } = tls;
        let (key, certificate) = (key.display(), certificate.display());
        let authority = authority.display();
        let of = |side: &str| {
            format!(
                "IMEX_{side}_KEY={key}\n\
                 IMEX_{side}_CERT={certificate}\n\
                 IMEX_{side}_CERT_AUTH={authority}\n"
            )
        };
        format!(
            "IMEX_ENABLE_AUTH_ENCRYPTION=1\n\
             IMEX_AUTH_ENCRYPTION_MODE=SSL_TLS\n\
             IMEX_AUTH_SOURCE=FILE\n\
             {}{}\
             IMEX_SECURITY_TARGET_OVERRIDE={name}\n",
            of("SERVER"),
            of("CLIENT")
        )
    }
}

/// The configuration file of a daemon whose list of nodes is `nodes_file`.
///
/// It never waits for absent peers but for those that it had before an unclean end
/// (`IMEX_WAIT_FOR_QUORUM=RECOVERY`), and never gives up one that is away (grace time -1), because its
/// exports belong to jobs that may still run.
pub fn config_file(ports: Ports, security: &Security, nodes_file: &Path) -> String {
    let Ports { server, command } = ports;
    let nodes_file = nodes_file.display();
    let security = security.lines();
    format!(
        "LOG_LEVEL=4\n\
         LOG_FILE_NAME=\n\
         LOG_USE_SYSLOG=0\n\
         DAEMONIZE=0\n\
         SERVER_PORT={server}\n\
         IMEX_CMD_ENABLED=1\n\
         IMEX_CMD_PORT={command}\n\
         IMEX_NODE_CONFIG_FILE={nodes_file}\n\
         IMEX_WAIT_FOR_QUORUM=RECOVERY\n\
         IMEX_NODE_DISCONNECTED_GRACE_TIME=-1\n\
         {security}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_once_and_on_a_line_of_its_own() {
        let tls = Tls::in_directory(Path::new("/run/tls"), "nvidia-imex");
        for security in [Security::Open, Security::Tls(tls)] {
            let nodes_file = Path::new("/run/x/nodes.cfg");
            let text = config_file(Ports::default(), &security, nodes_file);
            let mut keys: Vec<&str> = text
                .lines()
                .map(|line| line.split_once('=').unwrap().0)
                .collect();
            assert!(text.contains("\nSERVER_PORT=50000\n"));
            assert!(text.contains("\nIMEX_CMD_PORT=50005\n"));
            assert!(text.contains("\nIMEX_NODE_CONFIG_FILE=/run/x/nodes.cfg\n"));
            let all = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), all, "{text}");
        }
    }

    #[test]
    fn with_tls_both_sides_of_a_connection_show_and_check_a_certificate() {
        let tls = Tls::in_directory(Path::new("/run/tls"), "nvidia-imex");
        let text = config_file(
            Ports::default(),
            &Security::Tls(tls),
            Path::new("/run/x/nodes.cfg"),
        );
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        for (key, expected) in [
            ("IMEX_ENABLE_AUTH_ENCRYPTION", "1"),
            ("IMEX_AUTH_ENCRYPTION_MODE", "SSL_TLS"),
            ("IMEX_AUTH_SOURCE", "FILE"),
            ("IMEX_SERVER_KEY", "/run/tls/tls.key"),
            ("IMEX_SERVER_CERT", "/run/tls/tls.crt"),
            ("IMEX_SERVER_CERT_AUTH", "/run/tls/ca.crt"),
            ("IMEX_CLIENT_KEY", "/run/tls/tls.key"),
            ("IMEX_CLIENT_CERT", "/run/tls/tls.crt"),
            ("IMEX_CLIENT_CERT_AUTH", "/run/tls/ca.crt"),
            ("IMEX_SECURITY_TARGET_OVERRIDE", "nvidia-imex"),
        ] {
            assert_eq!(value(key), Some(expected), "{key}");
        }
    }
}
