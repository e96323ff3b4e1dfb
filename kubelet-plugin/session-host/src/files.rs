//! Writes what the daemon reads.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tessera_session::Roster;
use tessera_session::config::{Ports, Security, config_file};
use thiserror::Error;

/// A file that could not be read or written.
#[derive(Debug, Error)]
#[error("{attempt} {path}")]
pub struct FileError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// What failed when a file was worked on.
    pub fn of<'a>(attempt: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self {
            attempt,
            path: path.to_owned(),
            source,
        }
    }
}

/// The files of one daemon.
#[derive(Clone, Debug)]
pub struct Files {
    directory: PathBuf,
    hosts: PathBuf,
    ports: Ports,
    security: Security,
    state: Option<PathBuf>,
}

impl Files {
    /// Configuration and list of nodes in `directory`; the hosts file where the system looks for it.
    pub fn new(directory: &Path, hosts: &Path, ports: Ports, security: Security) -> Self {
        Self {
            directory: directory.to_owned(),
            hosts: hosts.to_owned(),
            ports,
            security,
            state: None,
        }
    }

    /// With the directory in which the daemon keeps what it must know after an unclean end.
    #[must_use]
    pub fn with_state(self, directory: &Path) -> Self {
        Self {
            state: Some(directory.to_owned()),
            ..self
        }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.cfg")
    }

    /// The record of the running daemon.
    pub fn record(&self) -> PathBuf {
        self.directory.join("daemon.json")
    }

    /// Which files the credentials are at this moment: another text, other files. Empty without credentials, and while one
    /// of them is missing.
    pub fn credentials(&self) -> String {
        let Security::Tls(tls) = &self.security else {
            return String::new();
        };
        let of = |path: &Path| {
            let facts = fs::metadata(path).ok()?;
            let (inode, changed) = (facts.ino(), (facts.mtime(), facts.mtime_nsec()));
            Some(format!(
                "{inode} {} {} {}",
                facts.len(),
                changed.0,
                changed.1
            ))
        };
        let all: Option<Vec<String>> = tls.files().into_iter().map(of).collect();
        all.map_or_else(String::new, |all| all.join(", "))
    }

    /// Writes configuration, list of nodes and hosts file. Credentials that cannot be read are an error here: what the
    /// daemon says of them is in its log alone.
    pub fn write(&self, roster: &Roster) -> Result<(), FileError> {
        if let Security::Tls(tls) = &self.security {
            for path in tls.files() {
                fs::File::open(path).map_err(FileError::of("read", path))?;
            }
        }
        let nodes = self.directory.join("nodes_config.cfg");
        let list = roster.nodes_file();
        if fs::read_to_string(&nodes).is_ok_and(|former| former != list) {
            self.forget()?;
        }
        replace(&nodes, &list)?;
        replace(
            &self.config(),
            &config_file(self.ports, &self.security, &nodes),
        )?;
        self.write_hosts(roster)
    }

    /// Removes what a daemon of another session has kept: the next one would wait for the peers of that session
    /// (`WAITING_FOR_RECOVERY`). The directory itself is mounted.
    fn forget(&self) -> Result<(), FileError> {
        let Some(state) = self.state.as_deref().filter(|state| state.exists()) else {
            return Ok(());
        };
        let entries = fs::read_dir(state).map_err(FileError::of("read", state))?;
        for entry in entries {
            let path = entry.map_err(FileError::of("read", state))?.path();
            if path.is_file() {
                fs::remove_file(&path).map_err(FileError::of("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Writes the hosts file. It is mounted into the container, so it can be written over and not replaced:
    /// in one write, which keeps its length unless lines came or went.
    pub fn write_hosts(&self, roster: &Roster) -> Result<(), FileError> {
        let path = &self.hosts;
        let present = fs::read_to_string(path).map_err(FileError::of("read", path))?;
        let wanted = roster.hosts_file(&present);
        if wanted == present {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(path);
        let file = file.map_err(FileError::of("open", path))?;
        file.write_all_at(wanted.as_bytes(), 0)
            .and_then(|()| file.set_len(wanted.len() as u64))
            .map_err(FileError::of("write", path))
    }
}

/// Puts a text in the place of a file.
pub fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(directory)
        .and_then(|()| NamedTempFile::new_in(directory))
        .and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file))
        .and_then(|file| file.persist(path).map_err(|error| error.error));
    written.map(drop).map_err(FileError::of("write", path))
}

#[cfg(test)]
mod tests {
    use tessera_session::config::Tls;
    use tessera_session::testing::{known_by, of_domains, roster};

    use super::*;

    fn clique(peer: &str) -> Roster {
        roster(1, &[("n0", 0, ""), ("n1", 1, peer)])
    }

    #[test]
    fn the_hosts_file_is_written_over_and_what_others_wrote_stays() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
        let session = directory.path().join("session");
        let files = Files::new(&session, &hosts, Ports::default(), Security::Open);
        files.write(&clique("10.0.0.2")).unwrap();
        let config = fs::read_to_string(files.config()).unwrap();
        assert!(config.contains("/session/nodes_config.cfg\n"), "{config}");
        let first = fs::read_to_string(&hosts).unwrap();
        assert!(first.starts_with("127.0.0.1 localhost\n"));
        // A file that was replaced would be another one under the mount.
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&hosts);
        files.write_hosts(&clique("10.0.0.99")).unwrap();
        assert_eq!(inode(&hosts), before);
        let second = fs::read_to_string(&hosts).unwrap();
        assert_eq!(first.len(), second.len());
        assert!(second.contains("10.0.0.99") && !second.contains("10.0.0.2 "));
    }

    #[test]
    fn what_a_daemon_has_kept_of_its_session_is_not_kept_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let (hosts, state) = (
            directory.path().join("hosts"),
            directory.path().join("imex"),
        );
        fs::write(&hosts, "").unwrap();
        fs::create_dir(&state).unwrap();
        let session = directory.path().join("session");
        let files = Files::new(&session, &hosts, Ports::default(), Security::Open);
        let files = files.with_state(&state);
        let of = |domain| known_by("a", &of_domains(&[("a", 0, "", domain)]));
        let kept = state.join("persist.dat");
        for (domain, stays) in [("one", true), ("one", true), ("two", false)] {
            fs::write(&kept, "peers").unwrap();
            files.write(&of(domain)).unwrap();
            assert_eq!(kept.exists(), stays, "{domain}");
        }
        assert!(state.exists());
    }

    #[test]
    fn credentials_that_are_missing_are_named_and_renewed_ones_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        fs::write(&hosts, "").unwrap();
        let tls = Tls::in_directory(directory.path(), "nvidia-imex");
        let security = Security::Tls(tls);
        let session = directory.path().join("session");
        let files = Files::new(&session, &hosts, Ports::default(), security);
        let missing = files.write(&clique("10.0.0.2")).unwrap_err();
        assert!(missing.to_string().contains("tls.key"), "{missing}");
        assert_eq!(files.credentials(), "");
        for name in ["tls.key", "tls.crt", "ca.crt"] {
            fs::write(directory.path().join(name), "x").unwrap();
        }
        files.write(&clique("10.0.0.2")).unwrap();
        let before = files.credentials();
        assert_ne!(before, "");
        // As the kubelet renews the files of a Secret: others take their places.
        let certificate = directory.path().join("tls.crt");
        fs::rename(&certificate, directory.path().join("old")).unwrap();
        fs::write(&certificate, "y").unwrap();
        assert_ne!(files.credentials(), before);
    }
}
