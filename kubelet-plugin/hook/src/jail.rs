//! Runs the host's `ldconfig` on a container's files, where there is nothing else.
//!
//! `ldconfig` reads libraries and follows links that a hostile tenant may have made, as root. So it
//! runs in a mount namespace of its own whose root holds two things: the container's root, in
//! which it shuts itself up (`-r`), and the program. The host's file system is not mounted there at
//! all, and the capabilities that could bring it back are gone. Neither can it be reached through
//! the container's `/proc`: this process keeps no file of the host open and cannot be inspected, and
//! the runtime's processes have more capabilities than `ldconfig`, which shuts their entries to it.
//!
//! Once [`run_ldconfig`] has begun, this process sees no file of the host any more: it must be the
//! last thing that the process does.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{env, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsmount, fsopen, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, fchdir, pidfd_open, pivot_root, set_dumpable_behavior,
};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use thiserror::Error;

use crate::rootfs::Rootfs;

/// Seconds for `ldconfig`. It takes tens of milliseconds on a usual image and a few seconds on one
/// with tens of thousands of libraries on a cold disk.
const LIMIT: i64 = 30;

/// What `ldconfig` says is told up to this many bytes.
const OUTPUT_MAX: u64 = 512;

/// What `ldconfig` may do as root: write where the container's root user may, and shut itself up.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::SYS_CHROOT);

const ROOT: &str = "rootfs";
const PROGRAM: &str = "ldconfig";

/// Why `ldconfig` did not do its work.
#[derive(Debug, Error)]
pub(crate) enum JailError {
    #[error(
        "shut ldconfig up with the container's files ({step}); the hook needs Linux 5.6 and must \
         run as root, as container runtimes run it"
    )]
    Enter {
        step: &'static str,
        #[source]
        source: Errno,
    },
    #[error("start ldconfig on the container's files")]
    Start(#[source] io::Error),
    #[error("wait for ldconfig on the container's files")]
    Wait(#[source] io::Error),
    #[error("run ldconfig on the container's files: not done after {LIMIT} s")]
    TooSlow,
    #[error("run ldconfig on the container's files: {status}; it said: {output}")]
    Failed { status: ExitStatus, output: String },
}

/// Rebuilds the container's loader cache, with these folders of the container before all others.
pub(crate) fn run_ldconfig(
    root: Rootfs,
    program: OwnedFd,
    folders: &[String],
) -> Result<(), JailError> {
    let at = |step| move |source| JailError::Enter { step, source };
    enter(root, program)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("shut /proc entries"))?;
    drop_capabilities().map_err(at("drop capabilities"))?;
    let output =
        memfd_create("ldconfig", MemfdFlags::CLOEXEC).map_err(at("make a file for its output"))?;
    let (status, output) = run(folders, output)?;
    if status.success() {
        return Ok(());
    }
    Err(JailError::Failed { status, output })
}

/// Moves this process into a mount namespace with nothing but the two, and closes what it had of
/// the former.
fn enter(root: Rootfs, program: OwnedFd) -> Result<(), JailError> {
    let at = |step| move |source| JailError::Enter { step, source };
    // Trees are taken before the namespace is left: later they would be those of another.
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = clone | OpenTreeFlags::AT_EMPTY_PATH;
    let root = open_tree(root.into_root(), c"", clone | OpenTreeFlags::AT_RECURSIVE)
        .map_err(at("take the container's root"))?;
    let program = open_tree(program, c"", clone).map_err(at("take the program"))?;

    unshare_mounts().map_err(at("unshare mounts"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(at("make mounts private"))?;

    let jail = empty_file_system().map_err(at("make a file system"))?;
    attach(&jail, CWD, "/").map_err(at("mount it"))?;
    mkdirat(&jail, ROOT, Mode::from_raw_mode(0o700)).map_err(at("make a mount point"))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    openat(&jail, PROGRAM, flags, Mode::empty()).map_err(at("make a mount point"))?;
    attach(&root, &jail, ROOT).map_err(at("mount the container's root"))?;
    attach(&program, &jail, PROGRAM).map_err(at("mount the program"))?;

    fchdir(&jail).map_err(at("enter"))?;
    pivot_root(".", ".").map_err(at("make it the root"))?;
    // The former root now lies over the new one at this very place.
    unmount(".", UnmountFlags::DETACH).map_err(at("leave the host's file system"))?;
    env::set_current_dir("/").map_err(|error| {
        let source = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        at("enter")(source)
    })
}

#[expect(
    deprecated,
    reason = "the successor is unsafe for the sake of other flags; a mount namespace breaks no \
              assumption that safe code makes"
)]
fn unshare_mounts() -> Result<(), Errno> {
    rustix::thread::unshare(UnshareFlags::NEWNS)
}

fn empty_file_system() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn attach(tree: &OwnedFd, folder: impl AsFd, path: &str) -> Result<(), Errno> {
    move_mount(
        tree,
        c"",
        folder,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// A program that is started by root gets what the bounding set and the inheritable set have.
fn drop_capabilities() -> Result<(), Errno> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // This kernel has no capability of the number.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    let kept = rustix::thread::capabilities(None)?.permitted & KEPT;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)
}

fn run(folders: &[String], output: OwnedFd) -> Result<(ExitStatus, String), JailError> {
    let both = output.try_clone().map_err(JailError::Start)?;
    let kept = output.try_clone().map_err(JailError::Start)?;
    let mut child = Command::new(format!("/{PROGRAM}"))
        .args([
            "-r",
            &format!("/{ROOT}"),
            "-C",
            "/etc/ld.so.cache",
            "-f",
            "/etc/ld.so.conf",
        ])
        .args(folders)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(both)
        .stderr(output)
        .spawn()
        .map_err(JailError::Start)?;
    let status = wait(&mut child)?;
    let mut kept = File::from(kept);
    let mut said = Vec::new();
    // Without its words the failure is still told.
    let _ = kept
        .rewind()
        .and_then(|()| kept.take(OUTPUT_MAX).read_to_end(&mut said));
    Ok((status, String::from_utf8_lossy(&said).trim().to_owned()))
}

/// A hostile container can make `ldconfig` wait for ever, with a named pipe in place of its
/// configuration.
fn wait(child: &mut Child) -> Result<ExitStatus, JailError> {
    let waiting = |errno: Errno| JailError::Wait(errno.into());
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(waiting)?;
    let limit = Timespec {
        tv_sec: LIMIT,
        tv_nsec: 0,
    };
    let mut exited = [PollFd::new(&pidfd, PollFlags::IN)];
    if poll(&mut exited, Some(&limit)).map_err(waiting)? == 0 {
        child.kill().map_err(JailError::Wait)?;
        child.wait().map_err(JailError::Wait)?;
        return Err(JailError::TooSlow);
    }
    child.wait().map_err(JailError::Wait)
}
