//! A container's file system, in which no path leads out.
//!
//! The kernel resolves every path with the container's root as a limit (`openat2(2)` with
//! `RESOLVE_IN_ROOT`), so links and `..` mean what they mean inside the container. What is changed
//! is changed relative to a folder that was opened so, under one name: new content replaces whatever
//! has the name by `rename(2)`, which follows no link.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2, readlinkat, renameat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use thiserror::Error;

/// Attempts to resolve a path while somebody renames parts of it. The kernel gives up on each with
/// `EAGAIN` when it cannot be sure that the path stayed inside.
const ATTEMPTS: u32 = 16;

/// Why the container's root is out of reach.
#[derive(Debug, Error)]
#[error("open the container's root {}", path.display())]
pub(crate) struct RootfsError {
    path: PathBuf,
    #[source]
    source: Errno,
}

/// The root of a container's file system.
#[derive(Debug)]
pub(crate) struct Rootfs {
    root: OwnedFd,
}

impl Rootfs {
    /// Opens the root at the host's path.
    pub(crate) fn open(path: &Path) -> Result<Self, RootfsError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, path, flags, Mode::empty()).map_err(|source| RootfsError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self { root })
    }

    /// The root itself.
    pub(crate) fn into_root(self) -> OwnedFd {
        self.root
    }

    /// Opens a folder, and makes those folders of its path that are missing.
    pub(crate) fn make_folder(&self, path: &str) -> Result<Folder, Errno> {
        let mut folder = self.folder("/")?;
        let mut done = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            done = format!("{done}/{part}");
            folder = match self.folder(&done) {
                Err(Errno::NOENT) => {
                    match mkdirat(&folder.0, part, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    self.folder(&done)?
                }
                opened => opened?,
            };
        }
        Ok(folder)
    }

    fn folder(&self, path: &str) -> Result<Folder, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        in_root(&self.root, path, flags).map(Folder)
    }
}

/// A folder inside a container's root.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Makes `name` a link with this text, in place of whatever it was, if it was no folder.
    pub(crate) fn put_link(&self, name: &str, text: &str) -> Result<(), Errno> {
        let there = readlinkat(&self.0, name, Vec::new());
        if there.is_ok_and(|there| there.as_bytes() == text.as_bytes()) {
            return Ok(());
        }
        self.replace(name, |new| symlinkat(text, &self.0, new))
    }

    /// Makes `name` a file with this content, in place of whatever it was, if it was no folder.
    pub(crate) fn put_file(&self, name: &str, content: &str) -> io::Result<()> {
        if self.has_file(name, content) {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o644);
        let mut written = Ok(());
        self.replace(name, |new| {
            let file = fs::openat(&self.0, new, flags | OFlags::CLOEXEC, mode)?;
            written = std::fs::File::from(file).write_all(content.as_bytes());
            Ok(())
        })?;
        written
    }

    /// Whether a regular file has just this content. What cannot be read has not.
    fn has_file(&self, name: &str, content: &str) -> bool {
        // Without NONBLOCK, opening a named pipe would wait for somebody to write to it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = fs::openat(&self.0, name, flags, Mode::empty()) else {
            return false;
        };
        let is_file =
            fs::fstat(&file).is_ok_and(|stat| fs::FileType::from_raw_mode(stat.st_mode).is_file());
        let mut there = Vec::new();
        let limit = content.len() as u64 + 1;
        is_file
            && std::fs::File::from(file)
                .take(limit)
                .read_to_end(&mut there)
                .is_ok()
            && there == content.as_bytes()
    }

    /// Makes something under another name and gives it the right one.
    fn replace(
        &self,
        name: &str,
        make: impl FnOnce(&str) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let new = format!(".{name}.tessera");
        // Left behind by a run that was killed, or put there by the tenant.
        match unlinkat(&self.0, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT | Errno::ROFS) => {}
            Err(errno) => return Err(errno),
        }
        make(&new)?;
        renameat(&self.0, &new, &self.0, name).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = unlinkat(&self.0, &new, AtFlags::empty());
        })
    }
}

fn in_root(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut attempt = 1;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if attempt < ATTEMPTS => attempt += 1,
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests;
