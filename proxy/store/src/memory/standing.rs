//! The standing of repositories with anonymous clients, as far as this process saw it: when one was last refused, and
//! whether a public proof may count. By this a refusal holds at once, and its repetition costs one look-up.
//!
//! ```text
//! a refusal ─► refuse ─ proofs may count ─► the index's writer: refuse_public ─► set_proofs_count
//!                    └─ none counts ─► nothing to do
//! a proof ──► the index's writer: admits_proof ─ refused since ─► it is dropped
//! ```
//!
//! An entry may be lost for lack of room. Then the index is asked, which has every refusal that ended a proof.

use super::{Epoch, Memory, State, heap_bytes_of, weighed};
use crate::entries::Link;
use crate::lock;
use crate::place::Place;
use crate::times::ms_of;

/// The standing of one repository.
pub(super) struct Standing {
    /// When an anonymous client was last refused. 0 if none was.
    refused_ms: u64,
    /// Whether a public proof may count. None if only the index can tell.
    proofs_count: Option<bool>,
    /// The value of `State::losses` when that became known. A change that the index lost makes it unknown again.
    losses: u64,
}

impl Memory {
    /// Notes that an anonymous client was refused. From now on no earlier proof counts. Returns whether a proof may
    /// have counted until now; None if only the index can tell.
    pub(crate) fn refuse(&self, place: &Place, at_ms: u64) -> Option<bool> {
        let mut state = lock(&self.state);
        let losses = state.losses;
        if let Some(mut standing) = state.standings.get_mut(place) {
            let standing = &mut standing.value;
            standing.refused_ms = standing.refused_ms.max(at_ms);
            return standing.proofs_count.filter(|_| standing.losses == losses);
        }
        state.insert(place, Standing { refused_ms: at_ms, proofs_count: None, losses });
        None
    }

    /// Whether a proof may be noted. From then on a refusal has something to end. The time 0 is no proof.
    pub(crate) fn admits_proof(&self, place: &Place, public_ms: u64) -> bool {
        if public_ms == 0 {
            return false;
        }
        let mut state = lock(&self.state);
        let losses = state.losses;
        if let Some(mut standing) = state.standings.get_mut(place) {
            let standing = &mut standing.value;
            let is_later = public_ms > standing.refused_ms;
            if is_later {
                (standing.proofs_count, standing.losses) = (Some(true), losses);
            }
            return is_later;
        }
        state.insert(place, Standing { refused_ms: 0, proofs_count: Some(true), losses });
        true
    }

    /// For the index's writer: whether a proof may count after a refusal.
    pub(crate) fn set_proofs_count(&self, place: &Place, count: bool) {
        let mut state = lock(&self.state);
        let losses = state.losses;
        if let Some(mut standing) = state.standings.get_mut(place) {
            (standing.value.proofs_count, standing.value.losses) = (Some(count), losses);
        }
    }

    /// The index has no proof that counts, by a read that began at `since`.
    pub(crate) fn remember_no_proofs(&self, since: Epoch, place: &Place) {
        self.remember(since, |state| {
            let losses = state.losses;
            if let Some(mut standing) = state.standings.get_mut(place) {
                let standing = &mut standing.value;
                // A proof may have been noted that the read did not see.
                if standing.proofs_count.is_none() || standing.losses != losses {
                    (standing.proofs_count, standing.losses) = (Some(false), losses);
                }
            }
        });
    }

    /// A link that was read from the index, with its proof if no refusal came since.
    pub(crate) fn as_it_counts(&self, place: &Place, link: Link) -> Link {
        lock(&self.state).as_it_counts(place, link)
    }
}

impl State {
    pub(super) fn as_it_counts(&self, place: &Place, link: Link) -> Link {
        let is_refused =
            |public_at| self.standings.get(place).is_some_and(|standing| standing.value.refused_ms >= ms_of(public_at));
        Link { public_at: link.public_at.filter(|public_at| !is_refused(*public_at)), ..link }
    }

    fn insert(&mut self, place: &Place, standing: Standing) {
        self.standings.insert(place.clone(), weighed::<Place, _>(standing, heap_bytes_of(place)));
    }
}
