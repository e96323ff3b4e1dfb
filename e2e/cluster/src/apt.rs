//! Debian's `apt-get`, one at a time.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::process::{RunError, run};

/// Programs and images are made side by side, and apt refuses a second one that wants its lists or its database.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `apt-get` with these arguments in a directory, once more with new package lists if it fails: a fresh machine has none,
/// and an old one has lists that name files that are gone.
pub(crate) fn get(arguments: &[&str], within: &Path, limit: Duration) -> Result<(), RunError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let once = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(arguments)
            .current_dir(within)
            .env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut command, limit).map(drop)
    };
    once(arguments).or_else(|_| once(&["update", "-q"]).and_then(|()| once(arguments)))
}
