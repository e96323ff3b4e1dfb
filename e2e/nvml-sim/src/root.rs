//! Finds the driver root that this library belongs to.
//!
//! The library is told nothing: it asks the loader where it was loaded from and looks for the
//! node's state in the directories above. So it works below `/driver-root` in the plugin's
//! container, and below `/` in a container that got the driver's files mounted.

use std::{
    ffi::{CStr, OsStr},
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

use tessera_hw::{StateFile, install::find_state};

/// The root and the state of its GPUs, or nothing if no driver is installed around this library.
pub(crate) fn find() -> Option<(PathBuf, StateFile)> {
    let library = fs::canonicalize(loaded_from()?).ok()?;
    library.ancestors().skip(1).find_map(|directory| {
        let state = find_state(directory).ok()?;
        Some((directory.to_owned(), state))
    })
}

/// True if `dev/<name>` below `root` is a character device.
pub(crate) fn has_device(root: &Path, name: &str) -> bool {
    let node = fs::metadata(root.join("dev").join(name));
    node.is_ok_and(|node| node.file_type().is_char_device())
}

fn loaded_from() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let here: fn() -> Option<PathBuf> = loaded_from;
    // SAFETY: the address is that of a function of this library and `info` outlives the call.
    let known = unsafe { libc::dladdr(here as *const libc::c_void, &raw mut info) } != 0;
    if !known || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr succeeded, so the name is a C string that lives as long as the library.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}
