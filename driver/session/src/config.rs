//! The daemon's configuration file.

use std::path::Path;

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

/// The configuration file of a daemon whose list of nodes is `nodes_file`.
///
/// It never waits for absent peers but for those that it had before an unclean end
/// (`IMEX_WAIT_FOR_QUORUM=RECOVERY`), and never gives up one that is away (grace time -1), because its
/// exports belong to jobs that may still run.
pub fn config_file(ports: Ports, nodes_file: &Path) -> String {
    let Ports { server, command } = ports;
    let nodes_file = nodes_file.display();
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
         IMEX_ENABLE_AUTH_ENCRYPTION=0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_once_and_on_a_line_of_its_own() {
        let text = config_file(Ports::default(), Path::new("/run/x/nodes.cfg"));
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
        assert_eq!(keys.len(), all);
    }
}
