//! Files are the truth: what a wrong index may cost, and what becomes of bytes that rotted.

use std::path::PathBuf;
use std::time::SystemTime;

use super::*;
use crate::index::Job;
use crate::paths::Paths;
use crate::{Sweep, Untagged, UploadFile, UploadId, Verified};

const BYTES: usize = 5000;

/// Whose content it is.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Cached,
    Pushed,
}

const KINDS: [Kind; 2] = [Kind::Cached, Kind::Pushed];

struct Known {
    world: World,
    digest: Digest,
    bytes: Vec<u8>,
    kind: Kind,
}

impl Known {
    /// A store that was opened anew since the content came, so no file is open.
    fn new(kind: Kind) -> Self {
        let world = World::new(PLENTY);
        let (digest, bytes) = content(1, BYTES);
        done(world.store.partial_blobs.put(&digest, bytes.clone().into())).unwrap();
        if kind == Kind::Pushed {
            assert!(done(world.store.repositories.at(&"app".parse().unwrap()).link(&digest)).unwrap());
        }
        world.store.wait_for_rebuild();
        let world = world.restarted();
        world.store.wait_for_rebuild();
        Self { world, digest, bytes, kind }
    }

    fn path(&self) -> PathBuf {
        Paths::new(self.world.dir.path()).blob(&self.digest)
    }

    fn aside(&self) -> PathBuf {
        Paths::new(self.world.dir.path()).aside(&self.digest)
    }

    /// Pushes or fetches the right bytes again.
    fn bring_again(&self) {
        let store = &self.world.store;
        match self.kind {
            Kind::Cached => {
                done(store.partial_blobs.put(&self.digest, self.bytes.clone().into())).unwrap();
            }
            Kind::Pushed => done(async {
                let file = UploadFile::of(UploadId::random().unwrap());
                let upload = Arc::new(store.uploads.open(&file).await.unwrap());
                upload.write(0, self.bytes.clone().into()).await.unwrap();
                let _hold = store.repositories.hold(&self.digest).await.unwrap();
                upload.publish_upload(&self.digest, BYTES as u64).await.unwrap();
                assert!(store.repositories.at(&"app".parse().unwrap()).link(&self.digest).await.unwrap());
            }),
        }
    }
}

#[test]
fn an_index_that_is_wrong_costs_no_file() {
    type Damage = fn(u64, u8, u64) -> (u64, u8, u64);
    let damages: [(&str, Damage); 8] = [
        ("lowest bit of the size", |size, segment, used| (size ^ 1, segment, used)),
        ("a bit of the size", |size, segment, used| (size ^ 64, segment, used)),
        ("a high bit of the size", |size, segment, used| (size ^ (1 << 40), segment, used)),
        ("highest bit of the size", |size, segment, used| (size ^ (1 << 63), segment, used)),
        ("no size", |_, segment, used| (0, segment, used)),
        ("probation", |size, _, used| (size, 0, used)),
        ("protected", |size, _, used| (size, 1, used)),
        ("size and segment", |size, _, used| (size + 1, 0, used)),
    ];
    for kind in KINDS {
        for (name, damage) in damages {
            let known = Known::new(kind);
            let store = &known.world.store;
            let digest = known.digest;
            assert!(store.index.change(Job::new(move |tables| tables.damage(&digest, damage))));
            assert_eq!(read(store, &digest).unwrap(), known.bytes, "{kind:?}: {name}");
            assert_eq!(std::fs::read(known.path()).unwrap(), known.bytes, "{kind:?}: {name}");
            assert_eq!((store.usage().quarantined, known.aside().exists()), (0, false), "{kind:?}: {name}");
            let usage = store.usage();
            assert_eq!((usage.used_bytes + usage.pinned_bytes, usage.blobs), (BYTES as u64, 1), "{kind:?}: {name}");
            let sweep = Sweep { grace: Duration::ZERO, untagged: Untagged::All, dry_run: false };
            if kind == Kind::Pushed {
                // Not by collections and limits either, until nothing links it.
                store.set_limits(limits(1));
                done(store.expire_unused(SystemTime::now() + Duration::from_secs(7200)));
                assert_eq!(read(store, &digest).unwrap(), known.bytes, "{kind:?}: {name}: limits");
                assert_eq!(done(store.clear()).unwrap().blobs, 0, "{kind:?}: {name}");
                assert_eq!(read(store, &digest).unwrap(), known.bytes, "{kind:?}: {name}: cleared");
                done(store.repositories.at(&"app".parse().unwrap()).remove_blob(&digest)).unwrap();
                done(store.repositories.collect(sweep, |_| {})).unwrap();
                assert!(!known.path().exists(), "{kind:?}: {name}: no longer needed");
            }
        }
    }
}

#[test]
fn a_size_that_was_corrected_stays_so() {
    for kind in KINDS {
        let known = Known::new(kind);
        let digest = known.digest;
        let change = Job::new(move |tables| tables.damage(&digest, |size, segment, used| (size ^ 2, segment, used)));
        assert!(known.world.store.index.change(change));
        let world = known.world.restarted();
        assert_eq!(read(&world.store, &digest).unwrap(), known.bytes, "{kind:?}");
        let world = world.restarted();
        let listed = done(world.store.blobs.list(None, 10)).unwrap();
        assert_eq!(listed.iter().map(|entry| entry.size_bytes).collect::<Vec<_>>(), [BYTES as u64], "{kind:?}");
    }
}

#[test]
fn what_rotted_is_found_and_mended_by_what_comes_again() {
    type Rot = fn(&[u8]) -> Vec<u8>;
    let rots: [(&str, Rot); 5] = [
        ("a flipped bit", |bytes| bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 4000)).collect()),
        ("zeros", |bytes| vec![0; bytes.len()]),
        ("truncated", |bytes| bytes[..bytes.len() - 1].to_vec()),
        ("grown", |bytes| [bytes, b"x"].concat()),
        ("emptied", |_| Vec::new()),
    ];
    for kind in KINDS {
        for (name, rot) in rots {
            for found_first in [true, false] {
                let case = format!("{kind:?}, {name}, found first: {found_first}");
                let known = Known::new(kind);
                let store = &known.world.store;
                let rotten = rot(&known.bytes);
                std::fs::write(known.path(), &rotten).unwrap();
                if found_first {
                    if rotten.len() == BYTES {
                        assert_eq!(done(store.blobs.verify(&known.digest)).unwrap(), Verified::Bad, "{case}");
                    }
                    assert_eq!(read(store, &known.digest), None, "{case}");
                    assert_eq!(store.usage().quarantined, 1, "{case}");
                    match kind {
                        Kind::Pushed => assert_eq!(std::fs::read(known.aside()).unwrap(), rotten, "{case}"),
                        Kind::Cached => assert!(!known.aside().exists(), "{case}"),
                    }
                }
                known.bring_again();
                assert_eq!(read(store, &known.digest).unwrap(), known.bytes, "{case}");
                assert_eq!(std::fs::read(known.path()).unwrap(), known.bytes, "{case}");
                let usage = store.usage();
                assert_eq!((usage.used_bytes + usage.pinned_bytes, usage.blobs), (BYTES as u64, 1), "{case}");
            }
        }
    }
}

#[test]
fn a_file_that_was_replaced_after_it_was_judged_stays() {
    let known = Known::new(Kind::Pushed);
    let store = &known.world.store;
    std::fs::write(known.path(), vec![0; BYTES]).unwrap();
    let judged = crate::blobs::FileId::of(&std::fs::metadata(known.path()).unwrap());
    known.bring_again();
    store.blobs.throw_away(&known.digest, judged);
    assert_eq!(read(store, &known.digest).unwrap(), known.bytes);
    store.blobs.unpublish(&known.digest, judged);
    assert_eq!(read(store, &known.digest).unwrap(), known.bytes, "nor by a publication that failed");
}
