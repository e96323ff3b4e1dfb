//! Facts of one kind, each with the version of the object that it is from.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::ObjectName;

/// Facts of one kind, by name.
#[derive(Clone, Debug)]
pub(super) struct Shelf<T> {
    pub(super) facts: BTreeMap<ObjectName, (u64, T)>,
    /// The names that a list has brought so far.
    pub(super) listing: Option<BTreeSet<ObjectName>>,
    /// Whether a list was once complete.
    pub(super) listed: bool,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            facts: BTreeMap::new(),
            listing: None,
            listed: false,
        }
    }
}

impl<T> Shelf<T> {
    pub(super) fn put(&mut self, name: ObjectName, version: u64, fact: Option<T>) {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        let newer = self.facts.get(&name).map_or(0, |(version, _)| *version);
        if version != 0 && version < newer {
            return;
        }
        match fact {
            Some(fact) => drop(self.facts.insert(name, (version, fact))),
            None => drop(self.facts.remove(&name)),
        }
    }

    pub(super) fn end_list(&mut self) {
        if let Some(listing) = self.listing.take() {
            self.facts.retain(|name, _| listing.contains(name));
        }
        self.listed = true;
    }

    pub(super) fn get(&self, name: &ObjectName) -> Option<&T> {
        self.facts.get(name).map(|(_, fact)| fact)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectName, &T)> {
        self.facts.iter().map(|(name, (_, fact))| (name, fact))
    }
}
