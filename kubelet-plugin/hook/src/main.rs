//! The OCI hook that readies a container for GPUs.
//!
//! A container runtime runs it while it makes a container, after the driver's files are mounted and
//! before the container's own program starts (the OCI specification's `createContainer`). It makes
//! the links by which programs load the driver, and rebuilds the loader's cache. Before that, as `createRuntime`, it
//! has the container held to its share of a GPU's memory.
//!
//! # Assumptions
//! Whoever made the image or shares a volume with the container is hostile: any path in the
//! container's file system may be a link, and may change while this program looks at it.
//!
//! # Guarantees
//! - Nothing outside the container's root is written or read at the tenant's will: every path in it
//!   is resolved by the kernel with the root as a limit, and `ldconfig` runs where nothing else
//!   can be seen.
//! - Running twice is the same as running once.
//! - A container that is to be held to a share starts held to it, or not at all.
//! - A read-only root costs the links or the cache, with a warning, but not the container.

mod args;
mod cache;
mod jail;
mod ldconfig;
mod limit;
mod links;
mod rootfs;
mod state;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use rustix::fs::Mode;
use thiserror::Error;

use crate::args::Command;
use crate::cache::CacheError;
use crate::limit::LimitError;
use crate::links::LinkError;
use crate::rootfs::{Rootfs, RootfsError};
use crate::state::StateError;

/// Exit status for arguments that are not understood.
const USAGE: u8 = 2;

/// What a container goes without although the hook succeeds.
#[derive(Debug, PartialEq, Eq, Error)]
enum Warning {
    #[error("{path} cannot be written because the container's root is read-only; {loss}")]
    ReadOnly { path: String, loss: &'static str },
    #[error(
        "this host has no ldconfig at {}, so programs find no driver library by name; install one, \
         or set LD_LIBRARY_PATH in the container to {folders}", ldconfig::USUAL.join(" or ")
    )]
    NoLdconfig { folders: String },
}

#[derive(Debug, Error)]
enum HookError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Limit(#[from] LimitError),
}

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            say(&format!("{error}; see --help"));
            return ExitCode::from(USAGE);
        }
    };
    match run(&command) {
        Ok(warnings) => {
            for warning in warnings {
                say(&format!("{}: warning: {warning}", command.name()));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{}: {}", command.name(), chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<Vec<Warning>, HookError> {
    // What is made here is for every user of the container, whatever the runtime's own mask is.
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    match command {
        Command::Help => {
            // Whoever closes the pipe early does not want the rest.
            let _ = io::stdout().write_all(args::HELP.as_bytes());
            Ok(Vec::new())
        }
        Command::CreateSymlinks(links) => Ok(links::create(&container()?, links)?),
        Command::UpdateLdcache { folders, ldconfig } => {
            let warning = cache::update(container()?, folders, ldconfig.as_deref())?;
            Ok(warning.into_iter().collect())
        }
        Command::LimitMemory(limit) => {
            limit::apply(limit, state::container_process(io::stdin().lock())?)?;
            Ok(Vec::new())
        }
    }
}

fn container() -> Result<Rootfs, HookError> {
    let path = state::container_root(io::stdin().lock())?;
    Ok(Rootfs::open(&path)?)
}

/// Runtimes keep the last lines of a hook's standard error, so a message is one line; the names in
/// it may be the tenant's, so nothing in it acts on a terminal.
fn say(message: &str) {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let _ = writeln!(io::stderr(), "tessera-cdi-hook: {line}");
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
