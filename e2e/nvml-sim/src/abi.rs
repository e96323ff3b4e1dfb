//! The exported symbols.
//!
//! A parameter through which a call answers is an `Out`: a pointer that may be null and may point
//! to uninitialised memory. The compiler knows that layout, so only texts need unsafe code. Every
//! caller of the C ABI promises what `nvml.h` asks: pointers are null or good for their type, and
//! texts have the length that goes with them.

mod condition;
mod device;
mod event;
mod fabric;
mod instance;
mod limits;
mod mig;
mod policy;
mod system;

use std::{
    ffi::{CStr, c_char, c_uint},
    mem::MaybeUninit,
    slice,
};

use crate::fault::Fault;

/// Where a call puts its answer.
type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Defines exported functions. Each returns an NVML code; its body says whether it succeeds.
macro_rules! export {
    ($(fn $name:ident($($parameter:ident: $kind:ty),* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($parameter: $kind),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
            crate::library::call(stringify!($name), move || $body)
        }
    )*};
}
use export;

fn put<T>(out: Out<'_, T>, value: T) -> Result<(), Fault> {
    out.ok_or(Fault::InvalidArgument)?.write(value);
    Ok(())
}

/// Writes `text` and its terminating zero into a buffer of the caller.
fn put_text(buffer: *mut c_char, length: c_uint, text: &str) -> Result<(), Fault> {
    if buffer.is_null() {
        return Err(Fault::InvalidArgument);
    }
    let length = usize::try_from(length).map_err(|_| Fault::InvalidArgument)?;
    if length <= text.len() {
        return Err(Fault::InsufficientSize);
    }
    // SAFETY: the caller says that `length` bytes at `buffer` are its own to be written.
    let room = unsafe { slice::from_raw_parts_mut(buffer.cast::<MaybeUninit<u8>>(), length) };
    for (byte, value) in room.iter_mut().zip(text.bytes().chain([0])) {
        byte.write(value);
    }
    Ok(())
}

/// Writes these values into an array of the caller and says how many there are. A null pointer asks for
/// their number alone.
fn put_all<T>(array: *mut T, count: Option<&mut c_uint>, values: Vec<T>) -> Result<(), Fault> {
    let count = count.ok_or(Fault::InvalidArgument)?;
    *count = c_uint::try_from(values.len()).map_err(|_| Fault::Unknown)?;
    if array.is_null() {
        return Ok(());
    }
    // SAFETY: the caller says that the array has room for all values that there can be.
    let room = unsafe { slice::from_raw_parts_mut(array.cast::<MaybeUninit<T>>(), values.len()) };
    for (slot, value) in room.iter_mut().zip(values) {
        slot.write(value);
    }
    Ok(())
}

/// Reads a text of the caller.
fn text<'a>(pointer: *const c_char) -> Result<&'a str, Fault> {
    if pointer.is_null() {
        return Err(Fault::InvalidArgument);
    }
    // SAFETY: the caller says that a C string is there, and does not change it during the call.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Fault::InvalidArgument)
}

/// A text as the fixed array of a C structure, cut where it is too long.
fn array<const LEN: usize>(text: &str) -> [c_char; LEN] {
    let mut array = [0; LEN];
    for (slot, byte) in array.iter_mut().take(LEN - 1).zip(text.bytes()) {
        *slot = byte.cast_signed();
    }
    array
}

/// Checks the version field of a structure: its size, and its version in the highest byte.
fn check_version<T>(given: c_uint, version: c_uint) -> Result<(), Fault> {
    let size = c_uint::try_from(size_of::<T>()).map_err(|_| Fault::Unknown)?;
    if given == size | version << 24 {
        Ok(())
    } else {
        Err(Fault::VersionMismatch)
    }
}
