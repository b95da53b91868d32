//! The first start on a data directory of the release before, also if it is killed half-way.

pub(super) mod before;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::SystemTime;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};

use super::*;
use crate::{Place, TagKey};
use before::{BLOBS, Before, LINKED_EACH, time};

/// Names the data directory of the process that a test starts.
const DIRECTORY: &str = "ENTREPOT_UPGRADED_DIRECTORY";
/// Names the size at which the kernel kills that process for a file that grows beyond it.
const FILE_MAX_BYTES: &str = "ENTREPOT_UPGRADED_FILE_MAX_BYTES";

/// Whether the index is of the present format, and whether the earlier one is kept beside it.
fn state(root: &Path) -> (bool, bool) {
    let kept = root.join("index.redb.format-1").exists();
    // A second name of one file cannot be opened twice.
    let copy = TempDir::new().unwrap();
    let file = copy.path().join("index.redb");
    fs::copy(root.join("index.redb"), &file).unwrap();
    (is_numbered(&file), kept)
}

fn is_numbered(index: &Path) -> bool {
    let format: TableDefinition<'_, (), u64> = TableDefinition::new("format");
    let database = Database::open(index).unwrap();
    let rows = database.begin_read().unwrap();
    rows.open_table(format).is_ok_and(|table| table.get(()).unwrap().unwrap().value() == 2)
}

/// Whether the store has everything that the directory had and is to be kept, and nothing else.
fn check(store: &Store, before: &Before) {
    let index = &store.index;
    let rows = |table: TableDefinition<'_, (&'static str, &'static str), (u64, u64)>| {
        index.read(|rows| Ok(rows.open_table(table)?.len()?)).unwrap()
    };
    assert_eq!(rows(TableDefinition::new("proofs")), 0, "nothing is public until upstream says so");
    store.wait_for_rebuild();
    let usage = store.usage();
    assert_eq!((usage.blobs, usage.used_bytes, usage.pinned_bytes), before.totals);
    assert_eq!(usage.index_dropped, 0);

    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = done(store.blobs.list(after, 1000)).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.digest);
        listed.extend(page);
    }
    assert_eq!(listed.len() as u64, before.totals.0);
    let links: usize = listed.iter().map(|entry| entry.places.len()).sum();
    assert_eq!(links, before.blobs.len() * LINKED_EACH, "and none of a registry on port 80");
    let by_digest: HashMap<_, _> = listed.iter().map(|entry| (entry.digest, entry)).collect();
    for (number, digest) in before.blobs.iter().enumerate() {
        let entry = by_digest[digest];
        let known = (entry.size_bytes, entry.last_use, entry.uses, entry.media_type.as_deref());
        assert_eq!(known, (before::size(number), time(number), 1 + number as u32 % 3, before::media_type(number)));
        assert_eq!(entry.places, before::places(number));
    }
    for number in (0..BLOBS).step_by(97) {
        let digest = before.blobs[number];
        assert_eq!(read(store, &digest).unwrap(), before::bytes(number));
        for place in before::places(number) {
            let link = done(store.names.link_of(&place, &digest)).unwrap();
            assert_eq!((link.linked_at, link.public_at), (time(number), None), "{number}");
        }
        assert!(!done(store.names.public_places(&digest, SystemTime::UNIX_EPOCH)));
        let key = before::tag(number);
        let entry = done(store.names.tag(&key)).unwrap();
        assert_eq!((entry.digest, entry.size_bytes, entry.validated_at), (digest, before::size(number), time(number)));
    }
    let plain = origin("plain.example:80");
    let place = Place::new(plain.clone(), "a/b".parse().unwrap());
    assert_eq!(done(store.names.link_of(&place, &before.blobs[0])), None);
    let tag = TagKey { place, tag: "latest".parse().unwrap(), accept_class: 1 };
    assert_eq!(done(store.names.tag(&tag)), None, "what came by plain HTTP is not taken for https");
    assert_eq!(done(store.names.artefact(&origin("npm.example"), "/a.tgz")), None);

    assert_eq!(files_below(&before.root().join("fill")), 0, "bytes that anybody could have sent");
    assert_eq!(store.partial_blobs.paused(&hub(), &before.paused, 0), None);
    let repository = store.repositories.at(&"team/app".parse().unwrap());
    assert_eq!(done(repository.tag(&"v1".parse().unwrap())).unwrap(), Some(before.pushed[1]));
    let manifest = done(repository.manifest(&"v1".parse().unwrap())).unwrap().unwrap();
    assert_eq!((manifest.digest, &*manifest.media_type), (before.pushed[1], before::MANIFEST_TYPE));
    assert!(done(repository.blob(&before.pushed[0])).unwrap().is_some());
    assert!(by_digest[&before.pushed[0]].is_pinned, "and it is never evicted");
    let marked = done(store.blobs.get(&before.blobs[0])).unwrap().unwrap();
    assert_eq!(done(marked.first_origin()), Some(origin("ghcr.io")), "a file's mark from before means https");
}

#[test]
fn a_directory_of_the_release_before_is_upgraded() {
    let before = Before::make();
    assert_eq!(state(before.root()), (false, false));
    let store = Store::open(before.root(), limits(PLENTY)).unwrap();
    check(&store, &before);
    assert!(before.root().join("index.redb.format-1").exists(), "kept while the new one has not ended well once");
    assert!(!before.root().join("index.redb.new").exists());
    let (place, digest, now) = (&before::places(0)[0], before.blobs[0], SystemTime::now());
    done(store.names.prove_public(place, &digest, now));
    assert!(done(store.names.link_of(place, &digest)).unwrap().public_at.is_some(), "it works on from here");
    done(store.names.refuse_public(place, now));
    assert!(store.flush_blocking());
    assert_eq!(state(before.root()), (true, false), "the end of the process in good order");
    drop(store);
    let store = Store::open(before.root(), limits(PLENTY)).unwrap();
    assert_eq!(done(store.names.link_of(place, &digest)).unwrap().public_at, None);
    assert!(done(store.blobs.list(None, 10)).unwrap().len() == 10);
}

#[test]
fn an_upgrade_that_was_killed_begins_again_and_loses_nothing() {
    let before = Before::make();
    let root = before.root();
    let pristine = fs::read(root.join("index.redb")).unwrap();
    let again = || {
        for name in ["index.redb", "index.redb.new", "index.redb.format-1"] {
            let _ = fs::remove_file(root.join(name));
        }
        fs::write(root.join("index.redb"), &pristine).unwrap();
    };

    // Killed after the new index is in its place.
    let inode = fs::metadata(root.join("index.redb")).unwrap().ino();
    let mut child = FirstStart::new(root, None);
    soon("the new index is in its place", || fs::metadata(root.join("index.redb")).unwrap().ino() != inode);
    child.kill();
    assert_eq!(state(root), (true, true));
    let complete = fs::read(root.join("index.redb")).unwrap();
    let store = Store::open(root, limits(PLENTY)).unwrap();
    check(&store, &before);
    drop(store);
    assert_eq!(state(root), (true, true), "a start that came to nothing is no stop in good order");
    let store = Store::open(root, limits(PLENTY)).unwrap();
    assert!(store.flush_blocking());
    assert_eq!(state(root), (true, false));
    drop(store);

    // Killed by the kernel as soon as the new index is longer than a limit.
    let mut cut_short = Vec::new();
    for part in [0, 50, 95] {
        again();
        let limit_bytes = 8192 + complete.len() as u64 * part / 100;
        let status = FirstStart::new(root, Some(limit_bytes)).end();
        assert_eq!(status.signal(), Some(Signal::SIGXFSZ as i32), "{part}: {status}");
        cut_short.push(fs::metadata(root.join("index.redb.new")).unwrap().len());
        assert_eq!(state(root), (false, false), "{part}: the old one is whole, and in its place");
        let store = Store::open(root, limits(PLENTY)).unwrap();
        check(&store, &before);
        drop(store);
    }
    assert!(cut_short[0] < cut_short[2], "{cut_short:?}");

    // Killed between the old index's second name and the rename.
    again();
    fs::write(root.join("index.redb.new"), &complete).unwrap();
    fs::hard_link(root.join("index.redb"), root.join("index.redb.format-1")).unwrap();
    let store = Store::open(root, limits(PLENTY)).unwrap();
    check(&store, &before);
    assert!(store.flush_blocking());
    assert_eq!(state(root), (true, false));
}

#[test]
fn a_later_format_is_refused_by_name() {
    let world = World::new(PLENTY);
    put(&world.store, 1, 10);
    let World { store, dir } = world;
    drop(store);
    let index = dir.path().join("index.redb");
    set_format(&index, 3);
    match Store::open(dir.path(), limits(PLENTY)) {
        Err(StoreError::NewerFormat { path, found: 3, known: 2 }) => assert_eq!(path, index),
        other => panic!("{:?}", other.map(|_| "opened")),
    }
    assert_eq!(files_below(dir.path()), 2, "the index and the blob: nothing is set aside or made anew");
    set_format(&index, 2);
    let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    store.wait_for_rebuild();
    assert_eq!(store.usage().blobs, 1);
    drop(store);
    set_format(&index, 0);
    let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    store.wait_for_rebuild();
    assert_eq!(store.usage().blobs, 1, "no program writes this number: a damaged index, made again from the files");
}

fn set_format(index: &Path, number: u64) {
    let format: TableDefinition<'_, (), u64> = TableDefinition::new("format");
    let database = Database::open(index).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(format).unwrap().insert((), number).unwrap();
    transaction.commit().unwrap();
}

/// A process of its own that opens the store.
struct FirstStart(Child);

impl FirstStart {
    fn new(root: &Path, file_max_bytes: Option<u64>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "tests::upgrade::a_first_start"]).env(DIRECTORY, root);
        command.envs(file_max_bytes.map(|bytes| (FILE_MAX_BYTES, bytes.to_string())));
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn end(mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }
}

#[test]
#[ignore = "a process of its own, which another test starts and kills"]
fn a_first_start() {
    let Some(root) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    if let Ok(bytes) = std::env::var(FILE_MAX_BYTES) {
        let bytes = bytes.parse().unwrap();
        setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes).unwrap();
    }
    let store = Store::open(&root, limits(PLENTY)).unwrap();
    // It ends when the test does, if it is not killed.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    drop(store);
}
