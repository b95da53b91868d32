//! The name of a request: in the access record, in the events about it, and in the reply's `X-Request-Id`.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// 64 bits, written as 16 hexadecimal digits. Ids of one process never repeat; ids of two processes do so by chance
/// only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(u64);

impl RequestId {
    /// The next one of this process.
    pub fn next() -> Self {
        static START: OnceLock<u64> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let start = *START.get_or_init(|| RandomState::new().hash_one(std::process::id()));
        Self(mix(start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed))))
    }

    /// One that tests can compare.
    #[cfg(test)]
    pub(crate) fn fixed(number: u64) -> Self {
        Self(number)
    }
}

/// Spreads neighbours over all 64 bits and maps no two numbers to one (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_do_not_repeat_and_have_one_length() {
        let ids: HashSet<_> = (0..10_000).map(|_| RequestId::next().to_string()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.len() == 16));
    }
}
