//! Has a container limited in its GPU memory before any process of it runs.
//!
//! The runtime calls the hook as `createRuntime`: it has made the container's cgroup, and put the process into it
//! that will become the container's. What is asked for stands in the arguments, which no image can change; in
//! which cgroup that process is, the kernel says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tessera_limit_call::{Answer, AskError, Request, RequestError, ask};
use thiserror::Error;

/// How long the node may take. Shorter than the time that the spec gives the hook, so that it is the hook that says what
/// was waited for; longer than the plugin needs to be replaced.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) socket: String,
    pub(crate) share: String,
    pub(crate) gpu: String,
    pub(crate) bytes: u64,
}

/// Why the container is not limited, and so must not start.
#[derive(Debug, Error)]
pub(crate) enum LimitError {
    #[error("read in which cgroup the container is, from {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the container is in no cgroup of version 2 of its own ({} says so), and the NVIDIA driver limits no others; \
         let the runtime use the unified hierarchy", path.display()
    )]
    NoCgroup { path: PathBuf },
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the container cannot be held to its share {share}: {why}")]
    Refused { share: String, why: String },
}

/// Returns when the container with this process is held to the limit.
pub(crate) fn apply(limit: &Limit, process: u32) -> Result<(), LimitError> {
    let request = Request {
        share: limit.share.clone(),
        gpu: limit.gpu.clone(),
        bytes: limit.bytes,
        cgroup: cgroup_of(Path::new("/proc"), process)?,
    };
    request.check()?;
    match ask(Path::new(&limit.socket), &request, PATIENCE)? {
        Answer::Held => Ok(()),
        Answer::Refused(why) => Err(LimitError::Refused {
            share: limit.share.clone(),
            why,
        }),
    }
}

/// The cgroup of version 2 that a process is in: the line of hierarchy 0 (`cgroup-v2.rst` of the kernel, "Processes").
///
/// The root is nobody's own: on a node with cgroups of version 1 every process is in that of the unified hierarchy.
fn cgroup_of(proc: &Path, process: u32) -> Result<String, LimitError> {
    let path = proc.join(process.to_string()).join("cgroup");
    let text = fs::read_to_string(&path).map_err(|source| LimitError::Read {
        path: path.clone(),
        source,
    })?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"));
    match own {
        Some(own) if own != "/" => Ok(own.to_owned()),
        Some(_) | None => Err(LimitError::NoCgroup { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_is_that_of_the_unified_hierarchy_and_not_its_root() {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("7");
        fs::create_dir(&process).unwrap();
        for (text, expected) in [
            ("0::/kubepods/a\n", Some("/kubepods/a")),
            ("12:memory:/a\n1:cpu:/a\n0::/b\n", Some("/b")),
            ("12:memory:/kubepods/a\n0::/\n", None),
            ("12:memory:/kubepods/a\n", None),
            ("", None),
        ] {
            fs::write(process.join("cgroup"), text).unwrap();
            let found = cgroup_of(proc.path(), 7);
            assert_eq!(found.ok().as_deref(), expected, "{text:?}");
        }
        assert!(matches!(
            cgroup_of(proc.path(), 8),
            Err(LimitError::Read { .. })
        ));
    }
}
