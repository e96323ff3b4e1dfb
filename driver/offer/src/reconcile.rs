//! The writes that make the stored slices equal to an offer.
//!
//! Consumers look at the slices of a pool's highest generation and use them once there are as
//! many as each of them says. So after any prefix of the writes a consumer sees devices of the old pool, of
//! the new one or none, never a mixture: one atomic write may keep the generation, anything more
//! needs the next one on every slice. Leftovers are deleted last, when their generation no
//! longer counts.
//!
//! Slices that only lose devices may be written before that one, and those that only gain some after it: what is seen
//! then is a part of the old pool, or of the new one. A taint is a loss. That is what becomes of one GPU, of which the
//! whole and the parts stand in two slices; a new generation of all would leave no device to the scheduler meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::ResourceSlice;

use crate::offer::Offer;
use crate::same::{Change, change};

/// Generation of a pool that has no slice yet.
const FIRST_GENERATION: i64 = 1;

/// One write to the API.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Create this slice. "Already exists" means that the stored slices were read too early.
    Create(Box<ResourceSlice>),
    /// Replace the slice of this name; it carries the resource version that was compared.
    Replace(Box<ResourceSlice>),
    /// Delete a slice of this pool that the offer has no use for.
    Delete(SliceRef),
}

/// One stored slice at one version, the precondition of its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRef {
    /// Object name.
    pub name: String,
    /// UID of the object that was read.
    pub uid: Option<String>,
    /// Version of the object that was read.
    pub resource_version: Option<String>,
}

/// Lists the writes, in the order in which they are to be made; none where nothing differs.
///
/// Slices of another driver, node or pool are never touched, whatever their name is.
pub fn reconcile(desired: &Offer, existing: &[ResourceSlice]) -> Vec<Write> {
    let stored: BTreeMap<&str, &ResourceSlice> = existing
        .iter()
        .filter(|slice| desired.owns(slice))
        .map(|slice| (name(slice), slice))
        .collect();
    let generations = stored.values().map(|slice| slice.spec.pool.generation);
    let current = generations.max().unwrap_or(FIRST_GENERATION);
    let wanted = desired.slices(current);
    let leftovers = leftovers(&stored, &wanted);
    let mut compared: Vec<Compared<'_>> = wanted
        .into_iter()
        .map(|want| Compared::with(stored.get(name(&want)).copied(), want))
        .collect();
    let removes = leftovers
        .iter()
        .any(|slice| slice.spec.pool.generation == current);
    if !stored.is_empty() && (removes || needs_a_generation(&compared)) {
        for slice in &mut compared {
            slice.advance();
        }
    } else {
        compared.sort_by_key(|slice| slice.change);
    }
    let deletions = leftovers
        .into_iter()
        .map(|slice| Write::Delete(slice_ref(slice)));
    let writes = compared.into_iter().filter_map(Compared::write);
    writes.chain(deletions).collect()
}

/// What is stored and has no place in the offer.
fn leftovers<'a>(
    stored: &BTreeMap<&str, &'a ResourceSlice>,
    wanted: &[ResourceSlice],
) -> Vec<&'a ResourceSlice> {
    let names: BTreeSet<&str> = wanted.iter().map(name).collect();
    let others = stored.iter().filter(|(name, _)| !names.contains(*name));
    others.map(|(_, slice)| *slice).collect()
}

/// Whether a scheduler that sees some of the writes must be kept from taking the slices for a whole pool.
fn needs_a_generation(compared: &[Compared<'_>]) -> bool {
    let adds = compared.iter().any(|slice| slice.stored.is_none());
    let others = compared
        .iter()
        .filter(|slice| slice.change == Some(Change::Other));
    adds || others.count() > 1
}

/// A slice of the offer beside what is stored under its name.
struct Compared<'a> {
    want: ResourceSlice,
    stored: Option<&'a ResourceSlice>,
    change: Option<Change>,
}

impl<'a> Compared<'a> {
    fn with(stored: Option<&'a ResourceSlice>, want: ResourceSlice) -> Self {
        let change = stored.and_then(|have| change(&want, have));
        Self {
            want,
            stored,
            change,
        }
    }

    /// Moves it to the next generation, if there is one.
    fn advance(&mut self) {
        let generation = &mut self.want.spec.pool.generation;
        if let Some(next) = generation.checked_add(1) {
            *generation = next;
            self.change = Some(Change::Other);
        }
    }

    fn write(self) -> Option<Write> {
        match self.stored {
            None => Some(Write::Create(Box::new(self.want))),
            Some(_) if self.change.is_none() => None,
            Some(have) => Some(Write::Replace(Box::new(replacement(self.want, have)))),
        }
    }
}

fn name(slice: &ResourceSlice) -> &str {
    slice.metadata.name.as_deref().unwrap_or_default()
}

fn slice_ref(slice: &ResourceSlice) -> SliceRef {
    SliceRef {
        name: name(slice).to_owned(),
        uid: slice.metadata.uid.clone(),
        resource_version: slice.metadata.resource_version.clone(),
    }
}

/// The wanted content under the stored identity: resource version, UID and what others have
/// written beside us stay.
fn replacement(want: ResourceSlice, have: &ResourceSlice) -> ResourceSlice {
    let mut metadata = have.metadata.clone();
    metadata.managed_fields = None;
    let others = metadata.owner_references.unwrap_or_default();
    let ours = want.metadata.owner_references.unwrap_or_default();
    // The API takes one controller only, and a node that was created anew has a new UID.
    let others = others.into_iter().filter(|owner| {
        owner.controller != Some(true) && ours.iter().all(|our| our.uid != owner.uid)
    });
    metadata.owner_references = Some(ours.iter().cloned().chain(others).collect());
    ResourceSlice {
        metadata,
        spec: want.spec,
    }
}

#[cfg(test)]
mod tests;
