//! Limits as the installed driver sets them.

use std::path::PathBuf;

use tessera_device::{Bytes, GpuUuid};
use tessera_nvml::Nvml;

use super::{LimitOperations, SetError};
use crate::driver_root::{self, DriverRoot};

/// The driver that is installed at the time of the call.
#[derive(Clone, Debug)]
pub struct NvmlLimits {
    /// Where it is.
    pub driver_root: DriverRoot,
    /// The root of the hierarchy of cgroups.
    pub cgroups: PathBuf,
}

impl LimitOperations for NvmlLimits {
    fn limit(&self, gpu: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError> {
        let library = driver_root::find_nvml(&self.driver_root)?;
        let cgroup = self.cgroups.join(cgroup.trim_start_matches('/'));
        Nvml::load(&library)?.set_memory_limit(gpu, &cgroup, Some(memory))?;
        Ok(())
    }
}
