//! Numbers for keys that occur often, given back when nobody uses the key any more.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Keys with their numbers, counted, so that a cluster whose nodes come and go does not grow.
#[derive(Debug)]
pub(crate) struct Interner<K> {
    numbers: HashMap<K, u32>,
    entries: Vec<Option<(K, u32)>>,
    vacant: Vec<u32>,
}

impl<K: Clone + Eq + Hash> Interner<K> {
    pub(crate) fn new() -> Self {
        Self {
            numbers: HashMap::new(),
            entries: Vec::new(),
            vacant: Vec::new(),
        }
    }

    /// The key's number, with one more user.
    pub(crate) fn acquire<Q>(&mut self, key: &Q) -> u32
    where
        K: Borrow<Q> + for<'q> From<&'q Q>,
        Q: ?Sized + Eq + Hash,
    {
        match self.numbers.get(key) {
            Some(&number) => {
                if let Some((_, users)) = &mut self.entries[number as usize] {
                    *users = users.saturating_add(1);
                }
                number
            }
            None => self.insert(K::from(key)),
        }
    }

    fn insert(&mut self, key: K) -> u32 {
        let entry = Some((key.clone(), 1));
        let number = if let Some(number) = self.vacant.pop() {
            self.entries[number as usize] = entry;
            number
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 labels are in memory")
        };
        self.numbers.insert(key, number);
        number
    }

    /// One user less.
    pub(crate) fn release(&mut self, number: u32) {
        let slot = &mut self.entries[number as usize];
        let Some((key, users)) = slot else { return };
        *users = users.saturating_sub(1);
        if *users == 0 {
            self.numbers.remove(key);
            *slot = None;
            self.vacant.push(number);
        }
    }

    /// The key of a number that has a user.
    pub(crate) fn key(&self, number: u32) -> &K {
        let entry = self.entries[number as usize].as_ref();
        let (key, _) = entry.expect("a number is asked about only by its users");
        key
    }

    /// One more than the largest number.
    pub(crate) fn end(&self) -> usize {
        self.entries.len()
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_number_is_given_back_with_its_last_user() {
        let mut interner = Interner::<Arc<str>>::new();
        let zone = interner.acquire("zone");
        assert_eq!(interner.acquire("zone"), zone);
        interner.release(zone);
        assert_eq!(&**interner.key(zone), "zone");
        interner.release(zone);
        assert_eq!(interner.used(), 0);
        assert_eq!(interner.acquire("rack"), zone, "the number is used again");
    }
}
