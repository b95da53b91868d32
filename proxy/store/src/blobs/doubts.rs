//! A client that asks for one blob twice within a minute may have found it bad: it compares what it gets with the digest
//! and tries again. So the blob is hashed before it is given the second time, once a day at most, for whomever.
//!
//! Both tables are bounded. An entry that is lost costs one hash more, or one less.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entrepot_core::client::ClientKey;
use entrepot_core::digest::Digest;
use quick_cache::unsync::Cache;

use super::{Blobs, Verified};
use crate::lock;

/// A second request within this time is a doubt.
const DOUBT: Duration = Duration::from_secs(60);
/// Content that was hashed is trusted so long.
const TRUST: Duration = Duration::from_secs(24 * 3600);
/// How long a client waits for the hash. Then it is answered while the hash goes on.
const PATIENCE: Duration = Duration::from_secs(10);
const ENTRIES: usize = 4096;

/// The requests of the last minute, and the blobs that were hashed.
pub(super) struct Doubts(Mutex<Known>);

struct Known {
    asked: Cache<(ClientKey, Digest), Instant>,
    hashed: Cache<Digest, Instant>,
}

impl Default for Doubts {
    fn default() -> Self {
        Self(Mutex::new(Known { asked: Cache::new(ENTRIES), hashed: Cache::new(ENTRIES) }))
    }
}

impl Doubts {
    /// Notes that a client asks for a blob from its beginning. True if it is to be hashed first.
    fn arise(&self, client: ClientKey, digest: &Digest, now: Instant) -> bool {
        let mut known = lock(&self.0);
        let before = known.asked.get(&(client, *digest)).copied();
        known.asked.insert((client, *digest), now);
        let is_doubted = before.is_some_and(|before| now.duration_since(before) < DOUBT);
        let is_trusted = known.hashed.get(digest).is_some_and(|at| now.duration_since(*at) < TRUST);
        if is_doubted && !is_trusted {
            known.hashed.insert(*digest, now);
        }
        is_doubted && !is_trusted
    }

    /// Content came anew: it was compared with its digest on its way.
    pub(super) fn settle(&self, digest: &Digest) {
        lock(&self.0).hashed.remove(digest);
    }
}

impl Blobs {
    /// Whether content may be given to a client that asks for it from its beginning. False if it was found bad and is no
    /// longer here.
    pub async fn is_sound_for(self: &Arc<Self>, digest: &Digest, client: ClientKey) -> bool {
        if !self.doubts.arise(client, digest, Instant::now()) {
            return true;
        }
        let (blobs, digest) = (self.clone(), *digest);
        let hashing = tokio::spawn(async move { blobs.verify(&digest).await });
        match tokio::time::timeout(PATIENCE, hashing).await {
            Ok(Ok(Ok(Verified::Bad | Verified::Missing))) => !self.is_gone(&digest).await,
            // The disk, or the patience. The content is as it was before.
            _ => true,
        }
    }

    async fn is_gone(self: &Arc<Self>, digest: &Digest) -> bool {
        !self.contains(digest).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_request_of_one_client_within_a_minute_is_a_doubt_once_a_day() {
        let (one, other) = (Digest::Sha256([1; 32]), Digest::Sha256([2; 32]));
        let client = |last| ClientKey::of([192, 0, 2, last].into());
        let doubts = Doubts::default();
        let begin = Instant::now();
        for (number, (second, client, digest, expected)) in [
            (0, client(1), one, false),
            (1, client(2), one, false),
            (2, client(1), other, false),
            (59, client(1), one, true),
            (60, client(1), one, false),
            (61, client(2), one, false),
            (62, client(2), one, false),
            (63, client(1), other, false),
            (64, client(1), other, true),
            (86_459, client(1), one, false),
            (86_460, client(1), one, true),
        ]
        .into_iter()
        .enumerate()
        {
            let now = begin + Duration::from_secs(second);
            assert_eq!(doubts.arise(client, &digest, now), expected, "{number}");
        }
        doubts.settle(&one);
        assert!(doubts.arise(client(1), &one, begin + Duration::from_secs(86_461)), "it came anew since");
    }

    #[test]
    fn the_tables_are_bounded() {
        let doubts = Doubts::default();
        let now = Instant::now();
        for number in 0..3 * ENTRIES as u32 {
            let digest = Digest::of(entrepot_core::digest::Algorithm::Sha256, &number.to_le_bytes());
            for _ in 0..2 {
                doubts.arise(ClientKey::of([192, 0, 2, 1].into()), &digest, now);
            }
        }
        let known = lock(&doubts.0);
        assert!(known.asked.len() <= ENTRIES && known.hashed.len() <= ENTRIES);
    }
}
