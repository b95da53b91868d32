//! A map that holds at most so many bytes; what was not asked for lately leaves first (second chance).
//!
//! Invariants: `order` has one stamp for each slot and no other; `bytes` is the sum of the slots' bytes and never above
//! the budget after a call. Asking costs one look-up and sets a flag; only making room moves anything.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What a tree takes for one stamp, about.
const ORDER_NODE_BYTES: usize = 32;

pub(super) struct Bounded<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// Stamps in the order in which slots are looked at when room is needed.
    order: BTreeMap<u64, K>,
    stamp: u64,
    bytes: usize,
    budget_bytes: usize,
}

struct Slot<V> {
    value: V,
    bytes: usize,
    stamp: u64,
    /// Asked for since it was last looked at for eviction.
    used: bool,
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self { slots: HashMap::new(), order: BTreeMap::new(), stamp: 0, bytes: 0, budget_bytes }
    }

    pub(super) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let slot = self.slots.get_mut(key)?;
        slot.used = true;
        Some(&mut slot.value)
    }

    /// Puts a value in place of an earlier one. `heap_bytes` is what key and value take besides their own size.
    pub(super) fn insert(&mut self, key: K, value: V, heap_bytes: usize) {
        self.remove(&key);
        // A hash table that has just grown is half empty.
        let fixed_bytes = 2 * size_of::<(K, Slot<V>)>() + size_of::<K>() + ORDER_NODE_BYTES;
        let bytes = heap_bytes.saturating_add(fixed_bytes);
        if bytes > self.budget_bytes {
            return;
        }
        while self.bytes + bytes > self.budget_bytes {
            self.evict_one();
        }
        let stamp = self.next_stamp();
        self.order.insert(stamp, key.clone());
        self.slots.insert(key, Slot { value, bytes, stamp, used: false });
        self.bytes += bytes;
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let slot = self.slots.remove(key)?;
        self.order.remove(&slot.stamp);
        self.bytes -= slot.bytes;
        Some(slot.value)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let gone: Vec<K> = self.slots.keys().filter(|key| !keep(key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self { stamp: self.stamp, ..Self::new(self.budget_bytes) };
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Takes the oldest that was not asked for; each one that was gets one more round. Ends, as every round clears a
    /// flag or removes a slot.
    fn evict_one(&mut self) {
        let Some((_, key)) = self.order.pop_first() else {
            self.bytes = 0;
            return;
        };
        let stamp = self.next_stamp();
        match self.slots.get_mut(&key) {
            Some(slot) if slot.used => {
                (slot.used, slot.stamp) = (false, stamp);
                self.order.insert(stamp, key);
            }
            Some(slot) => {
                self.bytes -= slot.bytes;
                self.slots.remove(&key);
            }
            None => {}
        }
    }
}

#[cfg(test)]
impl<K, V> Bounded<K, V> {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        assert_eq!(self.slots.len(), self.order.len());
        assert_eq!(self.bytes, self.slots.values().map(|slot| slot.bytes).sum::<usize>());
        assert!(self.bytes <= self.budget_bytes);
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_asked_for_stays() {
        let mut map = Bounded::new(20_000);
        map.insert(0, "hot", 1000);
        for number in 1..1000 {
            assert_eq!(map.get(&0), Some(&mut "hot"), "before {number}");
            map.insert(number, "cold", 1000);
        }
        assert!(map.get(&1).is_none() && map.get(&999).is_some());
        assert!((10..20).contains(&map.len()), "{}", map.len());
    }

    #[test]
    fn what_is_larger_than_all_is_not_kept_and_evicts_nothing() {
        let mut map = Bounded::new(20_000);
        map.insert(1, (), 1000);
        map.insert(2, (), usize::MAX);
        assert!(map.get(&1).is_some() && map.get(&2).is_none());
        map.insert(1, (), usize::MAX);
        assert_eq!((map.len(), map.bytes()), (0, 0), "its earlier value is gone all the same");
    }

    proptest! {
        /// Against a plain map: what is there is what was put there last; nothing removed comes back.
        #[test]
        fn it_never_tells_anything_else(steps in proptest::collection::vec((0..4u8, 0..20u8, 0..3000usize), 0..300)) {
            let mut map = Bounded::new(10_000);
            let mut model = HashMap::new();
            for (number, (action, key, heap_bytes)) in steps.into_iter().enumerate() {
                match action {
                    0 => {
                        map.insert(key, number, heap_bytes);
                        model.insert(key, number);
                    }
                    1 => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                    2 => {
                        map.retain(|other| *other != key);
                        model.remove(&key);
                    }
                    _ => {}
                }
                let told = map.get(&key).copied();
                prop_assert!(told.is_none() || told.as_ref() == model.get(&key));
                prop_assert!(map.len() <= model.len());
            }
        }
    }
}
