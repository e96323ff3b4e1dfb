//! Container images, made from files of this machine without any registry or builder.

pub mod oci;

mod libraries;
mod local;
mod tessera;

use std::io;
use std::path::PathBuf;

pub use local::{PAUSE, WORKLOAD, WORKLOAD_ALL_GPUS, asking_for_all_gpus, pause, workload};
pub use tessera::{TesseraImage, tessera};

use crate::cargo::CargoError;
use crate::packages::PackagesError;
use crate::process::RunError;

/// An image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A program in it could not be built.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// The machine lacks something that goes into it.
    #[error(transparent)]
    Packages(#[from] PackagesError),
    /// A program's libraries could not be listed.
    #[error("list the libraries of {}", program.display())]
    Libraries {
        /// Which.
        program: PathBuf,
        /// Why.
        source: RunError,
    },
    /// The list of busybox' tools could not be had.
    #[error("list the tools of busybox")]
    Busybox(#[source] RunError),
    /// A file that goes into it could not be read.
    #[error("put {} into an image", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be written.
    #[error("write the image {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
