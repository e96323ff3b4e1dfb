//! Asks the kernel for the channels of this moment.

use std::fs;
use std::path::{Path, PathBuf};

use tessera_prepare::channel::{ImexChannels, imex_channels};

use crate::executor::StepError;
use crate::file_error::{FileError, if_there};

/// What the kernel says of channels.
pub trait Kernel {
    /// The channels that there are now, if there are any.
    fn channels(&self) -> Result<Option<ImexChannels>, StepError>;
}

/// The kernel's files. They are read at every call: a driver that is loaded anew has other numbers.
#[derive(Clone, Debug)]
pub struct ProcFiles {
    devices: PathBuf,
    params: PathBuf,
}

impl ProcFiles {
    /// `devices` is `/proc/devices`, or what stands in for it; the driver's parameters are where they
    /// are beside the former.
    pub fn new(devices: &Path) -> Self {
        let proc = devices.parent().unwrap_or(Path::new("/"));
        Self {
            devices: devices.to_owned(),
            params: proc.join("driver/nvidia/params"),
        }
    }
}

impl Kernel for ProcFiles {
    fn channels(&self) -> Result<Option<ImexChannels>, StepError> {
        let read = |path: &Path| if_there(fs::read_to_string(path));
        let devices = read(&self.devices).map_err(FileError::of("read", &self.devices))?;
        let Some(devices) = devices else {
            return Ok(None);
        };
        // A runtime may hide the parameters from a container; their defaults are known.
        let params = read(&self.params).ok().flatten();
        Ok(imex_channels(&devices, params.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_lie_beside_the_list_of_devices_and_may_be_missing() {
        let proc = tempfile::tempdir().unwrap();
        let devices = proc.path().join("devices");
        let kernel = ProcFiles::new(&devices);
        assert_eq!(kernel.channels().unwrap(), None);
        fs::write(
            &devices,
            "Character devices:\n234 nvidia-caps-imex-channels\n",
        )
        .unwrap();
        let count = |kernel: &ProcFiles| kernel.channels().unwrap().unwrap().count;
        assert_eq!(count(&kernel), 2048);
        fs::create_dir_all(proc.path().join("driver/nvidia")).unwrap();
        let params = proc.path().join("driver/nvidia/params");
        fs::write(params, "ImexChannelCount: 16\n").unwrap();
        assert_eq!(count(&kernel), 16);
    }
}
