//! A bounded table that forgets what was not used for the longest time.
//!
//! For tables whose keys strangers choose. Emptying a full table, or refusing new entries, would let one stranger take
//! everybody's: here an entry that is in use stays, whoever asks for what else.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most so many entries, with the order of their last use.
pub struct Recent<K, V> {
    max: usize,
    uses: u64,
    entries: HashMap<K, (V, u64)>,
    by_use: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// An empty table for at most `max` entries, and at least one.
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), uses: 0, entries: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// The value of `key`, which is in use now.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let (value, used) = self.entries.get_mut(key)?;
        self.uses += 1;
        let key = self.by_use.remove(used)?;
        *used = self.uses;
        self.by_use.insert(self.uses, key);
        Some(value)
    }

    /// The value of `key`, which is made if there is none. It is in use now.
    pub fn get_or_insert_with(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(key) {
            if self.entries.len() >= self.max
                && let Some((_, oldest)) = self.by_use.pop_first()
            {
                self.entries.remove(&oldest);
            }
            self.uses += 1;
            self.by_use.insert(self.uses, key.clone());
        }
        let known = self.entries.entry(key.clone()).or_insert_with(|| (make(), self.uses));
        if known.1 != self.uses {
            self.uses += 1;
            self.by_use.remove(&known.1);
            self.by_use.insert(self.uses, key.clone());
            known.1 = self.uses;
        }
        &mut known.0
    }

    /// Puts a value in place of the one that `key` had.
    pub fn insert(&mut self, key: &K, value: V) {
        if let Some(place) = self.get(key) {
            *place = value;
        } else {
            self.get_or_insert_with(key, || value);
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (value, used) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        Some(value)
    }

    /// All entries, in no order. None of them is in use by that.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (value, _))| (key, value))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_stays_whatever_else_comes() {
        let mut table = Recent::new(4);
        table.insert(&0, "in use");
        for stranger in 1..1000 {
            table.insert(&stranger, "once");
            assert_eq!(table.get(&0), Some(&mut "in use"));
            assert!(table.len() <= 4 && table.by_use.len() == table.len());
        }
        let mut left: Vec<_> = table.iter().map(|(key, _)| *key).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 997, 998, 999]);
    }

    #[test]
    fn a_value_is_made_once_and_replaced() {
        let mut table = Recent::new(2);
        assert!(table.is_empty() && table.get(&"a").is_none());
        assert_eq!(*table.get_or_insert_with(&"a", || 1), 1);
        assert_eq!(*table.get_or_insert_with(&"a", || 2), 1);
        table.insert(&"a", 3);
        assert_eq!((table.get(&"a").copied(), table.len(), table.by_use.len()), (Some(3), 1, 1));
        table.insert(&"b", 4);
        table.insert(&"a", 5);
        table.insert(&"c", 6);
        assert!(table.get(&"b").is_none() && table.get(&"a") == Some(&mut 5), "the one that was used longest ago went");
    }
}
