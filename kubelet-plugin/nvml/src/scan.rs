//! All GPUs of the node at once.

use nvml_wrapper::Nvml;
use tessera_device::Inventory;

use crate::error::{GpuProblem, NvmlError, QueryError};
use crate::mig::Catalogue;
use crate::{KernelFiles, facts};

/// What NVML tells of the node.
#[derive(Debug)]
pub struct Scan {
    /// The driver, and the GPUs that answered.
    pub inventory: Inventory,
    /// The GPUs that NVML lists and that did not answer, in the order of their index.
    pub problems: Vec<GpuProblem>,
}

pub(crate) fn scan(nvml: &Nvml, kernel: &KernelFiles) -> Result<Scan, NvmlError> {
    let driver = facts::driver(nvml, kernel)?;
    let count = nvml.device_count().map_err(|source| QueryError {
        call: "nvmlDeviceGetCount_v2",
        fault: source.into(),
    })?;
    let mut gpus = Vec::new();
    let mut problems = Vec::new();
    let mut catalogue = Catalogue::default();
    for index in 0..count {
        match facts::gpu(nvml, index, kernel, &mut catalogue) {
            Ok(gpu) => gpus.push(gpu),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(Scan {
        inventory: Inventory::new(driver, gpus)?,
        problems,
    })
}
