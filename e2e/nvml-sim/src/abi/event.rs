//! Event sets.

use std::{
    ffi::{c_uint, c_ulonglong},
    time::Duration,
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventData_t, nvmlEventSet_t};

use super::{Out, export, put};
use crate::{
    events,
    fault::Fault,
    library::{with_facts, with_session},
};

export! {
    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, types: Out<'_, c_ulonglong>) {
        with_facts(device, |_| put(types, events::SUPPORTED))
    }
    fn nvmlEventSetCreate(set: Out<'_, nvmlEventSet_t>) {
        with_session(|_| Ok(()))?;
        let set = set.ok_or(Fault::InvalidArgument)?;
        set.write(events::create());
        Ok(())
    }
    fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, types: c_ulonglong, set: nvmlEventSet_t) {
        with_facts(device, |_| events::register(device, types, set))
    }
    fn nvmlEventSetWait(set: nvmlEventSet_t, data: Out<'_, nvmlEventData_t>, millis: c_uint) {
        wait(set, data, millis)
    }
    fn nvmlEventSetWait_v2(set: nvmlEventSet_t, data: Out<'_, nvmlEventData_t>, millis: c_uint) {
        wait(set, data, millis)
    }
    fn nvmlEventSetFree(set: nvmlEventSet_t) {
        with_session(|_| events::free(set))
    }
}

fn wait(set: nvmlEventSet_t, data: Out<'_, nvmlEventData_t>, millis: c_uint) -> Result<(), Fault> {
    data.ok_or(Fault::InvalidArgument)?;
    events::wait(set, Duration::from_millis(millis.into()))
}
