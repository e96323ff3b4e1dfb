//! A file system below a root, in which the kernel resolves links as if the root were `/`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::folders::join;

/// Attempts to open a path below the root. The kernel gives up on each with `EAGAIN` when anything
/// on the node is renamed meanwhile, because it cannot be sure then that the path stayed inside
/// (`openat2(2)`).
const ATTEMPTS: u32 = 64;

/// What a path leads to, as far as anybody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A Unix socket.
    Socket,
    /// A character device.
    Device,
}

impl Kind {
    fn matches(self, stat: &Stat) -> bool {
        let kind = FileType::from_raw_mode(stat.st_mode);
        match self {
            Self::File => kind == FileType::RegularFile,
            Self::Folder => kind == FileType::Directory,
            Self::Socket => kind == FileType::Socket,
            Self::Device => kind == FileType::CharacterDevice,
        }
    }
}

/// The state of the folders that a discovery looks into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<Option<Stamp>>);

/// A folder's identity and last change. The identity changes when another file system is mounted
/// there, as a driver container does when it starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// A root as this process sees it.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    /// The root's own path, without links.
    here: PathBuf,
}

impl Tree {
    /// The one at `mounted`.
    pub fn open(mounted: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, mounted, flags, Mode::empty())?;
        let here = path_of(&root)?;
        Ok(Self { root, here })
    }

    /// The file of this name in the first of these folders that has it: its absolute path below the root, without links.
    pub fn first(&self, folders: &[&str], name: &str) -> io::Result<Option<String>> {
        for folder in folders {
            let found = self.resolve(&join(folder, name), Kind::File)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The absolute path, below the root and without links, that `path` leads to, if that is of
    /// this kind. A link that leads nowhere is as good as nothing.
    pub fn resolve(&self, path: &str, kind: Kind) -> io::Result<Option<String>> {
        let Some(file) = self.open_in_root(path, OFlags::PATH)? else {
            return Ok(None);
        };
        if !kind.matches(&fs::fstat(&file)?) {
            return Ok(None);
        }
        let path = path_of(&file)?;
        let below = path.strip_prefix(&self.here).map_err(io::Error::other)?;
        // A path that is not UTF-8 can neither stand in JSON nor be a part of the driver.
        Ok(below.to_str().map(|below| format!("/{below}")))
    }

    /// The names in a folder, sorted.
    pub fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Some(folder) = self.open_in_root(folder, flags)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in Dir::new(folder)? {
            let entry = entry?;
            names.extend(entry.file_name().to_str().ok().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// What the link at `path` says, if it is one.
    pub fn link_text(&self, path: &str) -> io::Result<Option<String>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let Some(link) = self.open_in_root(path, flags)? else {
            return Ok(None);
        };
        if FileType::from_raw_mode(fs::fstat(&link)?.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let text = fs::readlinkat(&link, c"", Vec::new())?;
        Ok(CStr::to_str(&text).ok().map(str::to_owned))
    }

    /// A path below the root as this process sees it.
    pub fn local(&self, path: &str) -> PathBuf {
        self.here.join(path.trim_start_matches('/'))
    }

    /// The state of these paths. One that cannot be looked at counts as absent.
    pub fn fingerprint<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Fingerprint {
        let stamp = |path| {
            let file = self.open_in_root(path, OFlags::PATH).ok()??;
            let stat = fs::fstat(&file).ok()?;
            Some(Stamp {
                device: stat.st_dev,
                inode: stat.st_ino,
                changed: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).ok()?),
            })
        };
        Fingerprint(paths.map(stamp).collect())
    }

    fn open_in_root(&self, path: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        let mut attempt = 1;
        loop {
            match fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Ok(file) => return Ok(Some(file)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(Errno::AGAIN) if attempt < ATTEMPTS => attempt += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn path_of(file: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
