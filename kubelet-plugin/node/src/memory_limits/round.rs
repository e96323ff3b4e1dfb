//! Looks at one card, decides, and sets what was decided.
//!
//! The caller holds the card's lock. So between the look and the last limit nobody else sets any, and what a container
//! takes meanwhile is within the limit that was seen.

use std::collections::{BTreeMap, BTreeSet};

use tessera_device::{Bytes, GpuUuid};
use tessera_sharing::{self as sharing, Holding, Promised, ShareState, Tenant, decide, tenants};

use super::{LimitOperations, SetError};

/// After so many rounds nothing changes any more, if nobody takes or gives back memory: some limits go down, starting
/// containers start, others grow.
pub const ROUNDS: usize = 4;

/// What came of a round.
#[derive(Debug, Default)]
pub struct Round {
    /// Who had what when it began.
    pub tenants: BTreeMap<Tenant, ShareState>,
    /// The limits that were set, by cgroup.
    pub set: BTreeMap<String, Bytes>,
    /// The limits that were not, by cgroup.
    pub refused: Vec<(String, SetError)>,
    /// What guarantees lack because others have it.
    pub missing: Bytes,
}

/// Does one round. `promised` and `held` are all that is known of the card.
///
/// # Errors
/// Fails if the card cannot be looked at. A limit that cannot be set is told in the outcome: no other depends on it.
pub fn round<O: LimitOperations + ?Sized>(
    operations: &O,
    gpu: &GpuUuid,
    promised: &[Promised],
    held: &[Holding],
) -> Result<Round, SetError> {
    let cgroups: BTreeSet<&String> = held.iter().map(|holding| &holding.cgroup).collect();
    let cgroups: Vec<String> = cgroups.into_iter().cloned().collect();
    let card = operations.look(gpu, &cgroups)?;
    let tenants = tenants(promised, held, &card.containers);
    let decision = decide(
        &sharing::Card::of(card.memory, card.reserved, &tenants),
        &tenants,
    );
    let mut round = Round {
        missing: decision.missing,
        ..Round::default()
    };
    for change in &decision.limits {
        let Tenant::Container(cgroup) = change.share else {
            continue;
        };
        match operations.limit(gpu, cgroup, change.to) {
            Ok(()) => drop(round.set.insert(cgroup.clone(), change.to)),
            Err(error) => round.refused.push((cgroup.clone(), error)),
        }
    }
    Ok(Round { tenants, ..round })
}
