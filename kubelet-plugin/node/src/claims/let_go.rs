//! Claims that the API server has let go and the kubelet has not unprepared yet.

use std::collections::BTreeMap;

use tessera_claim::{ClaimRef, ClaimUid, still_allocates};
use tessera_device::DeviceName;
use tessera_prepare::upkeep::{ApiView, has_name};
use tokio::time::Instant;

use super::unowned::Unowned;
use crate::claim_reader::{ClaimReader, ReadError};
use crate::deadline::Deadline;

/// Since when claims have been seen to be let go.
///
/// It is not kept over a restart: to wait once more is safe.
#[derive(Clone, Debug, Default)]
pub struct LetGo {
    claims: BTreeMap<ClaimUid, Instant>,
    /// MIG devices that nobody accounts for wait for the same time.
    pub(super) unowned: Unowned,
}

impl LetGo {
    /// Whether anything is being waited for.
    pub fn is_waiting(&self) -> bool {
        !self.claims.is_empty() || self.unowned.is_waiting()
    }

    /// Forgets all claims but these.
    pub(crate) fn keep_only(&mut self, is_kept: impl Fn(&ClaimUid) -> bool) {
        self.claims.retain(|claim, _| is_kept(claim));
    }

    /// What the API server says of a claim that holds these devices, each with its pool, and for how long
    /// it has been saying that.
    pub(crate) async fn view<'d, A: ClaimReader>(
        &mut self,
        api: &A,
        driver: &str,
        claim: &ClaimRef,
        devices: impl Iterator<Item = (&'d str, &'d DeviceName)>,
        deadline: Deadline,
    ) -> ApiView {
        if !has_name(claim) {
            return ApiView::Unknown;
        }
        let devices: Vec<_> = devices.collect();
        let allocated = match api.read(claim, deadline).await {
            Ok(object) => devices
                .iter()
                .all(|(pool, device)| still_allocates(&object, claim, driver, pool, device)),
            Err(ReadError::NotFound { .. }) => false,
            Err(_) => return ApiView::Unknown,
        };
        if allocated {
            self.claims.remove(&claim.uid);
            ApiView::Allocated
        } else {
            let claims = &mut self.claims;
            let since = claims.entry(claim.uid.clone()).or_insert_with(Instant::now);
            ApiView::LetGo(since.elapsed())
        }
    }
}
