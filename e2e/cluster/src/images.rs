//! Container images, made from files of this machine without any registry or builder.

pub mod oci;

mod debian;
mod libraries;
mod local;
mod mpi;
mod tessera;

use std::io;
use std::path::PathBuf;

pub use local::{PAUSE, WORKLOAD, WORKLOAD_ALL_GPUS, asking_for_all_gpus, pause, workload};
pub use mpi::mpi;
pub use tessera::{TesseraImage, tessera};

use crate::cargo::CargoError;
use crate::packages::PackagesError;
use crate::pki::PkiError;
use crate::platform::CrossError;
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
    /// It cannot be built for that machine here.
    #[error(transparent)]
    Cross(#[from] CrossError),
    /// A program's libraries could not be listed.
    #[error("list the libraries of {}", program.display())]
    Libraries {
        /// Which.
        program: PathBuf,
        /// Why.
        source: RunError,
    },
    /// The machine has no packages of Debian's kind.
    #[error(
        "make the image of MPI jobs: this machine has no {0}; it is made of the packages of Debian or Ubuntu"
    )]
    NoApt(&'static str),
    /// Packages could not be downloaded or unpacked.
    #[error("unpack {packages} into an image")]
    Debian {
        /// Debian's names.
        packages: String,
        /// Why.
        source: RunError,
    },
    /// What is in a package cannot be read.
    #[error("read the package {}", package.display())]
    Package {
        /// The file.
        package: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program in it could not be compiled.
    #[error("compile the hello program of the image of MPI jobs")]
    Compile(#[source] RunError),
    /// The key of its ssh server could not be made.
    #[error(transparent)]
    Keys(#[from] PkiError),
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
