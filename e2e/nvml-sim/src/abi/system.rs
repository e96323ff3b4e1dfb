//! The library itself and the driver: initialisation, versions, names of errors.

use std::{
    ffi::{c_char, c_int, c_uint},
    fs,
};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

use super::{Out, export, put, put_text};
use crate::{
    fault::{Fault, describe},
    library::{initialize, shutdown, with_session},
};

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(code: nvmlReturn_t) -> *const c_char {
    describe(code).as_ptr()
}

export! {
    fn nvmlInit() { initialize(0) }
    fn nvmlInit_v2() { initialize(0) }
    fn nvmlInitWithFlags(flags: c_uint) { initialize(flags) }
    fn nvmlShutdown() { shutdown() }

    fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) {
        with_session(|session| put_text(version, length, &session.node().driver.version))
    }

    // The real library puts the major CUDA version before the driver's: `13.580.95.05`.
    fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) {
        with_session(|session| {
            let driver = &session.node().driver;
            put_text(version, length, &format!("{}.{}", driver.cuda.major, driver.version))
        })
    }

    fn nvmlSystemGetCudaDriverVersion(version: Out<'_, c_int>) { put(version, cuda_version()?) }
    fn nvmlSystemGetCudaDriverVersion_v2(version: Out<'_, c_int>) { put(version, cuda_version()?) }

    fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) {
        with_session(|_| Ok(()))?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| Fault::NotFound)?;
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        put_text(name, length, &String::from_utf8_lossy(program))
    }
}

/// CUDA's own way to write 13.0: 13000.
fn cuda_version() -> Result<c_int, Fault> {
    with_session(|session| {
        let cuda = session.node().driver.cuda;
        c_int::try_from(cuda.major * 1000 + cuda.minor * 10).map_err(|_| Fault::Unknown)
    })
}
