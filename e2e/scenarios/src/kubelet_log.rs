//! What a kubelet writes from a moment on: some of what it does is told nowhere else.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tessera_cluster::{Node, Release, interrupt};

use crate::failure::Failure;

/// Something that a kubelet writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It has deleted the slices of its node, as it does when it starts.
    Wiped,
    /// It has taken a DRA driver on.
    Registered,
}

impl Said {
    /// How the kubelet of this release writes it (`pkg/kubelet/cm/dra/plugin`).
    fn words(self, release: Release) -> &'static str {
        match (self, release) {
            (Self::Wiped, _) => "\"Deleted ResourceSlices\"",
            (Self::Registered, Release::V1_33) => "\"Register new DRA plugin\"",
            (Self::Registered, Release::V1_34 | Release::V1_36) => "\"Registered DRA plugin\"",
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The log of a node's kubelet, from where it ended when this value was made.
pub(crate) struct KubeletLog {
    path: PathBuf,
    from: u64,
    release: Release,
}

impl KubeletLog {
    /// From now on.
    pub(crate) fn of(node: &Node) -> Result<Self, Failure> {
        let release = node.kubelet();
        let path = node.log("kubelet");
        let length = std::fs::metadata(&path).map(|file| file.len());
        match length {
            Ok(from) => Ok(Self {
                path,
                from,
                release,
            }),
            Err(reason) => Err(Failure::File { path, reason }),
        }
    }

    /// Waits until the kubelet has written each of these.
    pub(crate) fn wait(&self, wanted: &[Said], limit: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let written = self.read().map_err(|reason| Failure::File {
                path: self.path.clone(),
                reason,
            })?;
            let words = wanted.iter().map(|said| said.words(self.release));
            let missing: Vec<_> = words.filter(|words| !written.contains(*words)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if interrupt::requested() {
                return Err(Failure::Interrupted);
            }
            if Instant::now() >= deadline {
                return Err(Failure::Slow {
                    what: format!("{missing:?} in the kubelet's log"),
                    limit,
                    seen: format!("  see {}", self.path.display()),
                });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn read(&self) -> io::Result<String> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
