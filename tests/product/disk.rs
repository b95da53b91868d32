//! The disk is full or read-only: pulls complete nevertheless, without the cache, and are counted (invariant 7 of
//! ARCHITECTURE.md).

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::process::finish;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;

/// Runs a command on the proxy's host. The product sees its mounts, and they end with the world.
pub(crate) fn on_the_proxy(world: &World, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(&world.proxy, command, Duration::from_secs(30)).expect_success(program);
}

/// A small ext4 as the product's data directory.
fn small_disk(world: &World, size: &str, options: &[&str]) -> PathBuf {
    let (file, data) = (world.path("disk.img"), world.make_directory("data"));
    let (file, place) = (file.display().to_string(), data.display().to_string());
    on_the_proxy(world, "truncate", &["-s", size, &file]);
    on_the_proxy(world, "mkfs.ext4", &[&["-q", "-m", "0"], options, &[file.as_str()]].concat());
    on_the_proxy(world, "mount", &["-o", "loop", &file, &place]);
    data
}

/// Pulls an image that does not fit, then one that fits, each twice.
fn pull_on_a_small_disk(options: &[&str], settings: Settings, layers: u64, file_size: usize) {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let large = ghcr.publish(&images::random(1, layers, file_size), "team/large", "1");
    let small = ghcr.publish(&images::random(2, 2, 10_000), "team/small", "1");
    small_disk(&world, "24M", options);
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.client();
    for round in ["first", "second"] {
        client.skopeo_pull(&large, None).expect_success(&format!("the large image, {round} time"));
        client.skopeo_pull(&small, None).expect_success(&format!("the small image, {round} time"));
    }
    let (status, _) = entrepot.admin_tcp(http::Method::GET, "/healthz");
    assert_eq!(status, 200, "alive and well");
}

#[test]
fn a_pull_completes_when_the_disk_fills_up() {
    let settings = Settings::new().set("cache", "min_free = \"0\"");
    pull_on_a_small_disk(&[], settings, 3, 20 << 20);
}

#[test]
fn a_pull_completes_when_a_layer_is_larger_than_the_disk() {
    let settings = Settings::new().set("cache", "min_free = \"0\"");
    pull_on_a_small_disk(&[], settings, 1, 48 << 20);
}

#[test]
fn a_pull_completes_when_no_space_may_be_used() {
    pull_on_a_small_disk(&[], Settings::new(), 3, 2 << 20);
}

#[test]
fn a_pull_completes_when_the_disk_has_no_inodes() {
    let settings = Settings::new().set("cache", "min_free = \"0\"");
    pull_on_a_small_disk(&["-N", "32"], settings, 40, 5000);
}

#[test]
fn a_pull_completes_when_the_disk_turns_read_only() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let cached = ghcr.publish(&images::random(10, 2, 100_000), "team/cached", "1");
    let fresh = ghcr.publish(&images::random(11, 2, 100_000), "team/fresh", "1");
    let data = small_disk(&world, "64M", &[]);
    let settings = Settings::new().set("cache", "min_free = \"0\"");
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.client();
    client.skopeo_pull(&cached, None).expect_success("before");
    // The manifest, the configuration and two layers. The client may end before the disk has them.
    entrepot.wait_stored(4);
    // Forced, as after an I/O error: writers are not waited for.
    on_the_proxy(&world, "mount", &["-o", "remount,abort", &data.display().to_string()]);
    client.skopeo_pull(&fresh, None).expect_success("an uncached image on a read-only disk");
    ghcr.ledger.reset();
    client.skopeo_pull(&cached, None).expect_success("a cached image on a read-only disk");
    assert_eq!(ghcr.ledger.blob_bytes(), 0, "served from the disk");
}

#[test]
fn the_cache_keeps_its_size() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let names: Vec<_> = (0..6)
        .map(|seed| ghcr.publish(&images::random(20 + seed, 1, 4 << 20), "team/app", &format!("t{seed}")))
        .collect();
    let settings = Settings::new().set("cache", "max_size = \"12m\"\nmin_free = \"0\"");
    let entrepot = Entrepot::start(&world, settings);
    for name in &names {
        entrepot.client().skopeo_pull(name, None).expect_success(name);
    }
    assert!(entrepot.stat("current_size") <= 12 << 20, "{}", entrepot.stats());
    assert!(entrepot.stat("evictions") >= 1, "{}", entrepot.stats());
}
