//! What is built before anything of a cluster is started.

use std::path::PathBuf;

use crate::cargo;
use crate::cluster::ClusterError;
use crate::driver;
use crate::images::{self, oci::Image};
use crate::packages::{self, Package};
use crate::paths::checkout;
use crate::plugin::Plugin;
use crate::programs::{self, Programs};
use crate::progress::{Progress, step};
use crate::release::Release;
use crate::supervisor;

/// Everything that a cluster is made of. It serves any number of clusters, one after the other.
#[derive(Debug)]
pub struct Materials {
    pub(crate) kubernetes: Release,
    pub(crate) programs: Programs,
    pub(crate) init: PathBuf,
    pub(crate) driver: driver::Parts,
    pub(crate) plugin: Plugin,
    pub(crate) images: [Image; 3],
}

impl Materials {
    /// Which Kubernetes it is.
    pub fn kubernetes(&self) -> Release {
        self.kubernetes
    }

    /// Builds what is missing of it: the programs last, so that they can have been begun before by somebody else.
    pub fn obtain(kubernetes: Release, progress: &dyn Progress) -> Result<Self, ClusterError> {
        packages::ensure(&[Package::Iproute, Package::UtilLinux], progress)?;
        let what = "build the simulated hardware and the nodes' images";
        let (driver, init, plugin, images) = step(progress, what, || {
            let driver = driver::Parts::build()?;
            let init = cargo::programs(&[supervisor::PROGRAM])?;
            let init = init.file(supervisor::PROGRAM)?.to_owned();
            let workload = images::workload(driver.nvidia_smi(), progress)?;
            let asking = images::asking_for_all_gpus(&workload);
            let images = [images::pause()?, workload, asking];
            Ok::<_, ClusterError>((driver, init, Plugin::build()?, images))
        })?;
        let modules = checkout().join("e2e/programs");
        Ok(Self {
            kubernetes,
            programs: programs::obtain(&modules, kubernetes, progress)?,
            init,
            driver,
            plugin,
            images,
        })
    }
}
