//! How a GPU is shared among programs: compute mode and time slice.
//!
//! NVML has no call for the time slice: the real `nvidia-smi` sets it through entry points that no header
//! names. The two functions here that do so are the simulation's own and say so in their names.

use std::ffi::{c_char, c_uint};

use nvml_wrapper_sys::bindings::{nvmlComputeMode_t, nvmlDevice_t};
use tessera_hw::{ComputeMode, Policy, TimeSlice};

use super::{Out, export, put, text};
use crate::{
    fault::Fault,
    library::{set_policy, with_device, with_facts, with_session},
};

export! {
    fn nvmlDeviceGetComputeMode(device: nvmlDevice_t, mode: Out<'_, nvmlComputeMode_t>) {
        with_device(device, |device| put(mode, device.gpu.condition.compute_mode.number()))
    }
    fn nvmlDeviceSetComputeMode(device: nvmlDevice_t, mode: nvmlComputeMode_t) {
        let mode = ComputeMode::of_number(mode).ok_or(Fault::InvalidArgument)?;
        let gpu = with_facts(device, |facts| Ok(facts.uuid.clone()))?;
        set_policy(gpu, Policy::ComputeMode(mode))
    }

    fn simulatedDeviceGetTimeSlice(uuid: *const c_char, slice: Out<'_, c_uint>) {
        let uuid = text(uuid)?;
        with_session(|session| {
            let mut devices = session.devices();
            let found = devices.find(|device| device.gpu.facts.uuid == uuid);
            let device = found.ok_or(Fault::NotFound)?.present()?;
            put(slice, device.gpu.condition.time_slice.number())
        })
    }
    fn simulatedDeviceSetTimeSlice(uuid: *const c_char, slice: c_uint) {
        let slice = TimeSlice::of_number(slice).ok_or(Fault::InvalidArgument)?;
        let uuid = text(uuid)?;
        set_policy(uuid.to_owned(), Policy::TimeSlice(slice))
    }
}
