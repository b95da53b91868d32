//! Faults of the disk are ours. A client never sees them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entrepot_core::digest::Digest;
use entrepot_observe::labels::Bypass;
use entrepot_store::Trouble;
use http::Method;

use crate::harness::{Answer, Gate, Image, Proxy, Setup, Upstream, bytes, digest_of, eventually};

fn path(digest: &Digest) -> String {
    format!("/v2/team/app/blobs/{digest}")
}

async fn small(upstream: &Upstream) -> Proxy {
    Setup::of(&[upstream]).set("cache", "max_size = \"1m\"").start().await
}

#[tokio::test]
async fn a_blob_larger_than_the_cache_passes_and_is_counted() {
    let upstream = Upstream::start().await;
    let content = bytes(1, 3 << 20);
    let digest = upstream.blob("team/app", &content);
    let proxy = small(&upstream).await;
    for count in 1..3 {
        let reply = proxy.get(&upstream, &path(&digest)).send().await;
        reply.is_whole(&content);
        assert_eq!(reply.cache(), "BYPASS");
        assert_eq!(proxy.pull.metrics.bypass.get(Bypass::TooLarge), count, "counted once for each answer");
        assert_eq!(upstream.count(&Method::GET, &path(&digest)), count as usize, "and fetched once");
    }
    proxy.holds_nothing().await;
    let image = Image::new("team/app", 2);
    image.publish(&upstream, "1");
    proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
    proxy.landed().await;
    assert!(proxy.has(&image.layer_digest), "what fits is stored");
}

#[tokio::test]
async fn a_range_of_a_blob_larger_than_the_cache_costs_the_range() {
    let upstream = Upstream::start().await;
    let content = bytes(2, 16 << 20);
    let digest = upstream.blob("team/app", &content);
    let proxy = small(&upstream).await;
    for _ in 0..5 {
        let reply = proxy.get(&upstream, &path(&digest)).range("1000000-1000099").send().await;
        assert_eq!(reply.status, 206);
        assert!(reply.body == content[1_000_000..1_000_100]);
    }
    assert!(upstream.body_bytes() < 1 << 20, "{} bytes", upstream.body_bytes());
}

#[tokio::test]
async fn wrong_bytes_past_the_store_complete_for_nobody() {
    let upstream = Upstream::start().await;
    let content = bytes(3, 3 << 20);
    let digest = digest_of(&content);
    let mut wrong = content.to_vec();
    wrong[1_000_000] ^= 1;
    for answer in [
        Answer::content(wrong.clone()),
        Answer::content(wrong).chunked(),
        Answer::content(content.slice(..content.len() - 1)),
        Answer::content(bytes::Bytes::new()),
    ] {
        upstream.blob_as("team/app", &digest, answer);
        let proxy = small(&upstream).await;
        let outcome = proxy.get(&upstream, &path(&digest)).try_send().await;
        assert!(outcome.is_err() || outcome.is_ok_and(|reply| reply.status == 502));
    }
}

#[tokio::test]
async fn resets_past_the_store_are_mended_too() {
    let upstream = Upstream::start().await;
    let content = bytes(4, 3 << 20);
    let digest = digest_of(&content);
    let whole = Answer::content(content.clone());
    upstream.on(&path(&digest), move |seen| match seen.header("range") {
        "" => whole.clone().reset_after(1 << 20),
        _ => whole.clone(),
    });
    let proxy = small(&upstream).await;
    proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
}

#[tokio::test]
async fn a_blob_whose_length_nobody_told_outgrows_the_cache() {
    let upstream = Upstream::start().await;
    let content = bytes(5, 12 << 20);
    let digest = digest_of(&content);
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).chunked());
    let proxy = Setup::of(&[&upstream]).set("cache", "max_size = \"6m\"").start().await;
    let (one, two) =
        tokio::join!(proxy.get(&upstream, &path(&digest)).send(), proxy.get(&upstream, &path(&digest)).send());
    one.is_whole(&content);
    two.is_whole(&content);
    assert!(!proxy.has(&digest));
    assert!(proxy.pull.metrics.bypass.total() > 0);
    assert_eq!(proxy.pull.metrics.bypass.get(Bypass::DiskFull), 0, "the disk has room");
    proxy.holds_nothing().await;
}

#[tokio::test]
async fn a_manifest_that_does_not_fit_is_given_all_the_same() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Setup::of(&[&upstream]).set("cache", "max_size = \"1\"").start().await;
    for path in [image.tag_path("1"), image.manifest_path(), image.tag_path("1")] {
        proxy.get(&upstream, &path).send().await.is_whole(&image.manifest);
    }
    assert!(proxy.pull.metrics.bypass.get(Bypass::TooLarge) >= 3);
    assert_eq!(proxy.pull.metrics.bypass.get(Bypass::DiskFull), 0, "the disk has room");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_goes_on_from_upstream() {
    for range in [None, Some("0-"), Some("100-33554330")] {
        let upstream = Upstream::start().await;
        let content = bytes(6, 32 << 20);
        let digest = upstream.blob("team/app", &content);
        let proxy = Proxy::before(&[&upstream]).await;
        proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
        proxy.landed().await;
        let ask = proxy.get(&upstream, &path(&digest));
        let ask = range.map_or(ask.clone(), |range| ask.range(range));
        // The connection holds few bytes, so the rest of the file is read later.
        let mut reading = ask.start_over(proxy.visit(&upstream, 64 << 10)).await;
        assert_eq!(reading.headers["x-cache"], "HIT");
        let begun = reading.read(1000).await;
        let file = std::fs::OpenOptions::new().write(true).open(proxy.file_of(&digest)).expect("the file");
        file.set_len(5 << 20).expect("cut");
        let rest = reading.rest().await.expect("whole");
        let expected = if range == Some("100-33554330") { &content[100..33_554_331] } else { &content[..] };
        assert!([&begun[..], &rest.body].concat() == expected, "{range:?}");
        assert!(!proxy.has(&digest), "put aside");
        proxy.get(&upstream, &path(&digest)).send().await.is_whole(&content);
        proxy.landed().await;
        assert!(proxy.has(&digest), "and stored again");
    }
}

#[tokio::test]
async fn a_file_that_another_hand_removed_is_fetched_anew() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
    proxy.landed().await;
    for digest in [image.manifest_digest, image.layer_digest] {
        std::fs::remove_file(proxy.file_of(&digest)).expect("removed");
    }
    // An open file is served to its end, of a manifest as well as of a layer.
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
}

#[tokio::test]
async fn a_fill_folder_that_vanished_is_made_again() {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let proxy = Proxy::before(&[&upstream]).await;
    std::fs::remove_dir_all(proxy.data().join("fill")).expect("removed");
    proxy.get(&upstream, &image.layer_path()).send().await.is_whole(&image.layer);
    proxy.get(&upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    proxy.landed().await;
    assert!(proxy.has(&image.layer_digest));
    assert_eq!(proxy.pull.metrics.bypass.get(Bypass::IoError), 0);
}

/// An ext4 of its own that can be made to hang. Needs root.
struct FrozenDisk {
    folder: tempfile::TempDir,
}

impl FrozenDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Self { folder };
        let image = disk.folder.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(128 << 20)).expect("an image");
        std::fs::create_dir(disk.path()).expect("a folder");
        let image = image.to_string_lossy();
        disk.run("mkfs.ext4", &["-q", "-F", &image]);
        disk.run("mount", &["-o", "loop", &image, &disk.path().to_string_lossy()]);
        disk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Makes every change wait from now on.
    fn freeze(&self) {
        self.run("fsfreeze", &["-f", &self.path().to_string_lossy()]);
    }

    fn thaw(&self) {
        self.run("fsfreeze", &["-u", &self.path().to_string_lossy()]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let done = Command::new(program).args(arguments).output().expect(program);
        assert!(done.status.success(), "{program}, are you root? {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        let path = self.path();
        // If the test succeeded, the disk is thawed already.
        let _ = Command::new("fsfreeze").arg("-u").arg(&path).output();
        let _ = Command::new("umount").arg("-l").arg(&path).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: mounts a disk"]
async fn a_disk_that_hangs_stalls_nobody() {
    for rung in ["auto", "off"] {
        let (upstream, disk) = (Upstream::start().await, FrozenDisk::new());
        let stored = bytes(7, 1 << 20);
        let stored_digest = upstream.blob("team/app", &stored);
        let content = bytes(8, 16 << 20);
        let (digest, gate) = (digest_of(&content), Gate::closed());
        let answer = Answer::content(content.clone());
        let gated = answer.clone().gated_at(4 << 20, &gate);
        let ranges: Arc<Mutex<Vec<String>>> = Arc::default();
        let asked = ranges.clone();
        upstream.on(&path(&digest), move |seen| {
            let range = seen.header("range");
            asked.lock().expect("no panic").push(range.to_owned());
            if range.is_empty() { gated.clone() } else { answer.clone() }
        });
        let setup = Setup::of(&[&upstream]).at(disk.path());
        let setup =
            setup.set("data_plane", &format!("io_uring = \"{rung}\"")).set("data_plane", "disk_timeout = \"1s\"");
        let proxy = setup.start().await;
        proxy.get(&upstream, &path(&stored_digest)).send().await.is_whole(&stored);
        proxy.landed().await;
        let mut reading = proxy.get(&upstream, &path(&digest)).start().await;
        let begun = reading.read(1 << 20).await;
        gate.reached().await;

        disk.freeze();
        gate.open();
        // A hit, a fetch that begins, and the fetch that was running.
        proxy.get(&upstream, &path(&stored_digest)).send().await.is_whole(&stored);
        let fresh = bytes(9, 3 << 20);
        let fresh_digest = upstream.blob("team/app", &fresh);
        proxy.get(&upstream, &path(&fresh_digest)).send().await.is_whole(&fresh);
        // The disk that hangs is remembered: ten more do not wait a second each.
        assert_eq!(proxy.pull.store.troubles(), [Trouble::DiskHangs]);
        let began = Instant::now();
        for seed in 20..30 {
            let more = bytes(seed, 2 << 20);
            let digest = upstream.blob("team/app", &more);
            proxy.get(&upstream, &path(&digest)).send().await.is_whole(&more);
        }
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        let rest = reading.rest().await.expect("whole");
        assert!([&begun[..], &rest.body].concat() == content[..]);
        assert!(proxy.pull.metrics.bypass.get(Bypass::IoError) >= 2, "counted as what it is");
        let ranges = ranges.lock().expect("no panic").clone();
        let from =
            ranges[1].trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().expect("an open range");
        assert!((begun.len()..=4 << 20).contains(&from), "what the file has is not fetched again: {ranges:?}");

        disk.thaw();
        proxy.landed().await;
        assert!(!proxy.has(&digest) && !proxy.has(&fresh_digest));
        eventually("the disk answers", || proxy.pull.store.troubles().is_empty()).await;
        proxy.get(&upstream, &path(&fresh_digest)).send().await.is_whole(&fresh);
        proxy.landed().await;
        assert!(proxy.has(&fresh_digest), "and stored again");
        eventually("partial files are removed", || proxy.files("fill").is_empty()).await;
    }
}
