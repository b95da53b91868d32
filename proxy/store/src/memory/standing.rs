//! The standing of repositories and artefacts with anonymous clients, as far as this process saw it: when one was last
//! refused, and whether a public proof may count. By this a refusal holds at once, its repetition costs one look-up, and
//! a proof that is noted late does not revive what the refusal ended.
//!
//! ```text
//! a refusal ─► refuse ─ proofs may count ─► the index's writer: its rows end ─► set_proofs_count
//!                    └─ none counts ─► nothing to do
//! a proof ──► the index's writer: admits_proof ─ refused since ─► it is dropped
//! ```
//!
//! An entry may be lost for lack of room, or with the process. Then the index is asked, which has every refusal that ended
//! a proof. It does not have a refusal of a repository that had no proof. So of a repository without an entry, no proof
//! counts that is as old as this process, or as the newest refusal whose entry was lost (the floor): a fetch may bring
//! its proof long after it began.

use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle};

use super::{ByWeight, Epoch, Memory, NAME_TYPICAL_BYTES, State, Weighed, heap_bytes_of, weighed};
use crate::entries::Link;
use crate::lock;
use crate::place::Holder;
use crate::times::ms_of;

/// The standing of one repository or artefact.
pub(super) struct Standing {
    /// When an anonymous client was last refused. 0 if none was.
    refused_ms: u64,
    /// The floor when this entry was made: refusals up to then may have been lost. Proofs that were noted before stay.
    floor_ms: u64,
    /// Whether a public proof may count. None if only the index can tell.
    proofs_count: Option<bool>,
    /// The value of `State::losses` when that became known. A change that the index lost makes it unknown again.
    losses: u64,
}

/// Standings that leave the cache raise its floor.
#[derive(Clone)]
pub(super) struct Leaving;

/// The newest refusal among the entries that left.
#[derive(Default)]
pub(super) struct Left(u64);

impl Lifecycle<Holder, Weighed<Standing>> for Leaving {
    type RequestState = Left;

    fn begin_request(&self) -> Left {
        Left::default()
    }

    fn on_evict(&self, left: &mut Left, _: Holder, standing: Weighed<Standing>) {
        left.0 = left.0.max(standing.value.refused_ms).max(standing.value.floor_ms);
    }
}

/// The standings that memory has.
pub(super) type Standings = Cache<Holder, Weighed<Standing>, ByWeight, DefaultHashBuilder, Leaving>;

/// A cache of so many bytes.
pub(super) fn standings(bytes: u64) -> Standings {
    let entries = (bytes / NAME_TYPICAL_BYTES) as usize;
    Cache::with(entries, bytes, ByWeight, DefaultHashBuilder::default(), Leaving)
}

impl Memory {
    /// Has no proof count that was made before, unless the repository is known.
    pub(crate) fn begin_at(&self, at_ms: u64) {
        let mut state = lock(&self.state);
        state.standings_floor_ms = state.standings_floor_ms.max(at_ms);
    }

    /// Notes that an anonymous client was refused. From now on no earlier proof counts. Returns whether a proof may
    /// have counted until now; None if only the index can tell.
    pub(crate) fn refuse(&self, holder: &Holder, at_ms: u64) -> Option<bool> {
        let mut state = lock(&self.state);
        let losses = state.losses;
        if let Some(mut standing) = state.standings.get_mut(holder) {
            let standing = &mut standing.value;
            standing.refused_ms = standing.refused_ms.max(at_ms);
            return standing.proofs_count.filter(|_| standing.losses == losses);
        }
        let floor_ms = state.standings_floor_ms;
        state.insert(holder, Standing { refused_ms: at_ms, floor_ms, proofs_count: None, losses });
        None
    }

    /// Whether a proof may be noted. From then on a refusal has something to end. The time 0 is no proof.
    pub(crate) fn admits_proof(&self, holder: &Holder, public_ms: u64) -> bool {
        if public_ms == 0 {
            return false;
        }
        let mut state = lock(&self.state);
        let losses = state.losses;
        if let Some(mut standing) = state.standings.get_mut(holder) {
            let standing = &mut standing.value;
            let is_later = public_ms > standing.refused_ms.max(standing.floor_ms);
            if is_later {
                (standing.proofs_count, standing.losses) = (Some(true), losses);
            }
            return is_later;
        }
        let floor_ms = state.standings_floor_ms;
        if public_ms <= floor_ms {
            return false;
        }
        state.insert(holder, Standing { refused_ms: 0, floor_ms, proofs_count: Some(true), losses });
        true
    }

    /// For the index's writer: whether a proof may count after a refusal.
    pub(crate) fn set_proofs_count(&self, holder: &Holder, count: bool) {
        let mut state = lock(&self.state);
        let losses = state.losses;
        if let Some(mut standing) = state.standings.get_mut(holder) {
            (standing.value.proofs_count, standing.value.losses) = (Some(count), losses);
        }
    }

    /// The index has no proof that counts, by a read that began at `since`.
    pub(crate) fn remember_no_proofs(&self, since: Epoch, holder: &Holder) {
        self.remember(since, |state| {
            let losses = state.losses;
            if let Some(mut standing) = state.standings.get_mut(holder) {
                let standing = &mut standing.value;
                // A proof may have been noted that the read did not see.
                if standing.proofs_count.is_none() || standing.losses != losses {
                    (standing.proofs_count, standing.losses) = (Some(false), losses);
                }
            }
        });
    }

    /// A link that was read from the index, with its proof if no refusal came since.
    pub(crate) fn as_it_counts(&self, holder: &Holder, link: Link) -> Link {
        lock(&self.state).as_it_counts(holder, link)
    }
}

impl State {
    pub(super) fn as_it_counts(&self, holder: &Holder, link: Link) -> Link {
        let is_refused = |public_at| {
            self.standings.get(holder).is_some_and(|standing| standing.value.refused_ms >= ms_of(public_at))
        };
        Link { public_at: link.public_at.filter(|public_at| !is_refused(*public_at)), ..link }
    }

    fn insert(&mut self, holder: &Holder, standing: Standing) {
        let heap_bytes = match holder {
            Holder::Repository(place) => heap_bytes_of(place),
            Holder::Artefact(origin, path) => origin.host.name().len() + path.len(),
        };
        let weighed = weighed::<Holder, _>(standing, heap_bytes);
        let Left(newest_ms) = self.standings.insert_with_lifecycle(holder.clone(), weighed);
        self.standings_floor_ms = self.standings_floor_ms.max(newest_ms);
    }
}

#[cfg(test)]
impl Memory {
    /// Lets proofs of any time in.
    pub(crate) fn set_floor(&self, at_ms: u64) {
        lock(&self.state).standings_floor_ms = at_ms;
    }
}
