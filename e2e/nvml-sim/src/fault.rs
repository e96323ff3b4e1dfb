//! Why a call fails, and the code and text that a caller gets for it.

use std::ffi::CStr;

use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH as VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED as DRIVER_NOT_LOADED,
    nvmlReturn_enum_NVML_ERROR_FUNCTION_NOT_FOUND as FUNCTION_NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST as GPU_IS_LOST,
    nvmlReturn_enum_NVML_ERROR_IN_USE as IN_USE,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_RESOURCES as INSUFFICIENT_RESOURCES,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT,
    nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH as LIB_RM_VERSION_MISMATCH,
    nvmlReturn_enum_NVML_ERROR_NO_PERMISSION as NO_PERMISSION,
    nvmlReturn_enum_NVML_ERROR_NOT_FOUND as NOT_FOUND,
    nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED as NOT_SUPPORTED,
    nvmlReturn_enum_NVML_ERROR_TIMEOUT as TIMEOUT,
    nvmlReturn_enum_NVML_ERROR_UNINITIALIZED as UNINITIALIZED,
    nvmlReturn_enum_NVML_ERROR_UNKNOWN as UNKNOWN, nvmlReturn_t,
};

/// Why a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Uninitialized,
    InvalidArgument,
    NotSupported,
    NoPermission,
    NotFound,
    /// Others have what it needs.
    InsufficientResources,
    InUse,
    InsufficientSize,
    DriverNotLoaded,
    Timeout,
    GpuIsLost,
    VersionMismatch,
    /// The kernel's driver is of another version than this library.
    LibraryVersionMismatch,
    /// The driver of this node is older than the function.
    FunctionNotFound,
    /// The state of the node cannot be read.
    Unknown,
    /// A test wants this code.
    Injected(nvmlReturn_t),
}

impl Fault {
    pub(crate) fn code(self) -> nvmlReturn_t {
        match self {
            Self::Uninitialized => UNINITIALIZED,
            Self::InvalidArgument => INVALID_ARGUMENT,
            Self::NotSupported => NOT_SUPPORTED,
            Self::NoPermission => NO_PERMISSION,
            Self::NotFound => NOT_FOUND,
            Self::InsufficientResources => INSUFFICIENT_RESOURCES,
            Self::InUse => IN_USE,
            Self::InsufficientSize => INSUFFICIENT_SIZE,
            Self::DriverNotLoaded => DRIVER_NOT_LOADED,
            Self::Timeout => TIMEOUT,
            Self::GpuIsLost => GPU_IS_LOST,
            Self::VersionMismatch => VERSION_MISMATCH,
            Self::LibraryVersionMismatch => LIB_RM_VERSION_MISMATCH,
            Self::FunctionNotFound => FUNCTION_NOT_FOUND,
            Self::Unknown => UNKNOWN,
            Self::Injected(code) => code,
        }
    }
}

/// The text of a code, as `nvmlErrorString` gives it.
pub(crate) fn describe(code: nvmlReturn_t) -> &'static CStr {
    match code {
        0 => c"Success",
        UNINITIALIZED => c"Uninitialized",
        INVALID_ARGUMENT => c"Invalid Argument",
        NOT_SUPPORTED => c"Not Supported",
        NO_PERMISSION => c"Insufficient Permissions",
        5 => c"Already Initialized",
        NOT_FOUND => c"Not Found",
        INSUFFICIENT_SIZE => c"Insufficient Size",
        8 => c"Insufficient External Power",
        DRIVER_NOT_LOADED => c"Driver Not Loaded",
        TIMEOUT => c"Timeout",
        11 => c"Interrupt Request Issue",
        12 => c"NVML Shared Library Not Found",
        FUNCTION_NOT_FOUND => c"Function Not Found",
        14 => c"Corrupted infoROM",
        GPU_IS_LOST => c"GPU is lost",
        16 => c"GPU requires restart",
        17 => c"The operating system has blocked the request.",
        LIB_RM_VERSION_MISMATCH => c"RM has detected an NVML/RM version mismatch.",
        IN_USE => c"In use by another client",
        20 => c"Insufficient Memory",
        21 => c"No data",
        22 => c"ECC is not supported on vGPU",
        INSUFFICIENT_RESOURCES => c"Insufficient resources",
        24 => c"Frequency is not supported",
        VERSION_MISMATCH => c"Argument version mismatch",
        26 => c"Deprecated",
        27 => c"Not ready",
        28 => c"GPU not found",
        29 => c"Invalid state",
        30 => c"Reset type is not supported",
        _ => c"Unknown Error",
    }
}
