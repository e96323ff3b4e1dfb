//! A file that could not be read or written, and what to do about it.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

/// What failed, on which file, why, and the remedy.
#[derive(Debug, Error)]
#[error("{action} {}: {reason}; {}", path.display(), remedy(reason))]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    reason: io::Error,
}

impl FileError {
    /// Makes an error of the reason why `action` failed on `path`.
    pub fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |reason| Self {
            action,
            path,
            reason,
        }
    }
}

/// What whoever runs the node can do. None of these passes without that, so the pod's event says it.
///
/// The kind is asked and not the number: what `tempfile` reports has the one and not the other.
fn remedy(reason: &io::Error) -> &'static str {
    match reason.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free space on its file system",
        ErrorKind::ReadOnlyFilesystem => "make its file system writable",
        ErrorKind::PermissionDenied => {
            "let the plugin use it: look at its owner, its mode and the node's security module"
        }
        ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle => {
            "its directory was removed from under the plugin: delete the plugin's pod, and the \
             next one makes it anew"
        }
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "something else lies in its place: move that away"
        }
        ErrorKind::OutOfMemory => "the node or the plugin's pod lacks memory: raise its limit",
        _ => "look at the node's kernel log",
    }
}

/// What was found, or nothing where nothing is.
pub fn if_there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(reason) if reason.kind() == ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(reason),
    }
}

/// Whether a failed read says something about this very file, and not about the process or the node.
pub fn concerns_the_file(reason: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(reason),
        Some(Errno::IO | Errno::ACCESS | Errno::PERM | Errno::ISDIR | Errno::LOOP | Errno::NXIO)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_the_reason_and_the_remedy() {
        let full = io::Error::from(Errno::NOSPC);
        let error = FileError::of("write", Path::new("/run/x"))(full);
        assert_eq!(
            error.to_string(),
            "write /run/x: No space left on device (os error 28); free space on its file system"
        );
    }

    #[test]
    fn an_error_of_a_temporary_file_has_its_remedy_too() {
        let reason = tempfile::NamedTempFile::new_in("/no/such/directory").unwrap_err();
        assert_eq!(reason.raw_os_error(), None, "or the number could be asked");
        let error = FileError::of("write", Path::new("/run/x"))(reason);
        assert!(
            error.to_string().contains("delete the plugin's pod"),
            "{error}"
        );
    }

    #[test]
    fn a_lack_of_open_files_is_no_damage_of_the_file() {
        for (errno, expected) in [
            (Errno::IO, true),
            (Errno::ACCESS, true),
            (Errno::ISDIR, true),
            (Errno::MFILE, false),
            (Errno::NOMEM, false),
        ] {
            assert_eq!(concerns_the_file(&errno.into()), expected, "{errno:?}");
        }
    }
}
