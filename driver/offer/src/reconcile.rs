//! The writes that make the stored slices equal to an offer.
//!
//! Consumers look at the slices of a pool's highest generation and use them once there are as
//! many as each of them says. So after any prefix of the writes a consumer sees the old pool, the
//! new one or none, never a mixture: one atomic write may keep the generation, anything more
//! needs the next one on every slice. Leftovers are deleted last, when their generation no
//! longer counts.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::ResourceSlice;

use crate::offer::Offer;
use crate::same::same;

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
    let pool = Pool::of(desired, existing);
    let wanted = desired.slices(pool.target_generation(desired));
    let names: BTreeSet<&str> = wanted.iter().map(name).collect();
    let leftovers = pool
        .stored
        .iter()
        .filter(|(name, _)| !names.contains(*name))
        .map(|(name, slice)| Write::Delete(slice_ref(name, slice)));
    wanted
        .iter()
        .filter_map(|want| match pool.stored.get(name(want)) {
            None => Some(Write::Create(Box::new(want.clone()))),
            Some(have) if same(want, have) => None,
            Some(have) => Some(Write::Replace(Box::new(replacement(want, have)))),
        })
        .chain(leftovers)
        .collect()
}

/// The stored slices of one pool, by name.
struct Pool<'a> {
    stored: BTreeMap<&'a str, &'a ResourceSlice>,
    generation: Option<i64>,
}

impl<'a> Pool<'a> {
    fn of(desired: &Offer, existing: &'a [ResourceSlice]) -> Self {
        let stored: BTreeMap<&str, &ResourceSlice> = existing
            .iter()
            .filter(|slice| desired.owns(slice))
            .map(|slice| (name(slice), slice))
            .collect();
        let generation = stored.values().map(|slice| slice.spec.pool.generation);
        Self {
            generation: generation.max(),
            stored,
        }
    }

    /// The generation under which the offer is to be stored.
    fn target_generation(&self, desired: &Offer) -> i64 {
        let Some(current) = self.generation else {
            return FIRST_GENERATION;
        };
        let wanted = desired.slices(current);
        let names: BTreeSet<&str> = wanted.iter().map(name).collect();
        let removed = self
            .stored
            .iter()
            .any(|(name, slice)| slice.spec.pool.generation == current && !names.contains(name));
        let added = names.iter().any(|name| !self.stored.contains_key(name));
        let differing = wanted
            .iter()
            .filter(|want| {
                let stored = self.stored.get(name(want));
                stored.is_some_and(|have| !same(want, have))
            })
            .count();
        if added || removed || differing > 1 {
            current.saturating_add(1)
        } else {
            current
        }
    }
}

fn name(slice: &ResourceSlice) -> &str {
    slice.metadata.name.as_deref().unwrap_or_default()
}

fn slice_ref(name: &str, slice: &ResourceSlice) -> SliceRef {
    SliceRef {
        name: name.to_owned(),
        uid: slice.metadata.uid.clone(),
        resource_version: slice.metadata.resource_version.clone(),
    }
}

/// The wanted content under the stored identity: resource version, UID and what others have
/// written beside us stay.
fn replacement(want: &ResourceSlice, have: &ResourceSlice) -> ResourceSlice {
    let mut metadata = have.metadata.clone();
    metadata.managed_fields = None;
    let others = metadata.owner_references.unwrap_or_default();
    let ours = want.metadata.owner_references.clone().unwrap_or_default();
    // The API takes one controller only, and a node that was created anew has a new UID.
    let others = others.into_iter().filter(|owner| {
        owner.controller != Some(true) && ours.iter().all(|our| our.uid != owner.uid)
    });
    metadata.owner_references = Some(ours.iter().cloned().chain(others).collect());
    ResourceSlice {
        metadata,
        spec: want.spec.clone(),
    }
}

#[cfg(test)]
mod tests;
