//! Event sets: which GPUs somebody waits for, and the waiting.
//!
//! A set lives until it is freed or the library is shut down. Waiting holds no lock.

use std::{
    collections::BTreeMap,
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlEventSet_t};
use tessera_hw::state::Presence;

use crate::{fault::Fault, library};

/// `nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError | nvmlEventTypeSingleBitEccError`,
/// the events of `nvml.h` that say something about health.
pub(crate) const SUPPORTED: u64 = 0x8 | 0x2 | 0x1;

/// How long a change of the node may go unseen by somebody who waits.
const TICK: Duration = Duration::from_millis(20);

static SETS: Mutex<Sets> = Mutex::new(Sets {
    last: 0,
    registered: BTreeMap::new(),
});

struct Sets {
    last: usize,
    /// Handles of GPUs, as addresses, for each set.
    registered: BTreeMap<usize, Vec<usize>>,
}

pub(crate) fn create() -> nvmlEventSet_t {
    let mut sets = lock();
    sets.last += 1;
    let id = sets.last;
    sets.registered.insert(id, Vec::new());
    ptr::without_provenance_mut(id)
}

pub(crate) fn register(device: nvmlDevice_t, types: u64, set: nvmlEventSet_t) -> Result<(), Fault> {
    if types & !SUPPORTED != 0 {
        return Err(Fault::NotSupported);
    }
    let mut sets = lock();
    let registered = sets
        .registered
        .get_mut(&set.addr())
        .ok_or(Fault::InvalidArgument)?;
    registered.push(device.addr());
    Ok(())
}

pub(crate) fn free(set: nvmlEventSet_t) -> Result<(), Fault> {
    lock()
        .registered
        .remove(&set.addr())
        .map(drop)
        .ok_or(Fault::InvalidArgument)
}

pub(crate) fn forget_all() {
    lock().registered.clear();
}

/// Waits until a GPU of the set is lost or `timeout` has passed.
pub(crate) fn wait(set: nvmlEventSet_t, timeout: Duration) -> Result<(), Fault> {
    let deadline = Instant::now() + timeout;
    loop {
        let registered = lock()
            .registered
            .get(&set.addr())
            .cloned()
            .ok_or(Fault::InvalidArgument)?;
        library::with_session(|session| {
            let lost = session.devices().any(|device| {
                device.gpu.condition.presence != Presence::Present
                    && registered.contains(&device.handle.addr())
            });
            if lost { Err(Fault::GpuIsLost) } else { Ok(()) }
        })?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::Timeout);
        }
        thread::sleep(left.min(TICK));
    }
}

fn lock() -> MutexGuard<'static, Sets> {
    SETS.lock().unwrap_or_else(PoisonError::into_inner)
}
