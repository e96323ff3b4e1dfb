//! Limits as the installed driver sets them.

use std::path::{Path, PathBuf};

use tessera_device::{Bytes, GpuUuid};
use tessera_nvml::{LimitErrorReason, MemoryLimits, Nvml};
use tessera_sharing::Measured;

use super::{Card, LimitOperations, SetError};
use crate::driver_root::{self, DriverRoot};

/// The driver that is installed at the time of the call.
#[derive(Clone, Debug)]
pub struct NvmlLimits {
    /// Where it is.
    pub driver_root: DriverRoot,
    /// The root of the hierarchy of cgroups.
    pub cgroups: PathBuf,
}

impl NvmlLimits {
    fn nvml(&self) -> Result<Nvml, SetError> {
        let library = driver_root::find_nvml(&self.driver_root)?;
        Ok(Nvml::load(&library)?)
    }
}

impl LimitOperations for NvmlLimits {
    fn look(&self, gpu: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
        look(&self.nvml()?, &self.cgroups, gpu, cgroups)
    }

    fn limit(&self, gpu: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError> {
        limit(&self.nvml()?, &self.cgroups, gpu, cgroup, memory)
    }
}

/// [`LimitOperations::look`] with a library that is loaded, and cgroups below `root`.
pub fn look(nvml: &Nvml, root: &Path, gpu: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
    let memory = nvml.card_memory(gpu, root)?;
    let mut card = Card {
        memory: memory.total,
        reserved: memory.reserved,
        containers: std::collections::BTreeMap::new(),
    };
    for cgroup in cgroups {
        match nvml.memory_limits(gpu, &directory(root, cgroup)) {
            Ok(MemoryLimits { hard, used, .. }) => {
                let measured = Measured { limit: hard, used };
                card.containers.insert(cgroup.clone(), measured);
            }
            Err(error) if error.reason == LimitErrorReason::NoSuchCgroup => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(card)
}

/// [`LimitOperations::limit`] likewise.
pub fn limit(
    nvml: &Nvml,
    root: &Path,
    gpu: &GpuUuid,
    cgroup: &str,
    memory: Bytes,
) -> Result<(), SetError> {
    Ok(nvml.set_memory_limit(gpu, &directory(root, cgroup), Some(memory))?)
}

fn directory(root: &Path, cgroup: &str) -> PathBuf {
    root.join(cgroup.trim_start_matches('/'))
}
