//! What is remembered of origins that do not answer, so that a check of something that is stored does not wait for them
//! again.
//!
//! ```text
//! unknown ─ no connection in time ─► unreached ─ a probe in the background connects, or nobody asks any more ─► unknown
//!    └───── no answer in time ─────► silent ─ after a pause one check is let through ─► unknown, or a longer pause
//! ```
//!
//! Only checks are refused: a request that has nothing to fall back on always goes out, and its answer ends the state as
//! well. Failures that come quickly are not remembered, because asking again costs nothing. Neighbours: `connector` makes
//! the probes, `http_client` asks and tells. Nothing here waits.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use entrepot_core::origin::Origin;
use tokio::time::Instant;

/// The origins in trouble. Those that answer have no entry.
#[derive(Default)]
pub(crate) struct OriginStates {
    troubled: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    troubles: HashMap<Origin, Trouble>,
    last_probe: u64,
}

enum Trouble {
    /// No connection stood in time. The probe with this number tries again.
    Unreached { probe: ProbeId, asked_at: Instant },
    /// Connections stand, and a check was not answered in time.
    Silent { pause: Duration, next_check_at: Instant },
}

/// Tells the probe of an origin from an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProbeId(u64);

/// A stranger can name origins, so their number is bounded. Beyond it nothing is remembered.
const ORIGINS_MAX: usize = 1024;
/// A probe goes on for this long after the last check that wanted the origin.
pub(crate) const UNASKED_MAX: Duration = Duration::from_secs(60);
const SILENT_PAUSE_FIRST: Duration = Duration::from_secs(5);
const SILENT_PAUSE_LONGEST: Duration = Duration::from_secs(30);

impl OriginStates {
    /// Whether a check may go to the origin. One that is let through to a silent origin speaks for all others until the
    /// next pause has passed.
    pub(crate) fn admits_check(&self, origin: &Origin, now: Instant) -> bool {
        match self.lock().troubles.get_mut(origin) {
            None => true,
            Some(Trouble::Unreached { asked_at, .. }) => {
                *asked_at = now;
                false
            }
            Some(Trouble::Silent { next_check_at, .. }) if *next_check_at > now => false,
            Some(Trouble::Silent { pause, next_check_at }) => {
                *next_check_at = now + *pause;
                true
            }
        }
    }

    /// No connection stood in time. Returns the number of the probe that has to be started. None if one runs already.
    pub(crate) fn unreached(&self, origin: &Origin, now: Instant) -> Option<ProbeId> {
        let mut table = self.lock();
        match table.troubles.get(origin) {
            Some(Trouble::Unreached { .. }) => return None,
            None if table.troubles.len() >= ORIGINS_MAX => return None,
            _ => {}
        }
        table.last_probe += 1;
        let probe = ProbeId(table.last_probe);
        table.troubles.insert(origin.clone(), Trouble::Unreached { probe, asked_at: now });
        Some(probe)
    }

    /// A connection stood, and a check was not answered in time.
    pub(crate) fn silent(&self, origin: &Origin, now: Instant) {
        let mut table = self.lock();
        let pause = match table.troubles.get(origin) {
            Some(Trouble::Unreached { .. }) => return,
            Some(Trouble::Silent { pause, .. }) => (*pause * 2).min(SILENT_PAUSE_LONGEST),
            None if table.troubles.len() >= ORIGINS_MAX => return,
            None => SILENT_PAUSE_FIRST,
        };
        table.troubles.insert(origin.clone(), Trouble::Silent { pause, next_check_at: now + pause });
    }

    /// The origin answered a request.
    pub(crate) fn answered(&self, origin: &Origin) {
        self.lock().troubles.remove(origin);
    }

    /// A connection stands. Returns whether none did before.
    pub(crate) fn connected(&self, origin: &Origin) -> bool {
        let mut table = self.lock();
        let was_unreached = matches!(table.troubles.get(origin), Some(Trouble::Unreached { .. }));
        if was_unreached {
            table.troubles.remove(origin);
        }
        was_unreached
    }

    /// Whether the probe goes on. If no check has wanted the origin for a while, it is forgotten: the next one finds out.
    pub(crate) fn wants_probe(&self, origin: &Origin, id: ProbeId, now: Instant) -> bool {
        let mut table = self.lock();
        let Some(Trouble::Unreached { probe, asked_at }) = table.troubles.get(origin) else { return false };
        let (is_current, is_wanted) = (*probe == id, now.duration_since(*asked_at) < UNASKED_MAX);
        if is_current && !is_wanted {
            table.troubles.remove(origin);
        }
        is_current && is_wanted
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.troubled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().expect(text)
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreached_origin_refuses_checks_until_a_connection_stands() {
        let (states, here, now) = (OriginStates::default(), origin("reg.example"), Instant::now());
        assert!(states.admits_check(&here, now));
        let probe = states.unreached(&here, now).expect("the first");
        assert_eq!(states.unreached(&here, now), None, "one probe at a time");
        for other in ["http://reg.example", "reg.example:5000", "other.example"] {
            assert!(states.admits_check(&origin(other), now), "{other}");
        }
        assert!(!states.admits_check(&here, now) && states.wants_probe(&here, probe, now));
        assert!(states.connected(&here) && !states.connected(&here));
        assert!(states.admits_check(&here, now) && !states.wants_probe(&here, probe, now));
        let next = states.unreached(&here, now).expect("a new one");
        assert!(!states.wants_probe(&here, probe, now) && states.wants_probe(&here, next, now));
        states.answered(&here);
        assert!(states.admits_check(&here, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_ends_when_nobody_asks() {
        let (states, here, now) = (OriginStates::default(), origin("reg.example"), Instant::now());
        let probe = states.unreached(&here, now).expect("the first");
        let later = now + UNASKED_MAX - Duration::from_secs(1);
        assert!(states.wants_probe(&here, probe, later));
        assert!(!states.admits_check(&here, later), "this one asks");
        assert!(states.wants_probe(&here, probe, now + UNASKED_MAX));
        assert!(!states.wants_probe(&here, probe, later + UNASKED_MAX));
        assert!(states.admits_check(&here, later + UNASKED_MAX), "the next check finds out");
    }

    #[tokio::test(start_paused = true)]
    async fn one_check_at_a_time_goes_to_a_silent_origin() {
        let (states, here, now) = (OriginStates::default(), origin("reg.example"), Instant::now());
        states.silent(&here, now);
        let mut at = now;
        for pause in [5, 10, 20, 30, 30] {
            let due = at + Duration::from_secs(pause);
            assert!(!states.admits_check(&here, due - Duration::from_millis(1)), "{pause}");
            assert!(states.admits_check(&here, due), "{pause}");
            assert!(!states.admits_check(&here, due), "{pause}");
            states.silent(&here, due);
            at = due;
        }
        states.answered(&here);
        assert!(states.admits_check(&here, at));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_fill_it() {
        let (states, now) = (OriginStates::default(), Instant::now());
        for number in 0..ORIGINS_MAX {
            assert!(states.unreached(&origin(&format!("reg{number}.example")), now).is_some());
        }
        assert_eq!(states.unreached(&origin("one.more.example"), now), None);
        states.silent(&origin("one.more.example"), now);
        assert!(states.admits_check(&origin("one.more.example"), now));
    }
}
