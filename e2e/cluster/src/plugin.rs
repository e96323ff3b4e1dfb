//! The product's plugin of kubectl, where the cluster's kubectl finds it.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::cargo::{self, CargoError};

/// By this name kubectl finds it.
const PROGRAM: &str = "kubectl-tessera";

/// The plugin as it was built.
#[derive(Debug)]
pub(crate) struct Plugin(PathBuf);

impl Plugin {
    pub(crate) fn build() -> Result<Self, CargoError> {
        Ok(Self(cargo::programs(&[PROGRAM])?.file(PROGRAM)?.to_owned()))
    }

    /// Puts it among the programs of the cluster.
    pub(crate) fn link_into(&self, bin: &Path) -> io::Result<()> {
        symlink(&self.0, bin.join(PROGRAM))
    }
}
