//! The bytes of partial content that are on disk: a set of byte ranges. It decides what the fetch asks for next and how
//! far a reader may go. The sidecar of paused content keeps it over a restart.

use std::ops::Range;

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};

/// A set of byte ranges. Ranges that overlap or touch are one.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Extents {
    ranges: RangeSet<u64>,
}

impl Extents {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a range. An empty one adds nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.ranges.insert(range);
        }
    }

    /// The end of the bytes that are there from `offset` on without a gap. It is `offset` itself if that byte is not
    /// there.
    pub fn covered(&self, offset: u64) -> u64 {
        self.ranges.get(&offset).map_or(offset, |known| known.end)
    }

    /// The first missing range at or after `from`, below `size`. None if everything from there on is covered.
    pub fn first_gap(&self, from: u64, size: u64) -> Option<Range<u64>> {
        (from < size).then(|| self.ranges.gaps(&(from..size)).next()).flatten()
    }

    /// Whether every byte below `size` is there.
    pub fn is_complete(&self, size: u64) -> bool {
        self.covered(0) >= size
    }

    /// How many bytes are there.
    pub fn total(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// The end of the last range; 0 if the set is empty.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }
}

/// Takes the ranges of a sidecar. Whatever order and overlap they have, the invariant holds afterwards.
impl From<Vec<(u64, u64)>> for Extents {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut extents = Self::new();
        for (start, end) in pairs {
            extents.insert(start..end);
        }
        extents
    }
}

impl From<Extents> for Vec<(u64, u64)> {
    fn from(extents: Extents) -> Self {
        extents.ranges.into_iter().map(|range| (range.start, range.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn touching_ranges_join() {
        let mut extents = Extents::new();
        extents.insert(0..10);
        extents.insert(20..30);
        extents.insert(5..5);
        assert_eq!(Vec::from(extents.clone()), [(0, 10), (20, 30)]);
        assert_eq!(extents.first_gap(0, 100), Some(10..20));
        assert_eq!(extents.first_gap(25, 28), None);
        extents.insert(10..20);
        assert_eq!(extents, Extents::from(vec![(0, 30)]));
        assert!(extents.is_complete(30) && !extents.is_complete(31));
    }

    #[test]
    fn a_sidecar_reads_back() {
        let extents = Extents::from(vec![(20, 30), (0, 10), (9, 12)]);
        let text = serde_json::to_string(&extents).unwrap();
        assert_eq!(text, "[[0,12],[20,30]]");
        assert_eq!(serde_json::from_str::<Extents>(&text).unwrap(), extents);
    }

    const SPACE: u64 = 64;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(inserts in prop::collection::vec((0..SPACE, 0..SPACE), 0..20), from in 0..SPACE, size in 0..SPACE) {
            let (mut extents, mut bitmap) = (Extents::new(), [false; SPACE as usize]);
            for (start, end) in inserts {
                extents.insert(start..end);
                (start..end).for_each(|at| bitmap[at as usize] = true);
            }
            let has = |at: u64| bitmap.get(at as usize).copied().unwrap_or(false);
            let covered = (from..=SPACE).find(|at| !has(*at)).unwrap();
            prop_assert_eq!(extents.covered(from), covered);
            prop_assert_eq!(extents.total(), bitmap.iter().filter(|bit| **bit).count() as u64);
            prop_assert_eq!(extents.end(), (0..SPACE).rev().find(|at| has(*at)).map_or(0, |at| at + 1));
            prop_assert_eq!(extents.is_complete(size), (0..size).all(has));
            let gap = (from..size).find(|at| !has(*at)).map(|start| {
                start..(start..size).find(|at| has(*at)).unwrap_or(size)
            });
            prop_assert_eq!(extents.first_gap(from, size), gap);
            prop_assert!(Vec::from(extents).windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
