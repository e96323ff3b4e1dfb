//! The texts that the program prints.

use std::fmt::Write as _;

use nvml_wrapper::{Device, Nvml, enum_wrappers::device::TemperatureSensor, error::NvmlError};

use crate::exit;

const MIB: u64 = 1 << 20;

/// What to print, and the exit code that goes with it.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) code: u8,
}

/// `-L`: one line for each GPU and each MIG device, in the format of the real program.
pub(crate) fn list(nvml: &Nvml) -> Result<Report, NvmlError> {
    each_gpu(nvml, String::new(), |text, index, device| {
        let (name, uuid) = (device.name()?, device.uuid()?);
        line(text, format_args!("GPU {index}: {name} (UUID: {uuid})"));
        for (number, mig) in mig_devices(device)?.iter().enumerate() {
            let (name, uuid) = (mig.name()?, mig.uuid()?);
            // The library puts the GPU's name before that of the profile.
            let size = name.rsplit(' ').next().unwrap_or_default();
            line(
                text,
                format_args!("  MIG {size:<11} Device {number:>2}: (UUID: {uuid})"),
            );
        }
        Ok(())
    })
}

/// The MIG devices of a GPU that this process may use.
fn mig_devices<'nvml>(device: &Device<'nvml>) -> Result<Vec<Device<'nvml>>, NvmlError> {
    let mut found = Vec::new();
    for index in 0..device.mig_device_count()? {
        match device.mig_device_by_index(index) {
            Ok(mig) => found.push(mig),
            Err(NvmlError::NotFound | NvmlError::NotSupported) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// No arguments: a short table.
pub(crate) fn table(nvml: &Nvml) -> Result<Report, NvmlError> {
    let cuda = nvml.sys_cuda_driver_version()?;
    let driver = nvml.sys_driver_version()?;
    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "NVIDIA-SMI (simulated)   Driver Version: {driver}   CUDA Version: {}.{}",
            cuda / 1000,
            cuda % 1000 / 10
        ),
    );
    line(
        &mut text,
        format_args!(
            "{:>3}  {:<24} {:<16} {:>5} {:>15} {:>21} {:>5}",
            "GPU", "Name", "Bus-Id", "Temp", "Power", "Memory", "Util"
        ),
    );
    each_gpu(nvml, text, |text, index, device| {
        let row = row(index, device)?;
        line(text, format_args!("{row}"));
        Ok(())
    })
}

/// `--version`.
pub(crate) fn versions(nvml: &Nvml) -> Result<Report, NvmlError> {
    let cuda = nvml.sys_cuda_driver_version()?;
    let mut text = String::new();
    line(
        &mut text,
        format_args!(
            "NVIDIA-SMI version  : {} (simulated)",
            env!("CARGO_PKG_VERSION")
        ),
    );
    line(
        &mut text,
        format_args!("NVML version        : {}", nvml.sys_nvml_version()?),
    );
    line(
        &mut text,
        format_args!("DRIVER version      : {}", nvml.sys_driver_version()?),
    );
    line(
        &mut text,
        format_args!("CUDA Version        : {}.{}", cuda / 1000, cuda % 1000 / 10),
    );
    Ok(Report { text, code: 0 })
}

fn row(index: u32, device: &Device<'_>) -> Result<String, NvmlError> {
    let memory = device.memory_info()?;
    Ok(format!(
        "{index:>3}  {:<24} {:<16} {:>4}C {:>15} {:>21} {:>4}%",
        device.name()?,
        device.pci_info()?.bus_id,
        device.temperature(TemperatureSensor::Gpu)?,
        format!(
            "{}W / {}W",
            device.power_usage()? / 1000,
            device.enforced_power_limit()? / 1000
        ),
        format!("{}MiB / {}MiB", memory.used / MIB, memory.total / MIB),
        device.utilization_rates()?.gpu,
    ))
}

/// Reports every GPU; one that does not answer is named and does not hide the others.
fn each_gpu(
    nvml: &Nvml,
    mut text: String,
    mut describe: impl FnMut(&mut String, u32, &Device<'_>) -> Result<(), NvmlError>,
) -> Result<Report, NvmlError> {
    let count = nvml.device_count()?;
    if count == 0 {
        line(&mut text, format_args!("No devices were found"));
        return Ok(Report {
            text,
            code: exit::NOT_FOUND,
        });
    }
    let mut code = 0;
    for index in 0..count {
        let described = nvml
            .device_by_index(index)
            .and_then(|device| describe(&mut text, index, &device));
        match described {
            Ok(()) => {}
            Err(NvmlError::GpuLost) => {
                line(
                    &mut text,
                    format_args!("GPU {index}: does not answer: GPU is lost"),
                );
                code = exit::GPU_IS_LOST;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Report { text, code })
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a string cannot fail");
}
