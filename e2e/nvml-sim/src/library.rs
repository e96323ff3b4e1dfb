//! What the library keeps between calls: how often it was initialised, and the GPUs it sees.
//!
//! GPUs are enumerated when the first user initialises the library, as in the real one; their state
//! is read anew whenever it has changed. Injections act here, before the call that they touch, and
//! outside the lock, so that a delayed call delays no other.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process, ptr,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nvml_wrapper_sys::bindings::{
    NVML_INIT_FLAG_NO_GPUS, nvmlComputeInstance_t, nvmlDevice_t, nvmlGpuInstance_t,
    nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t,
};
use tessera_hw::{
    Effect, Facts, Gpu, Node, StateFile,
    kernel::{self, Answer, AskError, Request},
    mig::{
        COMPUTE_INSTANCES, Done, GPU_INSTANCES, GpuInstance, Instance, Operation, Profile, Refusal,
        capability,
    },
    state::{Presence, Watch},
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
/// The same for every GPU instance, every compute instance and every MIG device that a GPU can have.
const MAX_PARTS: usize = GPU_INSTANCES as usize;
static PARTS: [u8; MAX_GPUS * MAX_PARTS] = [0; MAX_GPUS * MAX_PARTS];
const MAX_MIG: usize = MAX_PARTS * COMPUTE_INSTANCES as usize;
static MIG_DEVICES: [u8; MAX_GPUS * MAX_MIG] = [0; MAX_GPUS * MAX_MIG];
static COMPUTE: [u8; MAX_GPUS * MAX_MIG] = [0; MAX_GPUS * MAX_MIG];

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

/// One GPU instance that this process sees.
pub(crate) struct Part<'a> {
    pub(crate) handle: nvmlGpuInstance_t,
    pub(crate) instance: GpuInstance,
    pub(crate) profile: &'a Profile,
}

/// One MIG device that this process sees.
pub(crate) struct MigDevice<'a> {
    pub(crate) handle: nvmlDevice_t,
    /// That of its compute instance.
    pub(crate) compute: nvmlComputeInstance_t,
    /// That of its GPU instance.
    pub(crate) part: nvmlGpuInstance_t,
    pub(crate) instance: &'a Instance,
    pub(crate) profile: &'a Profile,
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
    let session = library.session.as_ref().ok_or(Fault::DriverNotLoaded)?;
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

/// Runs `body` on the GPU and the GPU instance behind a handle.
pub(crate) fn with_part<T>(
    handle: nvmlGpuInstance_t,
    body: impl FnOnce(&Session, Device<'_>, Part<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_session(|session| {
        let mut parts = session.devices().flat_map(|parent| {
            let parts = session.parts(&parent).into_iter();
            parts.map(move |part| (parent, part))
        });
        let (parent, part) = parts
            .find(|(_, part)| part.handle == handle)
            .ok_or(Fault::InvalidArgument)?;
        body(session, parent.present()?, part)
    })
}

/// Runs `body` on the GPU and the MIG device behind the handle of a compute instance.
pub(crate) fn with_compute<T>(
    handle: nvmlComputeInstance_t,
    body: impl FnOnce(Device<'_>, MigDevice<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_session(|session| {
        let (parent, mig) = session
            .all_mig_devices()
            .find(|(_, mig)| mig.compute == handle)
            .ok_or(Fault::InvalidArgument)?;
        body(parent.present()?, mig)
    })
}

/// Lets the driver do something to the GPU with this UUID. Holds no lock meanwhile.
pub(crate) fn operate(gpu: String, operation: Operation) -> Result<Done, Fault> {
    // The capability `mig/config` is root's alone (MIG user guide).
    if !rustix::process::geteuid().is_root() {
        return Err(Fault::NoPermission);
    }
    let root = with_session(|session| Ok(session.root.clone()))?;
    match kernel::perform(&root, &Request::Operate { gpu, operation }) {
        Ok(Answer::Done(done)) => Ok(done),
        Ok(Answer::Refused(refusal)) => Err(match refusal {
            Refusal::NotSupported => Fault::NotSupported,
            Refusal::InvalidArgument => Fault::InvalidArgument,
            Refusal::NoPermission => Fault::NoPermission,
            Refusal::InsufficientResources => Fault::InsufficientResources,
            Refusal::InUse => Fault::InUse,
            Refusal::GpuIsLost => Fault::GpuIsLost,
        }),
        // A container that was given a GPU may not cut it.
        Err(AskError::Nobody { .. }) => Err(Fault::NoPermission),
        Ok(Answer::Due(_) | Answer::Failed(_)) | Err(_) => Err(Fault::Unknown),
    }
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

    /// Whether the capability of a GPU instance, or of a compute instance in it, has its node here.
    fn may_use(&self, facts: &Facts, part: u32, compute: Option<u32>) -> bool {
        let minor = capability(facts.minor, part, compute);
        root::has_device(&self.root, &format!("nvidia-caps/nvidia-cap{minor}"))
    }

    /// The GPU instances of a GPU that this process may use, in the order of their places.
    pub(crate) fn parts<'a>(&'a self, parent: &Device<'a>) -> Vec<Part<'a>> {
        let Gpu {
            facts, condition, ..
        } = parent.gpu;
        let Some(table) = facts.mig_table().filter(|_| condition.mig.enabled) else {
            return Vec::new();
        };
        let parts = condition.mig.parts().into_iter();
        let mine = parts.filter(|part| self.may_use(facts, part.number, None));
        mine.filter_map(|part| {
            Some(Part {
                handle: part_handle(parent, part.number)?,
                instance: part,
                profile: table.profile(part.profile)?,
            })
        })
        .collect()
    }

    /// The MIG devices of a GPU that this process may use, in the order of their indices: those whose
    /// capabilities have their nodes here.
    pub(crate) fn mig_devices<'a>(&'a self, parent: &Device<'a>) -> Vec<MigDevice<'a>> {
        let Gpu {
            facts, condition, ..
        } = parent.gpu;
        let Some(table) = facts.mig_table().filter(|_| condition.mig.enabled) else {
            return Vec::new();
        };
        let mine = condition.mig.instances.iter().filter(|instance| {
            let (gi, ci) = (instance.gpu_instance, instance.compute_instance);
            self.may_use(facts, gi, None) && self.may_use(facts, gi, Some(ci))
        });
        mine.filter_map(|instance| {
            let (gi, ci) = (instance.gpu_instance, instance.compute_instance);
            let at = compute_at(parent, gi, ci);
            Some(MigDevice {
                handle: ptr::from_ref(MIG_DEVICES.get(at)?).cast_mut().cast(),
                compute: compute_handle(parent, gi, ci)?,
                part: part_handle(parent, gi)?,
                instance,
                profile: table.profile(instance.profile)?,
            })
        })
        .collect()
    }

    /// All MIG devices that this process may use, each with its GPU.
    pub(crate) fn all_mig_devices(&self) -> impl Iterator<Item = (Device<'_>, MigDevice<'_>)> {
        self.devices().flat_map(move |parent| {
            let devices = self.mig_devices(&parent).into_iter();
            devices.map(move |mig| (parent, mig))
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

/// The handle of the GPU instance with this number.
pub(crate) fn part_handle(parent: &Device<'_>, number: u32) -> Option<nvmlGpuInstance_t> {
    let at = parent.at * MAX_PARTS + number as usize;
    Some(ptr::from_ref(PARTS.get(at)?).cast_mut().cast())
}

/// The handle of the compute instance with this number in that GPU instance.
pub(crate) fn compute_handle(
    parent: &Device<'_>,
    part: u32,
    number: u32,
) -> Option<nvmlComputeInstance_t> {
    let at = compute_at(parent, part, number);
    Some(ptr::from_ref(COMPUTE.get(at)?).cast_mut().cast())
}

fn compute_at(parent: &Device<'_>, part: u32, number: u32) -> usize {
    let part = parent.at * MAX_PARTS + part as usize;
    part * COMPUTE_INSTANCES as usize + number as usize
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
