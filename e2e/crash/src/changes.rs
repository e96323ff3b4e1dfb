//! Which system calls may change a file, and which file a call is about.
#![allow(
    clippy::cast_possible_truncation,
    reason = "descriptors and flags are the lower halves of their registers"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::Failure;

/// Where the arguments of a call name its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// By a path that may be made, if the flags at the second position say so.
    Opened(At, usize),
    /// By a path.
    Path(At),
    /// By two paths in directories of the same tree; the second is the one that is made.
    Paths(At, At),
    /// By an open file.
    Descriptor(usize),
    /// By the path of a Unix socket.
    Socket(usize),
}

/// Positions of a path: the descriptor of the directory that it starts in, if the call takes one, and the path's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At(Option<usize>, usize);

use Names::{Descriptor, Opened, Paths, Socket};

/// Every call by which a file, a directory or a socket comes, goes or changes.
const CALLS: &[(libc::c_long, &str, Names)] = &[
    (libc::SYS_openat, "openat", Opened(At(Some(0), 1), 2)),
    (libc::SYS_unlinkat, "unlink", Names::Path(At(Some(0), 1))),
    (libc::SYS_mkdirat, "mkdir", Names::Path(At(Some(0), 1))),
    (libc::SYS_mknodat, "mknod", Names::Path(At(Some(0), 1))),
    (libc::SYS_symlinkat, "symlink", Names::Path(At(Some(1), 2))),
    (libc::SYS_fchmodat, "chmod", Names::Path(At(Some(0), 1))),
    (libc::SYS_truncate, "truncate", Names::Path(At(None, 0))),
    (
        libc::SYS_renameat,
        "rename",
        Paths(At(Some(0), 1), At(Some(2), 3)),
    ),
    (
        libc::SYS_renameat2,
        "rename",
        Paths(At(Some(0), 1), At(Some(2), 3)),
    ),
    (
        libc::SYS_linkat,
        "link",
        Paths(At(Some(0), 1), At(Some(2), 3)),
    ),
    (libc::SYS_write, "write", Descriptor(0)),
    (libc::SYS_writev, "write", Descriptor(0)),
    (libc::SYS_pwrite64, "write", Descriptor(0)),
    (libc::SYS_pwritev, "write", Descriptor(0)),
    (libc::SYS_copy_file_range, "copy", Descriptor(2)),
    (libc::SYS_sendfile, "copy", Descriptor(0)),
    (libc::SYS_ftruncate, "truncate", Descriptor(0)),
    (libc::SYS_fallocate, "allocate", Descriptor(0)),
    (libc::SYS_fchmod, "chmod", Descriptor(0)),
    (libc::SYS_bind, "bind", Socket(1)),
];

/// Calls that only older architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(libc::c_long, &str, Names)] = &[
    (libc::SYS_open, "open", Opened(At(None, 0), 1)),
    (libc::SYS_creat, "create", Names::Path(At(None, 0))),
    (libc::SYS_unlink, "unlink", Names::Path(At(None, 0))),
    (libc::SYS_mkdir, "mkdir", Names::Path(At(None, 0))),
    (libc::SYS_rmdir, "rmdir", Names::Path(At(None, 0))),
    (libc::SYS_mknod, "mknod", Names::Path(At(None, 0))),
    (libc::SYS_symlink, "symlink", Names::Path(At(None, 1))),
    (libc::SYS_chmod, "chmod", Names::Path(At(None, 0))),
    (libc::SYS_rename, "rename", Paths(At(None, 0), At(None, 1))),
    (libc::SYS_link, "link", Paths(At(None, 0), At(None, 1))),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(libc::c_long, &str, Names)] = &[];

/// A filter that stops a traced process at each of these calls and at no other.
pub(crate) fn filter() -> Result<BpfProgram, Failure> {
    let rules: BTreeMap<i64, _> = CALLS
        .iter()
        .chain(OLD_CALLS)
        .map(|(number, ..)| (*number, Vec::new()))
        .collect();
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let traced = SeccompAction::Trace(0);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, traced, arch)?;
    Ok(BpfProgram::try_from(filter)?)
}

/// What the call at which `task` has stopped may change below `root`; nothing if it changes nothing there.
pub(crate) fn change(task: Pid, root: &Path) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{task}/syscall")).ok()?;
    let (number, arguments) = parse(&line)?;
    let known = CALLS.iter().chain(OLD_CALLS);
    let (_, name, names) = known.into_iter().find(|(known, ..)| *known == number)?;
    let path = file(task, *names, &arguments)?;
    let below = path.strip_prefix(root).ok()?;
    Some(format!("{name} {}", below.display()))
}

/// The number and the arguments of a system call as `/proc/<task>/syscall` shows them.
fn parse(line: &str) -> Option<(libc::c_long, [u64; 6])> {
    let mut words = line.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        let word = words.next()?.strip_prefix("0x")?;
        *argument = u64::from_str_radix(word, 16).ok()?;
    }
    Some((number, arguments))
}

fn file(task: Pid, names: Names, arguments: &[u64; 6]) -> Option<PathBuf> {
    match names {
        Opened(at, flags) => {
            let made = libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY;
            (arguments[flags] as i32 & made != 0).then(|| path(task, at, arguments))?
        }
        Names::Path(at) | Paths(_, at) => path(task, at, arguments),
        Descriptor(position) => opened(task, arguments[position]),
        // The path of a `sockaddr_un` follows two bytes of its family.
        Socket(position) => text(task, arguments[position] + 2),
    }
}

fn path(task: Pid, At(directory, position): At, arguments: &[u64; 6]) -> Option<PathBuf> {
    let path = text(task, arguments[position])?;
    if path.is_absolute() {
        return Some(path);
    }
    // A descriptor is an `int`: what the upper half of its register holds means nothing.
    let start = directory.map(|directory| arguments[directory] as i32);
    let start = match start {
        Some(descriptor) if descriptor != libc::AT_FDCWD => format!("fd/{descriptor}"),
        _ => "cwd".to_owned(),
    };
    let start = fs::read_link(format!("/proc/{task}/{start}")).ok()?;
    Some(start.join(path))
}

fn opened(task: Pid, descriptor: u64) -> Option<PathBuf> {
    let descriptor = descriptor as i32;
    fs::read_link(format!("/proc/{task}/fd/{descriptor}")).ok()
}

/// The C string at an address of the task.
fn text(task: Pid, mut address: u64) -> Option<PathBuf> {
    /// No page is smaller, and what lies behind one may not be there.
    const PAGE: u64 = 4096;
    let memory = File::open(format!("/proc/{task}/mem")).ok()?;
    let mut text = Vec::new();
    while text.len() < libc::PATH_MAX as usize {
        let mut page = vec![0; usize::try_from(PAGE - address % PAGE).ok()?];
        memory.read_exact_at(&mut page, address).ok()?;
        if let Some(end) = page.iter().position(|byte| *byte == 0) {
            text.extend(&page[..end]);
            return Some(PathBuf::from(OsStr::from_bytes(&text)));
        }
        address += page.len() as u64;
        text.extend(page);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_what_the_kernel_shows() {
        let line = "82 0x7ff 0x10 0x0 0x1 0x2 0x3 0x7ffea955e998 0x7fa8e1891c47\n";
        assert_eq!(parse(line), Some((82, [0x7ff, 0x10, 0, 1, 2, 3])));
        assert_eq!(parse("running\n"), None);
        assert_eq!(parse("-1 0x0 0x0\n"), None);
    }
}
