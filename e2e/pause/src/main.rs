//! Holds a pod's namespaces until it is told to stop, and reaps what is orphaned into it.
//!
//! It is the first process of a pod that shares its process namespace, so nobody else collects the orphans there. Given a
//! path, it holds the lock of the file there meanwhile (`flock`), and makes the file if need be.

use std::env;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{WaitOptions, wait};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let held = env::args_os().nth(1).map(|path| lock(Path::new(&path)));
    let Ok(_held) = held.transpose() else {
        return ExitCode::FAILURE;
    };
    let Ok(mut signals) = Signals::new([SIGCHLD, SIGINT, SIGTERM]) else {
        return ExitCode::FAILURE;
    };
    for signal in signals.forever() {
        if signal != SIGCHLD {
            break;
        }
        // One SIGCHLD may stand for several children.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
    ExitCode::SUCCESS
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    file.lock()?;
    Ok(file)
}
