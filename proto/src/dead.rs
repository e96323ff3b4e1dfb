//! Removes the sockets that dead instances of a driver left.
//!
//! An instance that is killed leaves its two sockets. Where their names carry a pod's UID, no later
//! instance binds and so replaces them, and the kubelet dials each registration socket that it finds
//! when it starts, again and again.
//!
//! # Guarantees
//! The sockets of a living instance stay: only one that refuses connections, and has done so for
//! longer than binding takes, is removed.

use std::fs;
use std::io;
use std::path::Path;

use crate::names::{is_dra_socket, is_registration_socket};
use crate::uds::remove_dead;

/// Removes what dead instances of `driver` left below the kubelet's registration and plugin
/// directories. What cannot be removed harms nobody and is logged.
pub fn remove_dead_instances(registrar: &Path, plugins: &Path, driver: &str) {
    remove_in(registrar, |name| is_registration_socket(driver, name));
    remove_in(&plugins.join(driver), is_dra_socket);
}

fn remove_in(directory: &Path, is_ours: impl Fn(&str) -> bool) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            let directory = directory.display();
            tracing::warn!(%directory, %error, "old sockets could not be looked for");
            return;
        }
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    for name in names.filter(|name| name.to_str().is_some_and(&is_ours)) {
        let path = directory.join(name);
        match remove_dead(&path) {
            Ok(true) => tracing::info!(path = %path.display(), "removed a dead instance's socket"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an old socket was not removed");
            }
        }
    }
}
