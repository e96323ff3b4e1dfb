//! The installed driver, kept open for as long as somebody asks.
//!
//! Whoever loads NVML for each of many small questions pays for the loading. But a library that is kept open keeps the
//! kernel's modules from being replaced. So whoever asks says when it has asked enough.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tessera_device::{Bytes, GpuUuid};
use tessera_nvml::Nvml;

use super::{Card, LimitOperations, SetError, nvml};
use crate::driver_root::{self, DriverRoot};

/// The driver.
#[derive(Debug)]
pub struct OpenDriver {
    driver_root: DriverRoot,
    cgroups: PathBuf,
    open: Mutex<Option<Arc<Nvml>>>,
}

impl OpenDriver {
    /// The one below this root, for cgroups of this hierarchy. It is opened when it is needed.
    pub fn new(driver_root: DriverRoot, cgroups: PathBuf) -> Self {
        Self {
            driver_root,
            cgroups,
            open: Mutex::default(),
        }
    }

    /// Lets it go, once calls that are under way have come back.
    pub fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Does something with the library. After a failure the next call loads it anew: the driver may be another by then.
    fn with<T>(&self, act: impl FnOnce(&Nvml) -> Result<T, SetError>) -> Result<T, SetError> {
        let nvml = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(nvml) = &*open {
                nvml.clone()
            } else {
                let library = driver_root::find_nvml(&self.driver_root)?;
                open.insert(Arc::new(Nvml::load(&library)?)).clone()
            }
        };
        act(&nvml).inspect_err(|_| self.close())
    }
}

impl LimitOperations for OpenDriver {
    fn look(&self, gpu: &GpuUuid, cgroups: &[String]) -> Result<Card, SetError> {
        self.with(|library| nvml::look(library, &self.cgroups, gpu, cgroups))
    }

    fn limit(&self, gpu: &GpuUuid, cgroup: &str, memory: Bytes) -> Result<(), SetError> {
        self.with(|library| nvml::limit(library, &self.cgroups, gpu, cgroup, memory))
    }
}
