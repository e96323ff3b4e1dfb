//! Ctrl-C and termination as a flag that every wait of this crate looks at.
//!
//! The first signal makes the running wait fail, so that the ordinary way out cleans up. The second ends the process at
//! once; the nodes notice that by themselves and stop.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Exit status of a process that an interrupt ended, as shells report it.
pub const EXIT_STATUS: u8 = 130;

/// Catches SIGINT and SIGTERM from here on. Call it once, before the first wait.
pub fn catch() -> std::io::Result<()> {
    let requested = REQUESTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // Registered before the flag is set, so that only a second signal finds it set.
        flag::register_conditional_shutdown(signal, i32::from(EXIT_STATUS), Arc::clone(requested))?;
        flag::register(signal, Arc::clone(requested))?;
    }
    Ok(())
}

/// Whether a signal has come. Never true before [`catch`].
pub fn requested() -> bool {
    REQUESTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Forgets the signal, so that cleaning up may wait in its turn.
pub(crate) fn taken() {
    if let Some(flag) = REQUESTED.get() {
        flag.store(false, Ordering::Relaxed);
    }
}
