//! Takes a node over from the reference driver, before the kubelet is served.
//!
//! # Flow
//! Where its `checkpoint.json` lies in the plugin's directory, this waits until nobody of the reference
//! driver is at work there, has a record made of each claim, and puts the file away under another name,
//! by which nobody reads it. A start after that finds none. One that is interrupted finds the file and
//! does the same again; only when it is put away may the kubelet's calls be answered, for a claim that
//! was unprepared meanwhile would be taken over a second time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tessera_prepare::checkpoint::Checkpoint;
use tessera_prepare::takeover::{Report, Takeover};
use thiserror::Error;
use tokio::net::UnixStream;
use tracing::{info, warn};

use crate::claim_reader::ClaimReader;
use crate::claims::{ClaimError, Claims};
use crate::deadline::Deadline;
use crate::executor::Node;
use crate::file_error::{FileError, concerns_the_file, if_there};
use crate::journal::Records;

/// What the reference driver knows of its claims.
const CHECKPOINT: &str = "checkpoint.json";

/// Where that is kept.
const KEPT: &str = "checkpoint.json.taken-over";

/// The files that the reference driver locks (`flock`) while it prepares a claim and while it uses the
/// checkpoint.
const LOCKS: [&str; 2] = ["pu.lock", "cp.lock"];

/// Bytes of the largest checkpoint that is read. A claim takes a few thousand.
const LARGEST: u64 = 16 * 1024 * 1024;

/// How long the reference driver may take to end, and after that the writing of records.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks for its end.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A node that could not be taken over.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// The reference driver is still there.
    #[error(
        "the reference driver is still at work on this node ({}); two drivers must not hand out the \
         same GPUs: uninstall it, and this one takes its claims over",
        path.display()
    )]
    AtWork {
        /// What tells.
        path: PathBuf,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A record.
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    fate: &'static str,
}

/// Counts claims that were taken over.
#[derive(Clone, Debug, Default)]
pub struct TakeoverMetrics(Family<Labels, Counter>);

impl TakeoverMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tessera_takeover_claims",
            "Claims of the reference driver that this process found, by what became of them",
            metrics.0.clone(),
        );
        metrics
    }

    fn count(&self, takeover: &Takeover) {
        for taken in &takeover.claims {
            let fate = taken.fate.label();
            self.0.get_or_create(&Labels { fate }).inc();
        }
    }
}

/// Takes the node over, if the reference driver has left a checkpoint in `directory`.
pub async fn take_over<A: ClaimReader, R: Records, N: Node>(
    directory: &Path,
    claims: &Claims<A, R, N>,
    metrics: &TakeoverMetrics,
) -> Result<Option<Report>, TakeoverError> {
    let path = directory.join(CHECKPOINT);
    let found = if_there(fs::symlink_metadata(&path));
    if found.map_err(FileError::of("look for", &path))?.is_none() {
        return Ok(None);
    }
    let _alone = await_its_end(directory, Deadline::after(PATIENCE)).await?;
    let outcome = match read(&path)? {
        Ok(checkpoint) => Ok(claims.take_over(&checkpoint, PATIENCE).await?),
        Err(why) => Err(why),
    };
    let kept = put_away(directory)?;
    if let Ok(takeover) = &outcome {
        metrics.count(takeover);
    }
    let report = Report {
        outcome,
        kept: kept.display().to_string(),
    };
    if report.is_warning() {
        warn!("{report}");
    } else {
        info!("{report}");
    }
    Ok(Some(report))
}

/// Waits until nobody of the reference driver is at work, and keeps it so while what is returned lives.
async fn await_its_end(directory: &Path, deadline: Deadline) -> Result<Vec<File>, TakeoverError> {
    loop {
        match look_for_its_end(directory).await? {
            Ok(alone) => return Ok(alone),
            Err(path) if !deadline.allows(LOOK_AGAIN) => {
                return Err(TakeoverError::AtWork { path });
            }
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Its locks, or what tells that it is at work.
async fn look_for_its_end(directory: &Path) -> Result<Result<Vec<File>, PathBuf>, FileError> {
    if let Some(socket) = answering_socket(directory).await? {
        return Ok(Err(socket));
    }
    let mut locks = Vec::new();
    for name in LOCKS {
        let path = directory.join(name);
        let opened = if_there(File::open(&path)).map_err(FileError::of("open", &path))?;
        let Some(file) = opened else { continue };
        match file.try_lock() {
            Ok(()) => locks.push(file),
            Err(TryLockError::WouldBlock) => return Ok(Err(path)),
            Err(TryLockError::Error(reason)) => return Err(FileError::of("lock", &path)(reason)),
        }
    }
    Ok(Ok(locks))
}

/// A socket on which the reference driver takes the kubelet's calls: `dra.sock`, or with a pod's UID in
/// its name. Ours have an `@`.
async fn answering_socket(directory: &Path) -> Result<Option<PathBuf>, FileError> {
    let failed = || FileError::of("list", directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let is_socket = path.extension().is_some_and(|ending| ending == "sock");
        let is_its = |name: &str| name.starts_with("dra") && !name.contains('@');
        if !is_socket || !name.is_some_and(is_its) {
            continue;
        }
        // One that has no place for another connection answers nobody, and is there.
        match UnixStream::connect(&path).await {
            Ok(_) => return Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(path)),
            Err(_) => {}
        }
    }
    Ok(None)
}

/// What the file says, or why nobody can tell.
fn read(path: &Path) -> Result<Result<Checkpoint, String>, FileError> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    Ok(match file {
        Ok(_) if bytes.len() as u64 > LARGEST => Err(format!("it has more than {LARGEST} bytes")),
        Ok(_) => Checkpoint::decode(&bytes).map_err(|error| error.to_string()),
        Err(reason) if concerns_the_file(&reason) => Err(reason.to_string()),
        Err(reason) => return Err(FileError::of("read", path)(reason)),
    })
}

/// Renames the checkpoint, and has that written to the disk: unlike the records it outlives the boot.
fn put_away(directory: &Path) -> Result<PathBuf, FileError> {
    let (from, to) = (directory.join(CHECKPOINT), directory.join(KEPT));
    let renamed = fs::rename(&from, &to).and_then(|()| sync(directory));
    renamed.map_err(FileError::of("put away", &from))?;
    Ok(to)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
