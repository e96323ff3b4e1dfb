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

/// Where this library belongs.
pub(crate) struct Home {
    /// The driver root around it.
    pub(crate) root: PathBuf,
    /// The state of the GPUs of that root.
    pub(crate) state: StateFile,
    /// The version that its file name ends with. A copy under another name is of no version.
    pub(crate) version: Option<String>,
}

/// Where this library belongs, or nothing if no driver is installed around it.
pub(crate) fn find() -> Option<Home> {
    let library = fs::canonicalize(loaded_from()?).ok()?;
    let name = library.file_name()?.to_str()?;
    let version = name.strip_prefix("libnvidia-ml.so.").map(str::to_owned);
    library.ancestors().skip(1).find_map(|directory| {
        let state = find_state(directory).ok()?;
        let (root, version) = (directory.to_owned(), version.clone());
        Some(Home {
            root,
            state,
            version,
        })
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
