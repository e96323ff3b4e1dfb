//! How a GPU is right now: memory, temperature, power, load, errors, processes.

use std::{
    ffi::{c_uint, c_ulonglong},
    fs,
};

use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlEnableState_enum_NVML_FEATURE_ENABLED as ENABLED, nvmlEnableState_t,
    nvmlMemory_t, nvmlMemory_v2_t, nvmlProcessInfo_t, nvmlUtilization_t,
};
use tessera_hw::Gpu;

use super::{Out, check_version, export, put};
use crate::{
    fault::Fault,
    library::{Any, with_any, with_device, with_facts},
};

const MIB: u64 = 1 << 20;
/// `NVML_TEMPERATURE_GPU`, the only sensor that there is.
const GPU_SENSOR: c_uint = 0;
/// `NVML_MEMORY_ERROR_TYPE_CORRECTED`; 1 is uncorrected.
const CORRECTED: c_uint = 0;

export! {
    // The first version counts reserved memory as used.
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: Out<'_, nvmlMemory_t>) {
        let Memory { total, reserved, used, free } = memory_of(device)?;
        put(memory, nvmlMemory_t { total, free, used: used + reserved })
    }
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: Option<&mut nvmlMemory_v2_t>) {
        let memory = memory.ok_or(Fault::InvalidArgument)?;
        check_version::<nvmlMemory_v2_t>(memory.version, 2)?;
        let now = memory_of(device)?;
        (memory.total, memory.reserved) = (now.total, now.reserved);
        (memory.free, memory.used) = (now.free, now.used);
        Ok(())
    }

    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensor: c_uint, celsius: Out<'_, c_uint>) {
        if sensor != GPU_SENSOR {
            return Err(Fault::InvalidArgument);
        }
        put(celsius, with_device(device, |device| Ok(device.gpu.condition.temperature))?)
    }
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, milliwatts: Out<'_, c_uint>) {
        put(milliwatts, with_device(device, |device| Ok(device.gpu.condition.power_watts.saturating_mul(1000)))?)
    }
    fn nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, milliwatts: Out<'_, c_uint>) {
        put(milliwatts, with_facts(device, |facts| Ok(facts.power_limit_watts.saturating_mul(1000)))?)
    }
    fn nvmlDeviceGetPowerManagementLimit(device: nvmlDevice_t, milliwatts: Out<'_, c_uint>) {
        put(milliwatts, with_facts(device, |facts| Ok(facts.power_limit_watts.saturating_mul(1000)))?)
    }
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, rates: Out<'_, nvmlUtilization_t>) {
        let busy = |gpu: &Gpu| nvmlUtilization_t {
            gpu: gpu.condition.gpu_utilization,
            memory: gpu.condition.memory_utilization,
        };
        put(rates, with_device(device, |device| Ok(busy(device.gpu)))?)
    }

    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: Out<'_, nvmlEnableState_t>) {
        with_facts(device, |_| put(mode, ENABLED))
    }
    fn nvmlDeviceGetEccMode(
        device: nvmlDevice_t,
        now: Out<'_, nvmlEnableState_t>,
        pending: Out<'_, nvmlEnableState_t>,
    ) {
        with_facts(device, |_| Ok(()))?;
        put(now, ENABLED)?;
        put(pending, ENABLED)
    }
    // Volatile and aggregate counts are the same: a simulated node is young.
    fn nvmlDeviceGetTotalEccErrors(
        device: nvmlDevice_t,
        kind: c_uint,
        _counter: c_uint,
        errors: Out<'_, c_ulonglong>,
    ) {
        put(errors, with_device(device, |device| Ok(match kind {
            CORRECTED => device.gpu.condition.correctable_errors,
            _ => device.gpu.condition.uncorrectable_errors,
        }))?)
    }

    fn nvmlDeviceGetComputeRunningProcesses_v3(
        device: nvmlDevice_t,
        count: Option<&mut c_uint>,
        _processes: *mut nvmlProcessInfo_t,
    ) { no_processes(device, count) }
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(
        device: nvmlDevice_t,
        count: Option<&mut c_uint>,
        _processes: *mut nvmlProcessInfo_t,
    ) { no_processes(device, count) }
}

struct Memory {
    total: u64,
    reserved: u64,
    used: u64,
    free: u64,
}

fn memory_of(device: nvmlDevice_t) -> Result<Memory, Fault> {
    with_any(device, |any| {
        let gpu = match any {
            Any::Gpu(device) => device.gpu,
            // Nobody says what programs use of a part, so it is nothing.
            Any::Mig(_, mig) => {
                let total = mig.profile.memory_mib * MIB;
                return Ok(Memory {
                    total,
                    reserved: 0,
                    used: 0,
                    free: total,
                });
            }
        };
        let total = gpu.facts.memory_total_mib * MIB;
        let reserved = gpu.facts.memory_reserved_mib * MIB;
        let room = total.saturating_sub(reserved);
        let used = gpu.memory_used().min(room);
        if let Some(limited) = own_cgroup().and_then(|own| gpu.nearest_limited(&own)) {
            let used = gpu.memory_limits(&limited.path).used;
            let own = limited.hard.min(room);
            return Ok(Memory {
                total: own,
                reserved: 0,
                used,
                free: own
                    .saturating_sub(used)
                    .min(room - gpu.memory_used().min(room)),
            });
        }
        Ok(Memory {
            total,
            reserved,
            used,
            free: room - used,
        })
    })
}

/// The directory of the cgroup (version 2) that this process is in, as the host has it. The real driver asks the
/// kernel; a process in a cgroup namespace of its own cannot read it, and is shown the whole card here.
fn own_cgroup() -> Option<String> {
    let all = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = all.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("/sys/fs/cgroup{}", own.trim_end_matches('/')))
}

/// Simulated GPUs run nothing.
fn no_processes(device: nvmlDevice_t, count: Option<&mut c_uint>) -> Result<(), Fault> {
    with_facts(device, |_| Ok(()))?;
    *count.ok_or(Fault::InvalidArgument)? = 0;
    Ok(())
}
