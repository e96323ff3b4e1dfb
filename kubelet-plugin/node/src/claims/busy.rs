//! Claims that are over and cannot be taken back, because somebody holds a MIG device of theirs open.
//!
//! Their devices are tainted as long as that lasts. It is not kept over a restart: the kubelet calls again, or
//! the next look at all claims does.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tessera_claim::ClaimUid;
use tokio::sync::watch;

use super::ClaimError;

#[derive(Debug, Default)]
pub(super) struct Busy {
    claims: Mutex<BTreeSet<ClaimUid>>,
    /// Rings when there are others.
    changes: watch::Sender<()>,
}

impl Busy {
    /// Takes in what came of taking a claim back.
    pub(super) fn learn<T>(&self, claim: &ClaimUid, outcome: &Result<T, ClaimError>) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match outcome {
            Ok(_) => claims.remove(claim),
            Err(error) if error.is_busy() => claims.insert(claim.clone()),
            Err(_) => false,
        };
        drop(claims);
        if is_news {
            self.changes.send_replace(());
        }
    }

    /// Those that are so now.
    pub(super) fn claims(&self) -> BTreeSet<ClaimUid> {
        let claims = self.claims.lock();
        claims.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rings when there are others.
    pub(super) fn changes(&self) -> watch::Sender<()> {
        self.changes.clone()
    }
}
