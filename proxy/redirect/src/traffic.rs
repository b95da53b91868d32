//! Judges by the clients' own connections whether they arrive: first segments that were given to the door, against
//! clients that answered the door. Pure.
//!
//! It finds what a proof cannot: a rule that stops some clients only, and everything on kernels without proofs. One
//! client that arrives is enough, so many segments of somebody who never answers change nothing while others pull.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The first segments that have to stay without an answer, and the time in which they may be answered. A client repeats
/// its first one after a second.
const UNANSWERED_MIN: u64 = 2;
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// Segments that are older than this are forgotten: somebody looked for open ports.
const WINDOW: Duration = Duration::from_secs(10);
/// The time after which clients are led to the door again, to see whether they arrive now.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The connections of clients since the last one that arrived.
pub(super) struct Traffic {
    arrived: u64,
    /// The count of redirected segments that nobody waits for an answer to.
    settled: u64,
    /// The later counts, with their times. The oldest comes first.
    counts: VecDeque<(Instant, u64)>,
    lost_until: Option<Instant>,
}

impl Traffic {
    /// Forgets all segments until now.
    pub(super) fn new(redirected: u64, arrived: u64) -> Self {
        Self { arrived, settled: redirected, counts: VecDeque::new(), lost_until: None }
    }

    /// Whether clients are lost, by the present counts of segments that were redirected and of clients that arrived.
    pub(super) fn is_lost(&mut self, redirected: u64, arrived: u64, now: Instant) -> bool {
        if arrived != self.arrived {
            *self = Self::new(redirected, arrived);
            return false;
        }
        if let Some(until) = self.lost_until {
            if now < until {
                return true;
            }
            *self = Self::new(redirected, arrived);
        }
        while let Some((_, count)) = self.counts.pop_front_if(|(at, _)| now.duration_since(*at) > WINDOW) {
            self.settled = count;
        }
        self.counts.push_back((now, redirected));
        let had_time = self.counts.iter().rev().find(|(at, _)| now.duration_since(*at) >= ANSWER_WITHIN);
        let unanswered = had_time.map_or(0, |(_, count)| count.saturating_sub(self.settled));
        let is_lost = unanswered >= UNANSWERED_MIN;
        self.lost_until = is_lost.then(|| now + RETRY_AFTER);
        is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_stay_without_an_answer_are_lost_until_one_arrives() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut traffic = Traffic::new(10, 5);
        // The counts of redirected and arrived, at which millisecond, and the verdict.
        for (redirected, arrived, ms, is_lost) in [
            (10, 5, 0, false),
            (11, 5, 500, false),
            (12, 5, 1500, false),
            (12, 5, 2900, false),
            (12, 5, 3000, true),
            (12, 5, 32_500, true),
            (12, 5, 33_000, false),
            (13, 5, 34_000, false),
            (13, 5, 36_000, false),
            // The one before is forgotten, and the next one has time to be answered.
            (14, 5, 50_000, false),
            (14, 6, 50_500, false),
            (100, 6, 51_000, false),
            (100, 7, 52_000, false),
            (200, 8, 60_000, false),
        ] {
            assert_eq!(traffic.is_lost(redirected, arrived, at(ms)), is_lost, "{ms} ms");
        }
    }
}
