//! Which paths a Unix socket can have.

use std::fmt;
use std::path::Path;

use thiserror::Error;

/// Longest path of a Unix socket in bytes: `sun_path` has 108 and the last one is a NUL (unix(7)).
pub const PATH_LIMIT: usize = 107;

/// A path that no socket can be bound at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SocketPathError {
    /// Longer than the kernel's limit.
    #[error(
        "socket path {path} has {length} bytes, {limit} is the limit; \
         use a shorter directory (the kubelet's --root-dir decides it)"
    )]
    TooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Relative, or without a file name.
    #[error("socket path {path:?} is not the absolute path of a file")]
    NotAbsolute {
        /// The path.
        path: String,
    },
    /// Not text, so the kubelet's protocol cannot carry it, or with a NUL.
    #[error("socket path {path:?} is not UTF-8 text without NUL bytes")]
    NotText {
        /// The path, with replacement characters.
        path: String,
    },
}

/// The absolute path of a Unix socket, short enough to be bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketPath(String);

impl SocketPath {
    /// Checks a path.
    pub fn new(path: &Path) -> Result<Self, SocketPathError> {
        let text = match path.to_str() {
            Some(text) if !text.contains('\0') => text,
            _ => {
                let path = path.to_string_lossy().into_owned();
                return Err(SocketPathError::NotText { path });
            }
        };
        let path = text.to_owned();
        if !text.starts_with('/') || text.ends_with('/') {
            return Err(SocketPathError::NotAbsolute { path });
        }
        if text.len() > PATH_LIMIT {
            return Err(SocketPathError::TooLong {
                length: path.len(),
                limit: PATH_LIMIT,
                path,
            });
        }
        Ok(Self(path))
    }

    /// The path as text, e.g. for the endpoint in a registration.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path for the file system.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn the_longest_path_is_107_bytes_and_one_more_is_refused_with_the_remedy() {
        let longest = format!("/{}", "x".repeat(106));
        assert!(SocketPath::new(Path::new(&longest)).is_ok());
        let error = SocketPath::new(Path::new(&format!("{longest}y"))).unwrap_err();
        let message = error.to_string();
        for part in ["108 bytes", "107 is the limit", "--root-dir", &longest] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn relative_paths_directories_and_binary_names_are_refused() {
        for path in ["", "dra.sock", "./dra.sock", "/run/"] {
            let error = SocketPath::new(Path::new(path)).unwrap_err();
            assert!(
                matches!(error, SocketPathError::NotAbsolute { .. }),
                "{error}"
            );
        }
        for path in [&b"/run/\xff.sock"[..], b"/run/\0.sock"] {
            let error = SocketPath::new(Path::new(OsStr::from_bytes(path))).unwrap_err();
            assert!(matches!(error, SocketPathError::NotText { .. }), "{error}");
        }
    }
}
