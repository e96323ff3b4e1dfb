//! `-c` and `compute-policy`: how a GPU is shared among programs.
//!
//! What is printed about time slices is this program's own wording; arguments and numbers are those of
//! the real one.

use std::{
    ffi::{CStr, CString, c_char, c_uint, c_void},
    fmt::Write as _,
};

use nvml_wrapper::{Nvml, enum_wrappers::device::ComputeMode, error::NvmlError};
use nvml_wrapper_sys::bindings::nvmlReturn_t;

use crate::{report::Report, switch::devices};

const SLICES: [&str; 4] = ["DEFAULT", "SHORT", "MEDIUM", "LONG"];

/// The mode that an argument names, by its number in `nvml.h` or by its name.
pub(crate) fn mode(text: &str) -> Result<ComputeMode, String> {
    match text {
        "0" | "DEFAULT" => Ok(ComputeMode::Default),
        "2" | "PROHIBITED" => Ok(ComputeMode::Prohibited),
        "3" | "EXCLUSIVE_PROCESS" => Ok(ComputeMode::ExclusiveProcess),
        _ => Err("no compute mode: DEFAULT, PROHIBITED or EXCLUSIVE_PROCESS".to_owned()),
    }
}

/// `-c`.
pub(crate) fn set_mode(
    nvml: &Nvml,
    id: Option<&str>,
    mode: ComputeMode,
) -> Result<Report, NvmlError> {
    let name = match mode {
        ComputeMode::Prohibited => "PROHIBITED",
        ComputeMode::ExclusiveProcess => "EXCLUSIVE_PROCESS",
        ComputeMode::Default | ComputeMode::ExclusiveThread => "DEFAULT",
    };
    let mut text = String::new();
    for mut device in devices(nvml, id)? {
        device.set_compute_mode(mode)?;
        let address = device.pci_info()?.bus_id;
        let _ = writeln!(text, "Set compute mode to {name} for GPU {address}.");
    }
    text.push_str("All done.\n");
    Ok(Report { text, code: 0 })
}

/// `compute-policy --set-timeslice`.
pub(crate) fn set_time_slice(
    nvml: &Nvml,
    id: Option<&str>,
    slice: u32,
) -> Result<Report, NvmlError> {
    type Set = unsafe extern "C" fn(*const c_char, c_uint) -> nvmlReturn_t;
    let set = Library::open()?.symbol(c"simulatedDeviceSetTimeSlice")?;
    // SAFETY: the library of this simulation has this function with this signature.
    #[expect(unsafe_code, reason = "a function that no header names")]
    let set: Set = unsafe { std::mem::transmute(set) };
    let mut text = String::new();
    for device in devices(nvml, id)? {
        let uuid = c_text(&device.uuid()?)?;
        // SAFETY: the text lives as long as the call.
        #[expect(unsafe_code, reason = "a call of C")]
        let code = unsafe { set(uuid.as_ptr(), slice) };
        succeeded(code)?;
        let address = device.pci_info()?.bus_id;
        let name = name(slice);
        let _ = writeln!(text, "Time slice of GPU {address} is {name} (simulated).");
    }
    Ok(Report { text, code: 0 })
}

/// `compute-policy --list`.
pub(crate) fn list(nvml: &Nvml, id: Option<&str>) -> Result<Report, NvmlError> {
    type Get = unsafe extern "C" fn(*const c_char, *mut c_uint) -> nvmlReturn_t;
    let get = Library::open()?.symbol(c"simulatedDeviceGetTimeSlice")?;
    // SAFETY: the library of this simulation has this function with this signature.
    #[expect(unsafe_code, reason = "a function that no header names")]
    let get: Get = unsafe { std::mem::transmute(get) };
    let mut text = String::new();
    for device in devices(nvml, id)? {
        let uuid = c_text(&device.uuid()?)?;
        let mut slice = 0;
        // SAFETY: the text lives as long as the call, and there is room for the answer.
        #[expect(unsafe_code, reason = "a call of C")]
        let code = unsafe { get(uuid.as_ptr(), &raw mut slice) };
        succeeded(code)?;
        let address = device.pci_info()?.bus_id;
        let name = name(slice);
        let _ = writeln!(text, "Time slice of GPU {address} is {name} (simulated).");
    }
    Ok(Report { text, code: 0 })
}

fn name(slice: u32) -> &'static str {
    let at = usize::try_from(slice).unwrap_or(usize::MAX);
    SLICES.get(at).copied().unwrap_or("unknown")
}

fn c_text(text: &str) -> Result<CString, NvmlError> {
    CString::new(text).map_err(|_| NvmlError::InvalidArg)
}

fn succeeded(code: nvmlReturn_t) -> Result<(), NvmlError> {
    nvml_wrapper::error::nvml_try(code)
}

/// The management library, which is loaded already.
struct Library(*mut c_void);

impl Library {
    #[expect(unsafe_code, reason = "a call of C")]
    fn open() -> Result<Self, NvmlError> {
        // SAFETY: the name is a C string, and the library has been loaded before.
        let library = unsafe { libc::dlopen(c"libnvidia-ml.so.1".as_ptr(), libc::RTLD_LAZY) };
        if library.is_null() {
            return Err(NvmlError::Unknown);
        }
        Ok(Self(library))
    }

    /// A function of it. The real library has others for this, and none of this name.
    #[expect(unsafe_code, reason = "a call of C")]
    fn symbol(&self, name: &CStr) -> Result<*mut c_void, NvmlError> {
        // SAFETY: the handle is that of a library that stays loaded, and the name is a C string.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if found.is_null() {
            return Err(NvmlError::NotSupported);
        }
        Ok(found)
    }
}
