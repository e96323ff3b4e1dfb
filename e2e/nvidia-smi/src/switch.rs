//! `-mig`: switches the MIG mode.

use std::fmt::Write as _;

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use crate::report::Report;

/// Switches the mode of one GPU or of all, and says of each what came of it, as the listings of the MIG
/// user guide do ("Enable MIG Mode").
pub(crate) fn mig_mode(nvml: &Nvml, id: Option<&str>, enabled: bool) -> Result<Report, NvmlError> {
    let mut text = String::new();
    let devices = devices(nvml, id)?;
    let (done, pending) = if enabled {
        ("Enabled", "enable")
    } else {
        ("Disabled", "disable")
    };
    for device in devices {
        let address = device.pci_info()?.bus_id;
        // Writing to a string cannot fail.
        let _ = match device.set_mig_mode(enabled)? {
            0 => writeln!(text, "{done} MIG Mode for GPU {address}"),
            code => writeln!(
                text,
                "Warning: MIG mode is in pending {pending} state for GPU {address}: {}",
                NvmlError::from(code)
            ),
        };
    }
    text.push_str("All done.\n");
    Ok(Report { text, code: 0 })
}

/// The GPU that is named, or all.
pub(crate) fn devices<'n>(nvml: &'n Nvml, id: Option<&str>) -> Result<Vec<Device<'n>>, NvmlError> {
    match id {
        Some(id) => Ok(vec![find(nvml, id)?]),
        None => (0..nvml.device_count()?)
            .map(|index| nvml.device_by_index(index))
            .collect(),
    }
}

fn find<'n>(nvml: &'n Nvml, id: &str) -> Result<Device<'n>, NvmlError> {
    if let Ok(index) = id.parse() {
        return nvml.device_by_index(index);
    }
    if id.starts_with("GPU-") {
        return nvml.device_by_uuid(id);
    }
    nvml.device_by_pci_bus_id(id)
}
