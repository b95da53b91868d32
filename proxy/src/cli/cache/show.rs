//! The texts and tables about the cache for people.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use entrepot_core::digest::Digest;

use crate::admin::answers::{BlobState, BlobSummary, CacheStats, Freed, VerifiedBlob};
use entrepot_observe::human::{age, size};

pub(super) fn stats(stats: &CacheStats) -> String {
    let mut text = String::new();
    let rows = [
        ("hits", format!("{} ({:.1} %)", stats.hits, stats.hit_rate * 100.0)),
        ("misses", stats.misses.to_string()),
        ("stored", stats.stores.to_string()),
        ("evicted", stats.evictions.to_string()),
        ("errors", stats.errors.to_string()),
        ("blobs", stats.blobs.to_string()),
        ("size", format!("{} of {}", size(stats.current_size), size(stats.max_size))),
        ("pushed here", size(stats.pushed_size)),
        ("fills running", format!("{} ({} reserved)", stats.fills_running, size(stats.reserved))),
    ];
    let disk = stats.disk.iter().map(|disk| {
        let low = if disk.free < disk.min_free { "; less than cache.min_free" } else { "" };
        ("disk", format!("{} free of {} in {}{low}", size(disk.free), size(disk.size), disk.path.display()))
    });
    for (name, value) in rows.into_iter().chain(disk) {
        let _ = writeln!(text, "{name:14} {value}");
    }
    for limit in &stats.rate_limits {
        let _ = writeln!(
            text,
            "{:14} {} {}: {} of {} left in {}, seen {} ago",
            "rate limit",
            limit.registry,
            limit.credential,
            limit.remaining,
            limit.limit,
            age(Duration::from_secs(limit.window_seconds)),
            age(Duration::from_secs(limit.seen_seconds_ago)),
        );
    }
    text
}

pub(super) fn blob_header() -> String {
    format!("{:71} {:>10} {:>5}  {}\n", "DIGEST", "SIZE", "USED", "REPOSITORIES")
}

pub(super) fn blob(blob: &BlobSummary, now_unix_seconds: u64) -> String {
    let used = Duration::from_secs(now_unix_seconds.saturating_sub(blob.last_used_unix_seconds));
    let pinned = if blob.pinned { " (pinned)" } else { "" };
    let repositories = blob.repositories.join(" ");
    let line = format!("{:71} {:>10} {:>5}  {repositories}{pinned}", blob.digest, size(blob.size), age(used));
    format!("{}\n", line.trim_end())
}

pub(super) fn now_unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

pub(super) fn removed(digest: &Digest, freed: &Freed) -> String {
    format!("removed {digest} ({})\n", size(freed.freed_bytes))
}

pub(super) fn clear_question(stats: &CacheStats) -> String {
    format!("Drop {} blobs, {}?", stats.blobs, size(stats.current_size))
}

pub(super) fn cleared(freed: &Freed) -> String {
    format!("dropped {} blobs, {}\n", freed.freed_blobs, size(freed.freed_bytes))
}

pub(super) fn bad_blob(blob: &VerifiedBlob) -> String {
    let found = match blob.state {
        BlobState::Ok => "ok",
        BlobState::Corrupt => "corrupt",
        BlobState::Unreadable => "unreadable",
    };
    format!("{found:10} {} ({})\n", blob.digest, size(blob.size))
}

pub(super) fn verified(checked: u64, bad: u64, bytes: u64) -> String {
    format!("{checked} blobs, {}, {bad} bad\n", size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::answers::{Disk, RateLimit};

    #[test]
    fn stats_have_units_and_limits() {
        let limit = RateLimit {
            registry: "registry-1.docker.io".into(),
            credential: "anonymous".into(),
            limit: 100,
            remaining: 97,
            window_seconds: 21_600,
            seen_seconds_ago: 180,
        };
        let shown = stats(&CacheStats {
            hits: 42,
            hit_rate: 0.84,
            current_size: 1_288_490_189,
            max_size: 32 << 30,
            rate_limits: vec![limit],
            disk: Some(Disk { path: "/data".into(), free: 512 << 20, size: 20 << 30, min_free: 1 << 30 }),
            ..CacheStats::default()
        });
        for part in [
            "hits           42 (84.0 %)\n",
            "size           1.2 GiB of 32.0 GiB\n",
            "disk           512.0 MiB free of 20.0 GiB in /data; less than cache.min_free\n",
            "registry-1.docker.io anonymous: 97 of 100 left in 6h, seen 3m ago\n",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn blobs_stand_under_their_header() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let shown = blob(
            &BlobSummary {
                digest: digest.clone(),
                size: 2048,
                last_used_unix_seconds: 1000,
                pinned: true,
                repositories: vec!["ghcr.io/a/b".into(), "quay.io/c".into()],
            },
            1000 + 3600,
        );
        assert_eq!(shown, format!("{digest}    2.0 KiB    1h  ghcr.io/a/b quay.io/c (pinned)\n"));
        assert_eq!(blob_header().find("REPOSITORIES"), shown.find("ghcr.io"));
    }
}
