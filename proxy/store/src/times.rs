//! Times as rows and files have them: milliseconds since 1970.

use std::time::{Duration, SystemTime};

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

    #[test]
    fn times_read_back_to_the_millisecond() {
        let time = time_of(1_700_000_000_123);
        assert_eq!(time_of(ms_of(time)), time);
        assert_eq!(ms_of(SystemTime::UNIX_EPOCH - Duration::from_secs(5)), 0);
        assert!(time_of(u64::MAX) > time);
    }
}
