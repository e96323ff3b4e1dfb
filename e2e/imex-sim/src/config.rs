//! The daemon's configuration file: one `KEY=value` a line.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// What the daemon waits for before it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorum {
    /// Nothing.
    None,
    /// After an unclean end, the peers that had imported memory.
    Recovery,
}

/// The configuration, as far as it is simulated. Other keys are accepted and ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `SERVER_PORT`: where peers connect.
    pub server_port: u16,
    /// `IMEX_CMD_PORT`: where status is asked for, if `IMEX_CMD_ENABLED`.
    pub command_port: Option<u16>,
    /// `IMEX_CMD_UNIX_DOMAIN_PATH`: where status is asked for by a Unix socket.
    pub command_socket: Option<PathBuf>,
    /// `BIND_INTERFACE_IP`: the own address. Found among those of the nodes file if it is empty.
    pub bind: Option<String>,
    /// `IMEX_NODE_CONFIG_FILE`: the members of the domain.
    pub nodes_file: PathBuf,
    /// `IMEX_WAIT_FOR_QUORUM`.
    pub quorum: Quorum,
    /// `IMEX_NODE_DISCONNECTED_GRACE_TIME` in seconds; negative is for ever.
    pub grace_seconds: i64,
    /// With `IMEX_ENABLE_AUTH_ENCRYPTION`: the credentials.
    pub credentials: Option<Credentials>,
}

/// Files of the mode `SSL_TLS` with the source `FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `IMEX_SERVER_KEY`, `_CERT` and `_CERT_AUTH`.
    pub server: [PathBuf; 3],
    /// `IMEX_CLIENT_KEY`, `_CERT` and `_CERT_AUTH`.
    pub client: [PathBuf; 3],
    /// `IMEX_SECURITY_TARGET_OVERRIDE`.
    pub target: Option<String>,
}

/// The keys of credentials, by what they are called after `IMEX_SERVER_` and `IMEX_CLIENT_`.
const CREDENTIALS: [&str; 3] = ["KEY", "CERT", "CERT_AUTH"];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A value that is not one of the key's.
    #[error("line {line}: {key}={value} is not {expected}")]
    Value {
        /// The line, counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// With authentication on, a key lacks what it must have.
    #[error(
        "{key}={value} is not {expected}, which is what is simulated of IMEX_ENABLE_AUTH_ENCRYPTION=1"
    )]
    Security {
        /// The key.
        key: String,
        /// Its value; empty where it is not there.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl Default for Config {
    /// The defaults of the guide.
    fn default() -> Self {
        Self {
            server_port: 50000,
            command_port: Some(50005),
            command_socket: None,
            bind: None,
            nodes_file: PathBuf::from("/etc/nvidia-imex/nodes_config.cfg"),
            quorum: Quorum::Recovery,
            grace_seconds: -1,
            credentials: None,
        }
    }
}

impl Config {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads the text of one.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut commands = true;
        let mut port = config.command_port;
        let mut security = Security::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let (key, value) = (key.trim(), value.trim());
            let wrong = |expected| ConfigError::Value {
                line: at + 1,
                key: key.to_owned(),
                value: value.to_owned(),
                expected,
            };
            let number = || {
                value
                    .parse::<u16>()
                    .map_err(|_| wrong("a port up to 65535"))
            };
            let given = || (!value.is_empty()).then(|| value.to_owned());
            match key {
                "SERVER_PORT" => config.server_port = number()?,
                "IMEX_CMD_PORT" => port = Some(number()?),
                "IMEX_CMD_ENABLED" => commands = flag(value).ok_or_else(|| wrong("0 or 1"))?,
                "IMEX_CMD_UNIX_DOMAIN_PATH" => config.command_socket = given().map(PathBuf::from),
                "BIND_INTERFACE_IP" => config.bind = given(),
                "IMEX_NODE_CONFIG_FILE" => config.nodes_file = PathBuf::from(value),
                "IMEX_WAIT_FOR_QUORUM" => {
                    config.quorum = match value {
                        "NONE" => Quorum::None,
                        "RECOVERY" => Quorum::Recovery,
                        _ => return Err(wrong("NONE or RECOVERY")),
                    }
                }
                "IMEX_NODE_DISCONNECTED_GRACE_TIME" => {
                    config.grace_seconds =
                        value.parse().map_err(|_| wrong("a number of seconds"))?;
                }
                "IMEX_ENABLE_AUTH_ENCRYPTION" => {
                    security.enabled = flag(value).ok_or_else(|| wrong("0 or 1"))?;
                }
                _ => security.take(key, value),
            }
        }
        config.credentials = security.credentials()?;
        config.command_port = port.filter(|_| commands);
        Ok(config)
    }
}

/// What the file says of authentication and encryption.
#[derive(Default)]
struct Security {
    enabled: bool,
    values: BTreeMap<String, String>,
}

impl Security {
    fn take(&mut self, key: &str, value: &str) {
        self.values.insert(key.to_owned(), value.to_owned());
    }

    fn value(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// None where it is off. Like the real one it does not start with an empty or unknown mode or source; of both, one is
    /// simulated.
    fn credentials(&self) -> Result<Option<Credentials>, ConfigError> {
        if !self.enabled {
            return Ok(None);
        }
        for (key, simulated) in [
            ("IMEX_AUTH_ENCRYPTION_MODE", "SSL_TLS"),
            ("IMEX_AUTH_SOURCE", "FILE"),
        ] {
            let value = self.value(key);
            if value != simulated {
                return Err(ConfigError::Security {
                    key: key.to_owned(),
                    value: value.to_owned(),
                    expected: simulated,
                });
            }
        }
        let target = self.value("IMEX_SECURITY_TARGET_OVERRIDE");
        Ok(Some(Credentials {
            server: self.files("SERVER")?,
            client: self.files("CLIENT")?,
            target: (!target.is_empty()).then(|| target.to_owned()),
        }))
    }

    fn files(&self, side: &str) -> Result<[PathBuf; 3], ConfigError> {
        let mut files = <[PathBuf; 3]>::default();
        for (file, kind) in files.iter_mut().zip(CREDENTIALS) {
            let key = format!("IMEX_{side}_{kind}");
            *file = PathBuf::from(self.value(&key));
            if file.as_os_str().is_empty() {
                return Err(ConfigError::Security {
                    key,
                    value: String::new(),
                    expected: "the path of a file",
                });
            }
        }
        Ok(files)
    }
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_and_those_of_no_meaning_here_are_passed_over() {
        let text = "# a comment\nLOG_LEVEL=4\nSERVER_PORT=51000\nIMEX_CMD_PORT=51005\n\
                    IMEX_CMD_UNIX_DOMAIN_PATH=/run/x.sock\nIMEX_NODE_CONFIG_FILE=/n.cfg\n\
                    IMEX_WAIT_FOR_QUORUM=NONE\nIMEX_ENABLE_AUTH_ENCRYPTION=0\nDAEMONIZE=0\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(
            (config.server_port, config.command_port),
            (51000, Some(51005))
        );
        assert_eq!(
            config.command_socket.as_deref(),
            Some(Path::new("/run/x.sock"))
        );
        assert_eq!((config.quorum, config.grace_seconds), (Quorum::None, -1));
        let off = Config::parse("IMEX_CMD_ENABLED=0\nIMEX_CMD_PORT=1\n").unwrap();
        assert_eq!(off.command_port, None);
    }

    #[test]
    fn a_value_that_is_none_is_refused_with_its_line_and_key() {
        for (text, mentions) in [
            ("\nSERVER_PORT=x", "line 2: SERVER_PORT=x"),
            ("IMEX_WAIT_FOR_QUORUM=FULL", "NONE or RECOVERY"),
            ("IMEX_ENABLE_AUTH_ENCRYPTION=yes", "0 or 1"),
            (
                "IMEX_ENABLE_AUTH_ENCRYPTION=1",
                "IMEX_AUTH_ENCRYPTION_MODE= is not SSL_TLS",
            ),
            (
                "IMEX_ENABLE_AUTH_ENCRYPTION=1\nIMEX_AUTH_ENCRYPTION_MODE=SSL_TLS",
                "IMEX_AUTH_SOURCE= is not FILE",
            ),
            (
                "IMEX_ENABLE_AUTH_ENCRYPTION=1\nIMEX_AUTH_ENCRYPTION_MODE=SSL_TLS\n\
                 IMEX_AUTH_SOURCE=FILE\nIMEX_SERVER_KEY=/k",
                "IMEX_SERVER_CERT= is not the path of a file",
            ),
        ] {
            let message = Config::parse(text).unwrap_err().to_string();
            assert!(message.contains(mentions), "{message}");
        }
    }
}
