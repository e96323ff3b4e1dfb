//! Where the container's root is, and which its process: the OCI state on standard input, and the bundle that it names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// Far above what any runtime writes; a state is less than a kilobyte of its own fields, and
/// annotations.
const STATE_MAX: u64 = 16 << 20;

/// The parts of the OCI state that matter here.
#[derive(Deserialize)]
struct State {
    bundle: PathBuf,
    /// As the host numbers it. It is missing, or 0, before the runtime has started one.
    #[serde(default)]
    pid: Option<u32>,
}

/// The parts of a bundle's `config.json` that matter here.
#[derive(Deserialize)]
struct Config {
    root: Root,
}

#[derive(Deserialize)]
struct Root {
    path: PathBuf,
}

/// Why the container's root is not known.
#[derive(Debug, Error)]
pub(crate) enum StateError {
    #[error(
        "understand the container's state on standard input; the hook must be run by a container \
         runtime"
    )]
    ParseState(#[source] serde_json::Error),
    #[error("the container's state names no process; the hook must be run as createRuntime")]
    NoProcess,
    #[error("open the bundle's {}", path.display())]
    OpenConfig {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("understand the bundle's {}", path.display())]
    ParseConfig {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// The process that will become the container's.
pub(crate) fn container_process(state: impl Read) -> Result<u32, StateError> {
    let pid = read(state)?.pid.filter(|pid| *pid != 0);
    pid.ok_or(StateError::NoProcess)
}

fn read(state: impl Read) -> Result<State, StateError> {
    serde_json::from_reader(state.take(STATE_MAX)).map_err(StateError::ParseState)
}

/// The container's root as the host sees it.
pub(crate) fn container_root(state: impl Read) -> Result<PathBuf, StateError> {
    let state = read(state)?;
    let path = state.bundle.join("config.json");
    let file = File::open(&path).map_err(|source| StateError::OpenConfig {
        path: path.clone(),
        source,
    })?;
    let config: Config = serde_json::from_reader(io::BufReader::new(file))
        .map_err(|source| StateError::ParseConfig { path, source })?;
    Ok(below(&state.bundle, &config.root.path))
}

/// A relative root is relative to the bundle (OCI runtime specification, `root.path`).
fn below(bundle: &Path, root: &Path) -> PathBuf {
    bundle.join(root)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_root_is_found_relative_to_its_bundle_or_by_its_own_path() {
        let bundle = tempfile::tempdir().unwrap();
        let state = format!(
            r#"{{"ociVersion":"1.2.0","id":"a","status":"creating","pid":1,"bundle":{:?}}}"#,
            bundle.path()
        );
        for (root, expected) in [
            ("rootfs", bundle.path().join("rootfs")),
            ("/run/rootfs", PathBuf::from("/run/rootfs")),
        ] {
            let config = format!(r#"{{"ociVersion":"1.2.0","root":{{"path":{root:?}}}}}"#);
            fs::write(bundle.path().join("config.json"), config).unwrap();
            assert_eq!(container_root(state.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn the_container_s_process_is_named_or_there_is_none() {
        let found = container_process(&br#"{"bundle":"/b","pid":4711}"#[..]);
        assert_eq!(found.unwrap(), 4711);
        for state in [
            r#"{"bundle":"/b"}"#,
            r#"{"bundle":"/b","pid":null}"#,
            r#"{"bundle":"/b","pid":0}"#,
        ] {
            let none = container_process(state.as_bytes());
            assert!(matches!(none, Err(StateError::NoProcess)));
        }
    }

    #[test]
    fn a_state_or_a_bundle_that_is_none_is_refused_with_its_path() {
        assert!(matches!(
            container_root(&b"{}"[..]),
            Err(StateError::ParseState(_))
        ));
        let error = container_root(&br#"{"bundle":"/gone"}"#[..]).unwrap_err();
        assert!(error.to_string().contains("/gone/config.json"), "{error}");
    }
}
