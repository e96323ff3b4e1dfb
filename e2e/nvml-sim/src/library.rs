//! What the library keeps between calls: how often it was initialised, and the GPUs it sees.
//!
//! GPUs are enumerated when the first user initialises the library, as in the real one; their state
//! is read anew whenever it has changed. Injections act here, before the call that they touch, and
//! outside the lock, so that a delayed call delays no other.

mod mig;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process, ptr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nvml_wrapper_sys::bindings::{
    NVML_INIT_FLAG_NO_GPUS, nvmlDevice_t, nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t,
};
use tessera_hw::{
    Effect, Facts, Gpu, Node, StateFile,
    kernel::{self, Answer, AskError, Request},
    state::{Presence, Watch},
};

pub(crate) use self::mig::{
    MigDevice, Part, compute_handle, operate, part_handle, set_memory_limits, set_policy,
    with_compute, with_part,
};
use crate::{
    events,
    fault::Fault,
    root::{self, Home},
    tally,
};

/// More than any machine has. Handles point into this array, so they stay valid and can be checked.
const MAX_GPUS: usize = 256;
static HANDLES: [u8; MAX_GPUS] = [0; MAX_GPUS];
/// How long a call may go on hanging after it was released.
const RELEASE_TICK: Duration = Duration::from_millis(20);

static LIBRARY: Mutex<Library> = Mutex::new(Library {
    users: 0,
    session: None,
});

struct Library {
    users: usize,
    session: Option<Session>,
}

/// The GPUs between the first initialisation and the last shutdown.
pub(crate) struct Session {
    root: PathBuf,
    state: StateFile,
    watch: Watch,
    generation: u64,
    node: Node,
    /// The version of this library.
    version: Option<String>,
    /// Positions in `node.gpus` of the GPUs that this process sees. The order is NVML's index.
    visible: Vec<usize>,
}

/// One GPU that this process sees.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    pub(crate) index: usize,
    pub(crate) handle: nvmlDevice_t,
    pub(crate) gpu: &'a Gpu,
    at: usize,
}

/// What a device handle can stand for.
pub(crate) enum Any<'a> {
    Gpu(Device<'a>),
    Mig(Device<'a>, MigDevice<'a>),
}

impl<'a> Any<'a> {
    /// The MIG device, where the call is about one.
    pub(crate) fn mig(self) -> Result<(Device<'a>, MigDevice<'a>), Fault> {
        match self {
            Self::Mig(parent, mig) => Ok((parent, mig)),
            Self::Gpu(_) => Err(Fault::InvalidArgument),
        }
    }
}

/// Runs one call: injections first, then `body`. Panics become `NVML_ERROR_UNKNOWN`.
pub(crate) fn call(function: &str, body: impl FnOnce() -> Result<(), Fault>) -> nvmlReturn_t {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        inject(function)?;
        body()
    }));
    match outcome {
        Ok(Ok(())) => nvmlReturn_enum_NVML_SUCCESS,
        Ok(Err(fault)) => fault.code(),
        Err(_) => Fault::Unknown.code(),
    }
}

/// Initialises the library once more.
pub(crate) fn initialize(flags: u32) -> Result<(), Fault> {
    let mut library = lock();
    // Since this call began, the last of the other users may have left.
    let session = match library.session.take() {
        Some(session) => session,
        None => Session::open()?,
    };
    let session = library.session.insert(session);
    if session.visible.is_empty() && flags & NVML_INIT_FLAG_NO_GPUS == 0 {
        return Err(Fault::NotFound);
    }
    library.users += 1;
    Ok(())
}

/// Takes back one initialisation.
pub(crate) fn shutdown() -> Result<(), Fault> {
    let mut library = lock();
    library.users = library.users.checked_sub(1).ok_or(Fault::Uninitialized)?;
    if library.users == 0 {
        library.session = None;
        events::forget_all();
    }
    Ok(())
}

/// Runs `body` on the present state.
pub(crate) fn with_session<T>(body: impl FnOnce(&Session) -> Result<T, Fault>) -> Result<T, Fault> {
    let mut library = lock();
    if library.users == 0 {
        return Err(Fault::Uninitialized);
    }
    let session = library.session.as_mut().ok_or(Fault::Uninitialized)?;
    session.refresh()?;
    body(session)
}

/// Runs `body` on the GPU behind a handle.
pub(crate) fn with_device<T>(
    handle: nvmlDevice_t,
    body: impl FnOnce(Device<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_session(|session| body(session.device(handle)?.present()?))
}

/// Runs `body` on what is behind a handle, a GPU or a MIG device.
pub(crate) fn with_any<T>(
    handle: nvmlDevice_t,
    body: impl FnOnce(Any<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_session(|session| body(session.any(handle)?))
}

/// Runs `body` on what does not change about the GPU behind a handle.
pub(crate) fn with_facts<T>(
    handle: nvmlDevice_t,
    body: impl FnOnce(&Facts) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_device(handle, |device| body(&device.gpu.facts))
}

impl Session {
    fn open() -> Result<Self, Fault> {
        let Home {
            root,
            state,
            version,
        } = root::find().ok_or(Fault::DriverNotLoaded)?;
        if !root::has_device(&root, "nvidiactl") {
            return Err(Fault::DriverNotLoaded);
        }
        let watch = state.watch().map_err(|_| Fault::DriverNotLoaded)?;
        let (generation, node) = state.read().map_err(|_| Fault::DriverNotLoaded)?;
        let is_seen = |gpu: &Gpu| {
            gpu.condition.presence != Presence::Resetting
                && root::has_device(&root, &format!("nvidia{}", gpu.facts.minor))
        };
        let gpus = node.gpus.iter().take(MAX_GPUS).enumerate();
        let visible = gpus
            .filter(|(_, gpu)| is_seen(gpu))
            .map(|(at, _)| at)
            .collect();
        let session = Self {
            root,
            state,
            watch,
            generation,
            node,
            version,
            visible,
        };
        session.check_version()?;
        Ok(session)
    }

    /// Fails if the kernel's driver is of another version, as the real library does.
    fn check_version(&self) -> Result<(), Fault> {
        match &self.version {
            Some(version) if *version != self.node.driver.version => {
                Err(Fault::LibraryVersionMismatch)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn refresh(&mut self) -> Result<(), Fault> {
        if self.watch.generation().map_err(|_| Fault::Unknown)? != self.generation {
            // The file that is open and not the one at its path: a driver that was replaced leaves
            // its state to those who still have it open.
            (self.generation, self.node) = self.watch.read().map_err(|_| Fault::Unknown)?;
        }
        self.check_version()
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// The GPUs in the order of their indices.
    pub(crate) fn devices(&self) -> impl ExactSizeIterator<Item = Device<'_>> {
        self.visible.iter().enumerate().map(|(index, at)| Device {
            index,
            handle: handle(*at),
            gpu: &self.node.gpus[*at],
            at: *at,
        })
    }

    /// What is behind a handle.
    pub(crate) fn any(&self, wanted: nvmlDevice_t) -> Result<Any<'_>, Fault> {
        if let Ok(device) = self.device(wanted) {
            return Ok(Any::Gpu(device.present()?));
        }
        let mut all = self.all_mig_devices();
        let (parent, mig) = all
            .find(|(_, mig)| mig.handle == wanted)
            .ok_or(Fault::InvalidArgument)?;
        Ok(Any::Mig(parent.present()?, mig))
    }

    /// The GPU behind a handle, lost or not.
    pub(crate) fn device(&self, wanted: nvmlDevice_t) -> Result<Device<'_>, Fault> {
        self.devices()
            .find(|device| device.handle == wanted)
            .ok_or(Fault::InvalidArgument)
    }
}

impl Device<'_> {
    /// The same GPU, unless it has fallen off the bus.
    pub(crate) fn present(self) -> Result<Self, Fault> {
        match self.gpu.condition.presence {
            Presence::Present => Ok(self),
            Presence::Lost | Presence::Resetting => Err(Fault::GpuIsLost),
        }
    }
}

fn handle(at: usize) -> nvmlDevice_t {
    ptr::from_ref(&HANDLES[at]).cast_mut().cast()
}

fn lock() -> MutexGuard<'static, Library> {
    // A panic inside the lock leaves a session that is still whole: it is replaced at once or not at all.
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the call and does to it what a test asked for.
fn inject(function: &str) -> Result<(), Fault> {
    for (injection, effect) in due(function)? {
        match effect {
            Effect::Delay(millis) => thread::sleep(Duration::from_millis(millis)),
            Effect::Fail(code) => return Err(Fault::Injected(code)),
            Effect::Die => process::abort(),
            Effect::Hang => hang(injection)?,
        }
    }
    Ok(())
}

fn due(function: &str) -> Result<Vec<(u64, Effect)>, Fault> {
    let mut library = lock();
    // The first user's initialising call looks around anew, even if an earlier one failed.
    if library.users == 0 && function.starts_with("nvmlInit") {
        library.session = None;
        library.session = Some(Session::open()?);
    }
    let Some(session) = library.session.as_mut() else {
        return Ok(Vec::new());
    };
    session.refresh()?;
    if session.node.injections.is_empty() {
        return Ok(Vec::new());
    }
    let mut due = match tally::program() {
        Some(program) => {
            tally::observe(&session.node, &program, function).map_err(|_| Fault::Unknown)?
        }
        None => Vec::new(),
    };
    if session.node.watches(function) {
        let root = session.root.clone();
        let function = function.to_owned();
        // Counting may have to ask another process, which delays no other thread.
        drop(library);
        match kernel::perform(&root, &Request::Count { function }) {
            Ok(Answer::Due(effects)) => due.extend(effects),
            // A container that was given a GPU: it cannot count, so nothing is injected.
            Err(AskError::Nobody { .. }) => {}
            Ok(_) | Err(_) => return Err(Fault::Unknown),
        }
    }
    Ok(due)
}

/// Returns when the injection is gone. Holds no lock, so that only the calling thread hangs.
fn hang(injection: u64) -> Result<(), Fault> {
    let state = {
        let library = lock();
        let session = library.session.as_ref().ok_or(Fault::Uninitialized)?;
        session.state.clone()
    };
    loop {
        // A driver that is gone takes its injections along.
        let Ok((_, node)) = state.read() else {
            return Err(Fault::Unknown);
        };
        if node.injections.iter().all(|other| other.id != injection) {
            return Ok(());
        }
        thread::sleep(RELEASE_TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_unknown_error_and_the_library_goes_on() {
        let panics = || with_locked_library(|| panic!("a bug of the simulator"));
        assert_eq!(call("nvmlDeviceGetName", panics), Fault::Unknown.code());
        let uninitialized = || with_session(|_| Ok(()));
        assert_eq!(
            call("nvmlDeviceGetName", uninitialized),
            Fault::Uninitialized.code()
        );
    }

    fn with_locked_library(body: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
        let _library = lock();
        body()
    }
}
