//! Builds the cluster's programs while the first stages run.
//!
//! A fresh machine compiles eleven minutes of Go. Linkers and large crates leave one of two cores idle, so Go and
//! Rust compile side by side in less time than one after the other.

use std::thread::{Scope, ScopedJoinHandle};

use tessera_cluster::Release;
use tessera_cluster::paths::checkout;
use tessera_cluster::programs::{self, Programs, ProgramsError};
use tessera_cluster::progress::Screen;

/// A build that goes on beside the stages.
pub(crate) struct Ahead<'scope>(Option<ScopedJoinHandle<'scope, Result<Programs, ProgramsError>>>);

impl<'scope> Ahead<'scope> {
    /// Begins it, if it is needed.
    pub(crate) fn begin(scope: &'scope Scope<'scope, '_>, needed: bool, release: Release) -> Self {
        Self(needed.then(|| scope.spawn(move || obtain(release))))
    }

    /// Waits for its end: what is tested from here on shall have the machine for itself.
    ///
    /// If it failed, the stage that needs the programs says so.
    pub(crate) fn end(&mut self) {
        if let Some(build) = self.0.take() {
            let _ = build.join();
        }
    }
}

/// The programs, after those were built that the cache lacks.
pub(crate) fn obtain(release: Release) -> Result<Programs, ProgramsError> {
    programs::obtain(&checkout().join("e2e/programs"), release, &Screen)
}
