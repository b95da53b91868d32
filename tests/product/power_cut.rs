//! The power is cut: everything that was not synced is lost. Acknowledged content is there afterwards, a tag never
//! points to a missing blob, and the cache then gives right bytes.
//!
//! The data are on a separate ext4. Its shutdown without a flush of the journal is the cut: the page cache is never
//! written, changes that the journal had not committed did not happen, and the next mount replays the rest. The file
//! system commits and writes back by itself so rarely that only the product's own syncs count. A file that takes
//! another's name is not flushed for that (`noauto_da_alloc`).

use std::cell::Cell;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use entrepot_tests::door::Door;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images::{self, Image, MANIFEST};
use entrepot_tests::serve::BoxError;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;
use http::Method;

use crate::ACCEPT;
use crate::disk::on_the_proxy;
use crate::push_crash::{assert_whole, push_blob, push_manifest, tags, url};

const SOON: Duration = Duration::from_secs(60);
const OPTIONS: &str = "loop,commit=600,data=writeback,noauto_da_alloc";
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: &str = "$flags = pack('L', 2); \
    open(D, '<', $ARGV[0]) && ioctl(D, 0x8004587d, $flags) or die \"shutdown: $!\\n\"";

/// A disk whose power can be cut.
struct Disk<'w> {
    world: &'w World,
    data: String,
    /// The number of times that the power came back. Each time the medium is another file.
    starts: Cell<u32>,
}

impl<'w> Disk<'w> {
    fn new(world: &'w World) -> Self {
        let data = world.make_directory("data").display().to_string();
        let disk = Self { world, data, starts: Cell::new(0) };
        on_the_proxy(world, "truncate", &["-s", "256M", &disk.image()]);
        let format = ["-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", &disk.image()];
        on_the_proxy(world, "mkfs.ext4", &format);
        disk.mount();
        disk
    }

    fn image(&self) -> String {
        self.world.path(&format!("disk-{}.img", self.starts.get())).display().to_string()
    }

    fn mount(&self) {
        on_the_proxy(self.world, "mount", &["-o", OPTIONS, &self.image(), &self.data]);
    }

    /// Cuts the power: data that are not on the medium now are lost.
    fn cut(&self) {
        on_the_proxy(self.world, "perl", &["-e", SHUTDOWN, &self.data]);
    }

    /// Brings the power back. The kernel frees a killed process's rings, and the old file system with them, some time
    /// after it. It writes nothing any more, so a copy of the medium is mounted.
    fn restart(&self, entrepot: &mut Entrepot<'_>) {
        entrepot.kill();
        let before = self.image();
        self.starts.set(self.starts.get() + 1);
        on_the_proxy(self.world, "umount", &["--lazy", &self.data]);
        on_the_proxy(self.world, "cp", &["--sparse=always", &before, &self.image()]);
        std::fs::remove_file(before).expect("the medium is a file");
        self.mount();
        entrepot.restart();
    }
}

fn push(door: &Door, image: &Image, tag: &str) {
    for blob in &image.blobs {
        assert_eq!(push_blob(door, blob).status, 201);
    }
    assert_eq!(push_manifest(door, image, tag).status, 201);
}

fn status(door: &Door, method: Method, path: &str) -> u16 {
    door.request(method, &url(path), &[]).status.as_u16()
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut() {
    cut_after_each_acknowledgement(settings());
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut_without_io_uring_too() {
    cut_after_each_acknowledgement(settings().set("data_plane", "io_uring = \"off\""));
}

fn settings() -> Settings {
    Settings::new().set("cache", "min_free = \"0\"")
}

fn cut_after_each_acknowledgement(settings: Settings) {
    let world = World::new();
    let disk = Disk::new(&world);
    let mut entrepot = Entrepot::start(&world, settings);
    let door = entrepot.door();
    let image = |seed: u64| images::random(800 + seed, 2, 200_000);
    let manifest = |image: &Image| format!("/v2/team/app/manifests/{}", image.digest);

    let first = image(0);
    assert_eq!(push_blob(&door, &first.blobs[1]).status, 201);
    disk.cut();
    disk.restart(&mut entrepot);
    let layer = &first.blobs[1].digest;
    assert_eq!(&door.get(&url(&format!("/v2/team/app/blobs/{layer}")), &[]).content(), layer, "a blob");

    push(&door, &first, "v1");
    disk.cut();
    disk.restart(&mut entrepot);
    assert_whole(&door, &first, "v1");

    // A tag that moves, and a manifest without a tag.
    let (second, third) = (image(1), image(2));
    push(&door, &second, "v1");
    push(&door, &third, &third.digest);
    disk.cut();
    disk.restart(&mut entrepot);
    assert_whole(&door, &second, "v1");
    assert_whole(&door, &third, &third.digest);
    assert_whole(&door, &first, &first.digest);

    push(&door, &first, "old");
    assert_eq!(status(&door, Method::DELETE, "/v2/team/app/manifests/old"), 202);
    assert_eq!(status(&door, Method::DELETE, &manifest(&third)), 202);
    disk.cut();
    disk.restart(&mut entrepot);
    assert_eq!(tags(&door), ["v1"], "a tag that was deleted");
    assert_eq!(status(&door, Method::GET, &manifest(&third)), 404, "a manifest that was deleted");

    assert_eq!(entrepot.admin(Method::POST, "/api/registry/gc?grace=0s").0, 200);
    disk.cut();
    disk.restart(&mut entrepot);
    assert_whole(&door, &second, "v1");
    assert_eq!(entrepot.admin(Method::DELETE, "/api/registry/repositories?repository=team/app").0, 200);
    disk.cut();
    disk.restart(&mut entrepot);
    assert_eq!(tags(&door), Vec::<String>::new(), "a repository that was deleted");
    push(&door, &first, "again");
    assert_whole(&door, &first, "again");
    entrepot.command(&["cache", "verify"]).expect_success("entrepot cache verify");
}

/// The rest of an upload can be continued, or is missing. It never becomes a blob with other bytes.
#[test]
fn an_upload_that_a_power_cut_broke_off_is_gone_on_with_or_begun_anew() {
    let world = World::new();
    let disk = Disk::new(&world);
    let mut entrepot = Entrepot::start(&world, settings());
    let door = entrepot.door();
    let blob = crate::blob(830, 2 << 20);
    let (content, half) = (blob.bytes(), 1 << 20);
    let place = door.request(Method::POST, &url("/v2/team/app/blobs/uploads/"), &[]).header("location").to_owned();
    assert_eq!(door.request_with(Method::PATCH, &url(&place), &[], content.slice(..half)).status, 202);
    // The syncs of another push write some of it to the medium, in an order that is not defined.
    assert_eq!(push_blob(&door, &crate::blob(831, 1000)).status, 201);
    disk.cut();
    disk.restart(&mut entrepot);
    let status = door.get(&url(&place), &[]);
    assert!([204, 404].contains(&status.status.as_u16()), "{}", status.status);
    if status.status == 204 {
        let last = status.header("range").rsplit('-').next().and_then(|last| last.parse::<usize>().ok());
        let from = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        let end = url(&format!("{place}?digest={}", blob.digest));
        let ended = door.request_with(Method::PUT, &end, &[], content.slice(from..)).status;
        assert!([201, 400].contains(&ended.as_u16()), "whole, or not the blob of that digest: {ended}");
    }
    assert_eq!(push_blob(&door, &blob).status, 201, "begun anew");
    let there = door.get(&url(&format!("/v2/team/app/blobs/{}", blob.digest)), &[]);
    assert_eq!(there.content(), blob.digest);
}

/// Pushes until a push fails. Reports each image that was acknowledged whole.
async fn push_on(door: Door, worker: u64, acknowledged: Sender<(String, Image)>) -> Result<(), BoxError> {
    for number in 0.. {
        let image = images::random(10_000 * (worker + 1) + number, 2, 60_000);
        for blob in &image.blobs {
            let begin = url(&format!("/v2/team/app/blobs/uploads/?digest={}", blob.digest));
            let reply = door.start(Method::POST, &begin, &[], blob.bytes()).await?.finish().await;
            if reply.status != 201 {
                return Ok(());
            }
        }
        let (tag, headers) = (format!("w{worker}-{number}"), [("content-type".to_owned(), MANIFEST.to_owned())]);
        let place = url(&format!("/v2/team/app/manifests/{tag}"));
        let reply = door.start(Method::PUT, &place, &headers, image.manifest.clone()).await?.finish().await;
        if reply.status != 201 || acknowledged.send((tag, image)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[test]
fn a_power_cut_in_the_midst_of_many_pushes_loses_none_that_was_acknowledged() {
    let world = World::new();
    let disk = Disk::new(&world);
    let mut entrepot = Entrepot::start(&world, settings());
    let door = entrepot.door();
    let mut pushed: Vec<(String, Image)> = Vec::new();
    // A sync of one push can hide that another lacks one, so one worker pushes alone first.
    for (round, (workers, after)) in (0..).zip([(1, 1), (1, 3), (4, 9)]) {
        let (sender, acknowledged) = channel();
        for worker in 0..workers {
            // The task ends with the disk, or with the connection.
            world.client.handle().spawn(push_on(door.clone(), 4 * round + worker, sender.clone()));
        }
        drop(sender);
        pushed.extend((0..after).map(|_| acknowledged.recv_timeout(SOON).expect("pushes go on")));
        disk.cut();
        // Images that are acknowledged after the cut count as well.
        disk.restart(&mut entrepot);
        pushed.extend(acknowledged.iter());
        for (tag, image) in &pushed {
            assert_whole(&door, image, tag);
        }
        for tag in tags(&door) {
            let manifest = door.get(&url(&format!("/v2/team/app/manifests/{tag}")), &[]);
            let manifest: serde_json::Value = serde_json::from_slice(manifest.complete().expect(&tag)).expect("JSON");
            let layers = manifest["layers"].as_array().expect("layers").iter().chain([&manifest["config"]]);
            for digest in layers.map(|named| named["digest"].as_str().expect("a digest")) {
                assert_eq!(door.get(&url(&format!("/v2/team/app/blobs/{digest}")), &[]).content(), digest, "{tag}");
            }
        }
    }
    entrepot.command(&["cache", "verify"]).expect_success("entrepot cache verify");
}

#[test]
fn a_power_cut_during_fills_never_makes_the_cache_wrong() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let images: Vec<_> = (0..4).map(|seed| images::random(900 + seed, 3, 400_000)).collect();
    for (number, image) in images.iter().enumerate() {
        ghcr.publish(image, "team/app", &format!("v{number}"));
    }
    let disk = Disk::new(&world);
    let mut entrepot = Entrepot::start(&world, settings());
    let door = entrepot.door();
    for round in 0..images.len() {
        // Earlier images too: some were stored, some were not, and the index may list more than there is.
        for (number, image) in images.iter().enumerate().take(round + 1) {
            let token = door.authorization(&GHCR, "team/app", None).expect("a token");
            let get = |path: &str| door.get(&ghcr.url(path), &[ACCEPT, ("authorization", &token)]);
            assert_eq!(get(&format!("/v2/team/app/manifests/v{number}")).content(), image.digest, "v{number}");
            for blob in &image.blobs {
                assert_eq!(get(&format!("/v2/team/app/blobs/{}", blob.digest)).content(), blob.digest, "v{number}");
            }
        }
        disk.cut();
        disk.restart(&mut entrepot);
    }
    entrepot.command(&["cache", "verify"]).expect_success("entrepot cache verify");
}
