//! The loader's cache of a container, `/etc/ld.so.cache`.
//!
//! The loader finds a library by its bare name in that cache or in a few folders that are compiled
//! into it; the driver's folders are often not among them. They are written down in
//! `/etc/ld.so.conf.d` too, for the user who runs `ldconfig` in the container later.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

use crate::Warning;
use crate::jail::{self, JailError};
use crate::ldconfig::{self, LdconfigError};
use crate::rootfs::Rootfs;

const CONF_FOLDER: &str = "/etc/ld.so.conf.d";

/// First in the order of names, so that the driver's libraries win over others of the same name.
const CONF_NAME: &str = "00-tessera.conf";

/// Why the cache could not be rebuilt.
#[derive(Debug, Error)]
pub(crate) enum CacheError {
    #[error(transparent)]
    Ldconfig(#[from] LdconfigError),
    #[error(
        "make the folder {CONF_FOLDER} in the container; the image must have folders, or nothing, \
         on this path"
    )]
    MakeFolder(#[source] Errno),
    #[error(
        "write {CONF_FOLDER}/{CONF_NAME} in the container; the image must have no folder there"
    )]
    WriteConf(#[source] io::Error),
    #[error(transparent)]
    Run(#[from] JailError),
}

/// Tells the container's loader about the folders.
///
/// An image whose programs are static, or use another loader, gets two small files that nobody
/// reads.
pub(crate) fn update(
    root: Rootfs,
    folders: &[String],
    given: Option<&str>,
) -> Result<Option<Warning>, CacheError> {
    let Some(program) = ldconfig::open(given)? else {
        return Ok(Some(Warning::NoLdconfig {
            folders: folders.join(":"),
        }));
    };
    match write_conf(&root, folders) {
        Ok(()) => {}
        Err(error) if is_read_only(&error) => {
            return Ok(Some(Warning::ReadOnly {
                path: format!("{CONF_FOLDER}/{CONF_NAME}"),
                loss: "programs find no driver library by name unless LD_LIBRARY_PATH has its folder",
            }));
        }
        Err(error) => return Err(error),
    }
    jail::run_ldconfig(root, program, folders)?;
    Ok(None)
}

fn write_conf(root: &Rootfs, folders: &[String]) -> Result<(), CacheError> {
    let content = format!("{}\n", folders.join("\n"));
    root.make_folder(CONF_FOLDER)
        .map_err(CacheError::MakeFolder)?
        .put_file(CONF_NAME, &content)
        .map_err(CacheError::WriteConf)
}

fn is_read_only(error: &CacheError) -> bool {
    match error {
        CacheError::MakeFolder(errno) => *errno == Errno::ROFS,
        CacheError::WriteConf(error) => error.kind() == io::ErrorKind::ReadOnlyFilesystem,
        CacheError::Ldconfig(_) | CacheError::Run(_) => false,
    }
}
