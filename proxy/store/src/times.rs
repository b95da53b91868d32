//! Times as rows and files have them, milliseconds since 1970, and the time by which ages are judged.
//!
//! The clock of the machine may step: an appliance without a battery starts in 1970, and an administrator corrects a
//! date. A step forward must not make everything old at once, which would take the grace from pushes that run and drop
//! the whole cache. A step back must not make what comes after it look older than it is.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// The machine's clock and a steady one, at one moment.
struct Start {
    wall: SystemTime,
    steady: Instant,
}

static START: LazyLock<Start> = LazyLock::new(|| Start { wall: SystemTime::now(), steady: Instant::now() });

/// Notes the present time as the one that steps are told from.
pub(crate) fn start() {
    LazyLock::force(&START);
}

/// The time by a clock that does not step, for leases that this process gives and ends.
pub fn steady_now() -> SystemTime {
    START.after(START.steady.elapsed())
}

/// The time by which ages are judged of files and rows that have the machine's time. Nothing looks older than it is,
/// however the machine's clock stepped while this process ran. What is written after a step forward looks younger, until
/// the next start.
pub fn judging_now() -> SystemTime {
    START.judging(START.steady.elapsed(), SystemTime::now())
}

impl Start {
    fn after(&self, elapsed: Duration) -> SystemTime {
        self.wall.checked_add(elapsed).unwrap_or(self.wall)
    }

    fn judging(&self, elapsed: Duration, wall: SystemTime) -> SystemTime {
        self.after(elapsed).min(wall)
    }
}

/// An earlier time becomes 1970.
pub(crate) fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The inverse of [`ms_of`], capped at a time that every platform can show.
pub(crate) fn time_of(ms: u64) -> SystemTime {
    const YEAR_9999_MS: u64 = 253_370_764_800_000;
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(YEAR_9999_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: the seconds since the start, the seconds by which the clock has stepped, and, for a file that was
    /// written at some second, whether it is past a grace of an hour.
    #[test]
    fn a_step_of_the_clock_makes_nothing_old() {
        const HOUR: Duration = Duration::from_secs(3600);
        const YEAR_S: i64 = 365 * 24 * 3600;
        let start = Start { wall: SystemTime::UNIX_EPOCH + 50 * 365 * 24 * HOUR, steady: Instant::now() };
        let moved = |time: SystemTime, seconds: i64| match u64::try_from(seconds) {
            Ok(seconds) => time + Duration::from_secs(seconds),
            Err(_) => time - Duration::from_secs(seconds.unsigned_abs()),
        };
        for (now_s, step_s, step_at_s, written_s, is_past) in [
            (100, 0, 0, 10, false),
            (3700, 0, 0, 10, true),
            // A step forward: what was written before it, and after it.
            (100, YEAR_S, 50, 10, false),
            (100, YEAR_S, 50, 60, false),
            (3700, YEAR_S, 50, 10, true),
            // A step back.
            (100, -YEAR_S, 50, 10, false),
            (100, -7200, 50, 60, false),
            (3700, -7200, 50, 60, true),
            (3600, -7200, 50, 60, false),
        ] {
            let shown = |second: i64| {
                let stepped = if second >= step_at_s { step_s } else { 0 };
                moved(start.wall, second + stepped)
            };
            let now = start.judging(Duration::from_secs(now_s as u64), shown(now_s));
            let past = shown(written_s) < now - HOUR;
            assert_eq!(past, is_past, "{now_s} {step_s} {written_s}");
            assert_eq!(start.after(Duration::from_secs(now_s as u64)), moved(start.wall, now_s), "steady");
        }
    }

    #[test]
    fn times_read_back_to_the_millisecond() {
        let time = time_of(1_700_000_000_123);
        assert_eq!(time_of(ms_of(time)), time);
        assert_eq!(ms_of(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), 0);
        assert!(time_of(u64::MAX) > time);
    }
}
