//! A disk that is full or read-only, on small file systems of their own. These need root and fail without it.

use std::time::Instant;

use super::*;

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

    /// Leaves not one free block.
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

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} failed, are you root? {}", String::from_utf8_lossy(&done.stderr));
}

/// Repeats until it holds; each attempt waits for the store in itself.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
    }
}

#[test]
fn a_small_disk_is_shared_by_eviction() {
    let disk = SmallDisk::new("size=24m");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    for seed in 0..20 {
        let digest = put(&store, seed, 4 * MIB);
        assert!(store.contains(&digest));
    }
    assert!(store.usage().evictions >= 14, "{:?}", store.usage());
    assert!(is_no_space(store.begin(&Digest::Sha256([1; 32]), Some(25 * MIB as u64))));
}

#[test]
fn a_full_disk_costs_no_hit_and_is_forgotten_once_it_is_free() {
    let disk = SmallDisk::new("size=24m");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    let digest = put(&store, 1, MIB);
    let running = store.begin_unnamed(None).unwrap();
    disk.fill_up();
    assert_eq!(read(&store, &digest).unwrap().len(), MIB);
    let (other, bytes) = content(2, 8 * MIB);
    assert!(is_no_space(store.put(&other, &bytes)), "others filled the disk: emptying the cache would not help");
    assert!(is_no_space(running.write_at(0, &bytes)));
    assert!(store.contains(&digest) && !store.contains(&other));
    let registry = "ghcr.io".parse().unwrap();
    let repository = "a/b".parse().unwrap();
    for number in 0..2000_u32 {
        store.link(&registry, &repository, &Digest::of(Algorithm::Sha512, &number.to_le_bytes()));
    }
    store.flush();
    assert_eq!(read(&store, &digest).unwrap().len(), MIB);
    drop(running);

    disk.free_again();
    eventually("content is stored again", || store.put(&other, &bytes).is_ok());
    eventually("links are kept again", || {
        store.link(&registry, &repository, &other);
        store.linked(&registry, &repository, &other)
    });
    store.wait_for_rebuild();
    let mut listed: Vec<Digest> = Vec::new();
    eventually("the index knows every file", || store.list(None, 10).is_ok_and(|entries| entries.len() == 2));
    listed.extend(store.list(None, 10).unwrap().iter().map(|entry| entry.digest));
    assert!(listed.contains(&digest) && listed.contains(&other));
    assert_eq!(store.usage().used_bytes, 9 * MIB as u64);
    assert_eq!(files_below(&disk.path().join("fill")), 0);
}

#[test]
fn without_inodes_eviction_makes_some() {
    let disk = SmallDisk::new("size=64m,nr_inodes=60");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    let mut stored = 0;
    for seed in 0..200 {
        let (digest, bytes) = content(seed, 10);
        stored += usize::from(store.put(&digest, &bytes).is_ok());
    }
    assert!(stored > 30 && store.usage().evictions > 0, "{stored} {:?}", store.usage());
    assert_eq!(files_below(&disk.path().join("fill")), 0);
    assert_eq!(store.usage().reserved_bytes, 0);
}

#[test]
fn a_read_only_disk_serves_hits() {
    let disk = SmallDisk::new("size=24m");
    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    let (digest, other) = (put(&store, 1, 1000), put(&store, 2, 1000));
    let running = store.begin(&Digest::Sha256([1; 32]), Some(10)).unwrap();
    drop(running);
    store.flush();
    disk.remount("ro");
    let refused = store.put(&content(3, 10).0, &content(3, 10).1);
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
    assert_eq!(read(&store, &digest).unwrap(), content(1, 1000).1);
    assert!(matches!(store.remove(&other), Err(StoreError::ReadOnly { .. })));
    assert!(store.usage().write_errors >= 2);
    drop(store);

    let store = Store::open(disk.path(), limits(PLENTY)).unwrap();
    assert_eq!(read(&store, &digest).unwrap(), content(1, 1000).1);
    assert!(store.put(&content(3, 10).0, &content(3, 10).1).is_err());
    disk.remount("rw");
    eventually("content is stored again", || store.put(&content(3, 10).0, &content(3, 10).1).is_ok());
    eventually("the index is back", || {
        store.flush();
        store.wait_for_rebuild();
        store.list(None, 10).is_ok_and(|listed| listed.len() == 3)
    });
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_of_ours() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let opened = Store::open(&dir.path().join("file/store"), limits(PLENTY));
    let error = opened.err().unwrap().to_string();
    assert!(error.starts_with("cannot create the directory"), "{error}");
}
