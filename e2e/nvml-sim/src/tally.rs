//! What this process has counted for itself: how many calls each injection has seen.
//!
//! The counts lie in an anonymous file of the process (`memfd_create`), which no file system sees
//! and which needs no right to write anywhere. Memory of the library would not do: a program may
//! close the library after a few calls and open it again, and goes on counting then. The file ends
//! with the process and is not handed to a program that it executes.

use std::{
    fs::{self, File},
    io,
    os::{fd::IntoRawFd, unix::fs::FileExt},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use rustix::fs::MemfdFlags;
use tessera_hw::{Effect, Node};

const NAME: &str = "tessera-hw-tally";

/// An injection's number and its count, eight bytes each.
const ENTRY_LEN: usize = 16;

static TURN: Mutex<()> = Mutex::new(());

/// The file name of the program that this process runs.
pub(crate) fn program() -> Option<String> {
    let path = fs::read_link("/proc/self/exe").ok()?;
    let name = path.file_name()?.to_str()?;
    // The kernel says so of a program whose file was replaced while it runs.
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

/// Counts a call of `function` for the injections that each process of `program` counts for itself,
/// and returns what happens to it and by which injection.
pub(crate) fn observe(
    node: &Node,
    program: &str,
    function: &str,
) -> io::Result<Vec<(u64, Effect)>> {
    let mut due = Vec::new();
    for injection in node.each_in(program, function) {
        let call = count(injection.id)?;
        due.extend(injection.touches(call).map(|effect| (injection.id, effect)));
    }
    Ok(due)
}

/// Counts once more for this injection: 1 at the first time.
fn count(injection: u64) -> io::Result<u64> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let file = file()?;
    let mut at = 0;
    let mut entry = [0; ENTRY_LEN];
    while file.read_at(&mut entry, at)? == ENTRY_LEN {
        let (id, seen) = decode(entry);
        if id == injection {
            file.write_all_at(&encode(id, seen + 1), at)?;
            return Ok(seen + 1);
        }
        at += ENTRY_LEN as u64;
    }
    file.write_all_at(&encode(injection, 1), at)?;
    Ok(1)
}

fn encode(id: u64, seen: u64) -> [u8; ENTRY_LEN] {
    (u128::from(id) << 64 | u128::from(seen)).to_be_bytes()
}

fn decode(entry: [u8; ENTRY_LEN]) -> (u64, u64) {
    let both = u128::from_be_bytes(entry);
    let low = u128::from(u64::MAX);
    let half = |half: u128| u64::try_from(half & low).unwrap_or(u64::MAX);
    (half(both >> 64), half(both))
}

/// The file of this process, made at the first call.
fn file() -> io::Result<File> {
    let path = if let Some(path) = find()? {
        path
    } else {
        let made = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC)?;
        // It stays open for as long as the process lives.
        PathBuf::from(format!("/proc/self/fd/{}", made.into_raw_fd()))
    };
    File::options().read(true).write(true).open(path)
}

/// Another copy or a former load of this library may have made it.
fn find() -> io::Result<Option<PathBuf>> {
    let wanted = PathBuf::from(format!("/memfd:{NAME} (deleted)"));
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // One that was closed meanwhile is not it.
        if fs::read_link(&path).is_ok_and(|target| target == wanted) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
