//! The plan of a fetch: which bytes it asks for next. A pure decision over the bytes that are there, coming and wanted.

use entrepot_store::Extents;

/// A stretch that a fetcher works on: `position` moves towards `limit`. Both are exclusive ends: of the bytes that are
/// done, and of those that are to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stretch {
    /// The fetcher's number.
    pub(super) id: u64,
    pub(super) position: u64,
    pub(super) limit: u64,
}

/// The next step of a fetch.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Start another fetcher.
    Fetch { start: u64, limit: u64 },
    /// Let the fetcher with this index stop at `limit`; another one takes over from there.
    Shorten { index: usize, limit: u64 },
}

/// The bytes that the readers of a fetch want.
pub(super) struct Wanted<'a> {
    /// Each is the `offset..end` that one reader waits for.
    pub(super) demands: &'a [(u64, u64)],
    /// Whether the whole blob is to be completed.
    pub(super) complete: bool,
}

/// The most fetchers of one blob at a time.
pub(super) const FETCHERS_MAX: usize = 4;
/// A reader waits for a fetcher that is at most this far before its bytes. For bytes further ahead, another fetcher
/// starts.
pub(super) const NEAR_BYTES: u64 = 4 << 20;

/// The next action. None if nothing is to be done. It is called again after each action, until it returns None.
pub(super) fn next_action(size: u64, have: &Extents, running: &[Stretch], wanted: &Wanted<'_>) -> Option<Action> {
    for (offset, end) in wanted.demands {
        let need = have.covered(*offset);
        if need >= (*end).min(size) || is_coming(need, running) {
            continue;
        }
        if let Some(index) = running.iter().position(|s| s.position <= need && need < s.limit) {
            if running.len() < FETCHERS_MAX {
                return Some(Action::Shorten { index, limit: need });
            }
        } else if running.len() < FETCHERS_MAX {
            return Some(Action::Fetch { start: need, limit: boundary(need, (*end).min(size), have, running) });
        }
    }
    if wanted.complete && running.is_empty() {
        let start = have.first_gap(0, size)?.start;
        return Some(Action::Fetch { start, limit: boundary(start, size, have, running) });
    }
    None
}

/// Whether a fetcher reaches `offset` soon.
pub(super) fn is_coming(offset: u64, running: &[Stretch]) -> bool {
    running.iter().any(|s| s.position <= offset && offset < s.limit && offset - s.position <= NEAR_BYTES)
}

/// The offset where a fetch from `start` meets bytes that are there or coming already.
fn boundary(start: u64, end: u64, have: &Extents, running: &[Stretch]) -> u64 {
    let next_extent = have.first_gap(start, end).map(|gap| gap.end);
    let next_stretch = running.iter().map(|s| s.position).filter(|position| *position > start).min();
    [next_extent, next_stretch].into_iter().flatten().fold(end, u64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(ranges: &[(u64, u64)]) -> Extents {
        let mut extents = Extents::default();
        ranges.iter().for_each(|(start, end)| extents.insert(*start..*end));
        extents
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_plan_for_each_situation() {
        let none: &[(u64, u64)] = &[];
        let at = |position, limit| Stretch { id: position, position, limit };
        let fetch = |start, limit| Some(Action::Fetch { start, limit });
        let size = 100 * MIB;
        for (name, have, running, demands, complete, expected) in [
            ("nothing wanted", none, vec![], vec![], false, None),
            ("complete from the start", none, vec![], vec![], true, fetch(0, size)),
            ("complete the first gap", &[(0, MIB), (5 * MIB, 6 * MIB)], vec![], vec![], true, fetch(MIB, 5 * MIB)),
            ("one at a time in the background", &[(0, MIB)], vec![at(MIB, size)], vec![], true, None),
            ("a demanded range alone", none, vec![], vec![(10, 20)], false, fetch(10, 20)),
            ("near a fetcher: wait", none, vec![at(0, size)], vec![(4 * MIB, size)], true, None),
            (
                "far ahead: take over",
                none,
                vec![at(0, size)],
                vec![(50 * MIB, size)],
                true,
                Some(Action::Shorten { index: 0, limit: 50 * MIB }),
            ),
            ("after taking over", none, vec![at(0, 50 * MIB)], vec![(50 * MIB, size)], true, fetch(50 * MIB, size)),
            (
                "up to what is there",
                &[(60 * MIB, 70 * MIB)],
                vec![at(0, 50 * MIB)],
                vec![(50 * MIB, size)],
                true,
                fetch(50 * MIB, 60 * MIB),
            ),
            ("there already", &[(0, 10)], vec![], vec![(2, 8)], false, None),
            ("partly there", &[(0, 10)], vec![], vec![(2, 20)], false, fetch(10, 20)),
            ("beyond the end", &[(0, size)], vec![], vec![(size - 1, size + 5)], true, None),
        ] {
            let wanted = Wanted { demands: &demands, complete };
            assert_eq!(next_action(size, &extents(have), &running, &wanted), expected, "{name}");
        }
        let busy: Vec<_> = (0..4).map(|i| at(i * MIB, (i + 1) * MIB)).collect();
        let wanted = Wanted { demands: &[(90 * MIB, size)], complete: true };
        assert_eq!(next_action(size, &extents(none), &busy, &wanted), None, "no more than four fetchers");
    }
}
