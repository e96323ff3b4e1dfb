//! The product's plugin of kubectl, where the cluster's kubectl finds it.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::cargo::{self, CargoError, Linking, Profile};
use crate::platform::Platform;

/// By this name kubectl finds it.
const PROGRAM: &str = "kubectl-tessera";

/// The plugin as it was built.
#[derive(Debug)]
pub(crate) struct Plugin(PathBuf);

impl Plugin {
    pub(crate) fn build() -> Result<Self, CargoError> {
        let package = ["tessera-kubectl"];
        let built = cargo::build(&package, Profile::Dev, Linking::Dynamic, Platform::HERE)?;
        Ok(Self(built.file(PROGRAM)?.to_owned()))
    }

    /// Puts it among the programs of the cluster.
    pub(crate) fn link_into(&self, bin: &Path) -> io::Result<()> {
        symlink(&self.0, bin.join(PROGRAM))
    }
}
