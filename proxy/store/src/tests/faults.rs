//! A disk that is full or read-only, on small file systems of the tests. These tests need root and fail without it.

use super::upgrade::before::{Before, places};
use super::*;
use crate::{Place, Trouble};

const MIB: usize = 1 << 20;

/// A mounted tmpfs.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let dir = TempDir::new().unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", dir.path().to_str().unwrap()]);
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, option: &str) {
        run("mount", &["-o", &format!("remount,{option}"), self.path().to_str().unwrap()]);
    }

    /// Leaves no free block.
    fn fill_up(&self) {
        let path = self.path().join("junk");
        let mut junk = std::fs::File::create(path).unwrap();
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut junk, &block).is_ok() {}
    }

    fn free_again(&self) {
        std::fs::remove_file(self.path().join("junk")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// An ext4 that can be told to fail.
struct FailingDisk {
    dir: TempDir,
    device: String,
}

impl FailingDisk {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let (image, mounted_at) = (dir.path().join("image"), dir.path().join("mounted"));
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        std::fs::create_dir(&mounted_at).unwrap();
        let (image, mounted_at) = (image.to_str().unwrap(), mounted_at.to_str().unwrap());
        run("mkfs.ext4", &["-q", "-F", image]);
        run("mount", &["-o", "loop,errors=remount-ro", image, mounted_at]);
        let device = run("findmnt", &["-no", "SOURCE", mounted_at]).trim().replace("/dev/", "");
        Self { dir, device }
    }

    fn mounted_at(&self) -> std::path::PathBuf {
        self.dir.path().join("mounted")
    }

    fn turn_read_only(&self) {
        std::fs::write(format!("/sys/fs/ext4/{}/trigger_fs_error", self.device), "test").unwrap();
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mounted_at()).status();
    }
}

/// The program's output.
fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} failed, are you root? {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
#[ignore = "needs root: mounts a disk"]
fn a_small_disk_is_shared_by_eviction() {
    let disk = SmallDisk::new("size=24m");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    for seed in 0..20 {
        let digest = put(&store, seed, 4 * MIB);
        assert!(done(store.blobs.contains(&digest)));
    }
    assert!(store.usage().evictions >= 14, "{:?}", store.usage());
    assert!(is_no_space(done(store.partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(25 * MIB as u64)))));
}

#[test]
#[ignore = "needs root: mounts a disk"]
fn a_full_disk_costs_no_hit_and_is_forgotten_once_it_is_free() {
    let disk = SmallDisk::new("size=24m");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    let digest = put(&store, 1, MIB);
    let running = Arc::new(done(store.partial_blobs.begin_unnamed(None)).unwrap());
    disk.fill_up();
    assert_eq!(read(&store, &digest).unwrap().len(), MIB);
    let (other, bytes) = content(2, 8 * MIB);
    assert!(
        is_no_space(done(store.partial_blobs.put(&other, Bytes::copy_from_slice(&bytes)))),
        "others filled the disk: emptying the cache would not help"
    );
    assert!(is_no_space(done(running.write(0, Bytes::copy_from_slice(&bytes)))));
    assert!(done(store.blobs.contains(&digest)) && !done(store.blobs.contains(&other)));
    let place = Place::new(origin("ghcr.io"), "a/b".parse().unwrap());
    for number in 0..2000_u32 {
        done(store.names.link(&place, &Digest::of(Algorithm::Sha512, &number.to_le_bytes()), None));
    }
    done(store.flush());
    assert_eq!(read(&store, &digest).unwrap().len(), MIB);
    drop(running);

    disk.free_again();
    soon("content is stored again", || done(store.partial_blobs.put(&other, Bytes::copy_from_slice(&bytes))).is_ok());
    soon("links are kept again", || {
        done(store.names.link(&place, &other, None));
        done(store.names.link_of(&place, &other)).is_some()
    });
    store.wait_for_rebuild();
    let mut listed: Vec<Digest> = Vec::new();
    soon("the index knows every file", || done(store.blobs.list(None, 10)).is_ok_and(|entries| entries.len() == 2));
    listed.extend(done(store.blobs.list(None, 10)).unwrap().iter().map(|entry| entry.digest));
    assert!(listed.contains(&digest) && listed.contains(&other));
    assert_eq!(store.usage().used_bytes, 9 * MIB as u64);
    soon("partial files are gone", || files_below(&disk.path().join("fill")) == 0);
}

#[test]
#[ignore = "needs root: mounts a disk"]
fn without_inodes_eviction_makes_some() {
    let disk = SmallDisk::new("size=64m,nr_inodes=60");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    let mut stored = 0;
    for seed in 0..200 {
        let (digest, bytes) = content(seed, 10);
        stored += usize::from(done(store.partial_blobs.put(&digest, Bytes::copy_from_slice(&bytes))).is_ok());
    }
    assert!(stored > 30 && store.usage().evictions > 0, "{stored} {:?}", store.usage());
    soon("partial files are gone", || files_below(&disk.path().join("fill")) == 0);
    soon("the room is given back", || store.usage().reserved_bytes == 0);
}

#[test]
#[ignore = "needs root: mounts a disk"]
fn a_disk_that_turns_read_only_serves_hits() {
    let disk = FailingDisk::new();
    let store = Store::open(&disk.mounted_at(), limits(PLENTY)).unwrap();
    let (digest, other) = (put(&store, 1, 1000), put(&store, 2, 1000));
    let (half, bytes) = content(3, 1000);
    let running = Arc::new(done(store.partial_blobs.begin(&hub(), &half, Some(1000))).unwrap());
    done(running.write(0, Bytes::copy_from_slice(&bytes))).unwrap();
    disk.turn_read_only();
    assert_eq!(read(&store, &digest).unwrap(), content(1, 1000).1);
    assert!(done(running.publish(None, &[])).is_err());
    assert!(!done(store.blobs.contains(&half)), "what could not be made durable is not visible");
    let refused = done(store.partial_blobs.put(&half, Bytes::copy_from_slice(&bytes)));
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
    assert!(matches!(store.blobs.discard(&other), Err(StoreError::ReadOnly { .. })));
    done(store.names.link(&Place::new(origin("ghcr.io"), "a/b".parse().unwrap()), &digest, None));
    done(store.flush());
    assert_eq!(read(&store, &other).unwrap(), content(2, 1000).1);
    assert!(store.usage().write_errors >= 3);
}

#[test]
#[ignore = "needs root: mounts a disk"]
fn a_start_on_a_read_only_disk_serves_hits_and_recovers() {
    let disk = SmallDisk::new("size=24m");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    let digest = put(&store, 1, 1000);
    assert_eq!(store.troubles(), []);
    drop(store);
    // A release before may not have had the folder.
    std::fs::remove_dir(disk.path().join("fill")).unwrap();
    disk.remount("ro");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    assert!(matches!(&*store.troubles(), [Trouble::IndexClosed(_)]), "{:?}", store.troubles());
    assert_eq!(read(&store, &digest).unwrap(), content(1, 1000).1);
    let (other, bytes) = content(3, 10);
    let refused = done(store.partial_blobs.put(&other, Bytes::copy_from_slice(&bytes)));
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
    let troubles = store.troubles();
    assert!(matches!(&*troubles, [Trouble::DiskRefuses(_), Trouble::IndexClosed(_)]), "{troubles:?}");
    disk.remount("rw");
    soon("content is stored again", || done(store.partial_blobs.put(&other, Bytes::copy_from_slice(&bytes))).is_ok());
    soon("the index is back and complete", || {
        done(store.flush());
        store.wait_for_rebuild();
        done(store.blobs.list(None, 10)).is_ok_and(|listed| listed.len() == 2)
    });
    assert_eq!(store.usage().used_bytes, 1010);
    assert_eq!(store.troubles(), []);
}

#[test]
#[ignore = "needs root: mounts a disk"]
fn an_upgrade_waits_for_room_while_hits_go_on() {
    let before = Before::make();
    let (place, linked) = (&places(0)[0], before.blobs[0]);
    let old = before.root().join("index.redb");
    let disk = SmallDisk::new(&format!("size={}", std::fs::metadata(&old).unwrap().len() * 3));
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    let digest = put(&store, 1, 1000);
    drop(store);
    std::fs::copy(&old, disk.path().join("index.redb")).unwrap();
    disk.fill_up();
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    assert_eq!(read(&store, &digest).unwrap(), content(1, 1000).1);
    assert_eq!(done(store.names.link_of(place, &linked)), None);
    assert!(!disk.path().join("index.redb.new").exists(), "nothing is begun that cannot end");
    disk.free_again();
    soon("the index is upgraded", || done(store.names.link_of(place, &linked)).is_some());
    assert!(store.flush_blocking());
    assert!(!disk.path().join("index.redb.format-1").exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_of_ours() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let opened = Store::open(&dir.path().join("file/store"), limits(PLENTY));
    let error = opened.err().unwrap().to_string();
    assert!(error.starts_with("cannot create the directory"), "{error}");
}
