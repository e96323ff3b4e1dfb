//! The links by which programs load the driver's libraries.

use rustix::io::Errno;
use thiserror::Error;

use crate::Warning;
use crate::args::Link;
use crate::rootfs::Rootfs;

/// Why a link could not be made.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error(
        "make the folder {folder} in the container; the image must have folders, or nothing, on \
         this path"
    )]
    MakeFolder {
        folder: String,
        #[source]
        source: Errno,
    },
    #[error("make the link {path} in the container; the image must have no folder or mount there")]
    MakeLink {
        path: String,
        #[source]
        source: Errno,
    },
}

/// Makes the links, each in place of the file or link that the image has there.
pub(crate) fn create(root: &Rootfs, links: &[Link]) -> Result<Vec<Warning>, LinkError> {
    let mut warnings = Vec::new();
    for link in links {
        match create_one(root, link) {
            Ok(()) => {}
            Err(
                LinkError::MakeFolder {
                    source: Errno::ROFS,
                    ..
                }
                | LinkError::MakeLink {
                    source: Errno::ROFS,
                    ..
                },
            ) => warnings.push(Warning::ReadOnly {
                path: link.path.clone(),
                loss: "programs do not find the library under this name",
            }),
            Err(error) => return Err(error),
        }
    }
    Ok(warnings)
}

fn create_one(root: &Rootfs, link: &Link) -> Result<(), LinkError> {
    let Link { target, path } = link;
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    root.make_folder(folder)
        .map_err(|source| LinkError::MakeFolder {
            folder: folder.to_owned(),
            source,
        })?
        .put_link(name, target)
        .map_err(|source| LinkError::MakeLink {
            path: path.clone(),
            source,
        })
}
