//! Memory answers as the index and the files say, whatever changed them. Also expiry by rounds.

use std::time::SystemTime;

use futures_util::FutureExt;

use super::*;
use crate::index::Job;
use crate::paths::Paths;
use crate::times::ms_of;
use crate::{Place, StoredManifest, TagEntry, TagKey};

const MEDIA_TYPE: &str = "application/manifest";

/// A manifest in two repositories with a tag, all of it in memory.
struct Known {
    world: World,
    here: Place,
    there: Place,
    digest: Digest,
    tag: TagKey,
}

impl Known {
    fn new() -> Self {
        let world = World::new(PLENTY);
        let digest = put(&world.store, 1, 100);
        let at = |repository: &str| Place::new(origin("ghcr.io"), repository.parse().unwrap());
        let (here, there) = (at("a/b"), at("a/c"));
        let tag = TagKey { place: here.clone(), tag: "latest".parse().unwrap(), accept_class: 0 };
        done(world.store.names.set_media_type(&digest, MEDIA_TYPE));
        done(world.store.names.link(&here, &digest, None));
        done(world.store.names.link(&there, &digest, None));
        done(world.store.names.set_tag(tag.clone(), Self::entry(digest, MEDIA_TYPE)));
        let known = Self { world, here, there, digest, tag };
        assert_eq!(known.state(), "", "nothing was asked for yet");
        known.warm();
        known
    }

    fn entry(digest: Digest, media_type: &str) -> TagEntry {
        TagEntry { digest, media_type: media_type.to_owned(), size_bytes: 100, validated_at: SystemTime::UNIX_EPOCH }
    }

    /// The same data with a store that has just started.
    fn cold(self) -> Self {
        Self { world: self.world.restarted(), ..self }
    }

    fn store(&self) -> &Arc<Store> {
        &self.world.store
    }

    fn manifest(&self) -> Option<StoredManifest> {
        done(self.store().names.manifest(&self.here, &self.digest)).map(|(manifest, _)| manifest)
    }

    fn warm(&self) {
        self.manifest();
        done(self.store().names.link_of(&self.there, &self.digest));
        done(self.store().names.tag(&self.tag));
    }

    /// The facts that memory holds.
    fn state(&self) -> String {
        let memory = self.store().names.memory();
        let manifest = memory.manifest(&self.here, &self.digest).map(|(manifest, ..)| manifest);
        let is_known = |place| memory.link_of(place, &self.digest).is_some();
        let tag = memory.tag(&self.tag);
        let parts = [
            manifest.map_or(String::new(), |manifest| {
                assert_eq!(manifest.bytes, content(1, 100).1);
                manifest.media_type.to_string()
            }),
            if is_known(&self.here) { " here" } else { "" }.to_owned(),
            if is_known(&self.there) { " there" } else { "" }.to_owned(),
            tag.map_or(String::new(), |entry| format!(" tag of {}", entry.media_type)),
        ];
        parts.concat().trim().to_owned()
    }
}

#[test]
fn memory_follows_every_change() {
    type Change = fn(&Known);
    let all = "application/manifest here there tag of application/manifest";
    let changes: [(&str, Change, &str); 10] = [
        ("nothing", |_| (), all),
        ("remove", |known| assert!(known.store().blobs.discard(&known.digest).unwrap()), "tag of application/manifest"),
        ("quarantine", |known| known.store().blobs.quarantine(&known.digest), "tag of application/manifest"),
        ("clear", |known| assert_eq!(done(known.store().clear()).unwrap().blobs, 1), ""),
        (
            "eviction",
            |known| {
                known.store().set_limits(limits(10));
                done(known.store().partial_blobs.begin(&hub(), &Digest::Sha256([1; 32]), Some(10))).unwrap();
            },
            "tag of application/manifest",
        ),
        (
            "expiry",
            |known| assert_eq!(done(known.store().expire_unused(SystemTime::now() + Duration::from_secs(4000))), 1),
            "",
        ),
        (
            "forget_links",
            |known| done(known.store().names.unlink(&known.here, &known.digest)),
            "there tag of application/manifest",
        ),
        (
            "forget_tag",
            |known| done(known.store().names.forget_tag(&known.here, &known.tag.tag)),
            "application/manifest here there",
        ),
        (
            "set_tag",
            |known| done(known.store().names.set_tag(known.tag.clone(), Known::entry(known.digest, "another"))),
            "application/manifest here there tag of another",
        ),
        (
            "set_media_type",
            |known| done(known.store().names.set_media_type(&known.digest, "another")),
            "another here there tag of application/manifest",
        ),
    ];
    for (name, change, left) in changes {
        let known = Known::new();
        assert_eq!(known.state(), all, "{name}");
        change(&known);
        let at_once = known.state();
        assert!(
            at_once.split(' ').all(|word| left.split(' ').any(|other| other == word) || word.is_empty()),
            "{name}: {at_once}"
        );
        known.warm();
        assert_eq!(known.state(), left, "{name}");
    }
}

#[test]
fn what_memory_holds_is_ready_at_once() {
    let known = Known::new();
    let names = &known.store().names;
    // Without a runtime, there is no other thread that could answer.
    assert!(names.manifest(&known.here, &known.digest).now_or_never().flatten().is_some());
    assert!(names.link_of(&known.there, &known.digest).now_or_never().flatten().is_some());
    assert!(names.tag(&known.tag).now_or_never().flatten().is_some());
    assert!(known.store().blobs.get(&known.digest).now_or_never().unwrap().unwrap().is_some());
}

#[test]
fn a_manifest_in_memory_is_not_read_again_for_another_repository() {
    let known = Known::new();
    let other = Place::new(origin("ghcr.io"), "a/d".parse().unwrap());
    done(known.store().names.link(&other, &known.digest, None));
    // Reading the file would find it rotten.
    std::fs::write(Paths::new(known.world.dir.path()).blob(&known.digest), content(2, 100).1).unwrap();
    let manifest = done(known.store().names.manifest(&other, &known.digest));
    assert_eq!(manifest.map(|(manifest, _)| manifest.bytes.to_vec()), Some(content(1, 100).1));
}

#[test]
fn a_rotten_manifest_is_not_given_and_not_remembered() {
    let known = Known::new().cold();
    let path = Paths::new(known.world.dir.path()).blob(&known.digest);
    std::fs::write(path, content(2, 100).1).unwrap();
    assert_eq!(known.manifest(), None);
    assert_eq!(known.state(), "");
    assert!(!done(known.store().blobs.contains(&known.digest)), "it is thrown away");
}

#[test]
fn an_index_that_is_replaced_takes_memory_with_it() {
    let known = Known::new();
    let damaged = || Err(redb::Error::Corrupted("as if".to_owned()));
    known.store().index.change(Job::new(move |_| damaged()));
    assert_eq!(known.state(), "");
    done(known.store().flush());
    known.store().wait_for_rebuild();
    known.warm();
    assert_eq!(known.state(), "", "links and tags went with the index");
    assert!(done(known.store().blobs.contains(&known.digest)));
}

#[test]
fn expiry_comes_round_to_every_row() {
    const ROWS: u64 = 40_000;
    let world = World::new(PLENTY);
    let (store, now) = (&world.store, SystemTime::now());
    store.wait_for_rebuild();
    let place = Place::new(origin("ghcr.io"), "a/b".parse().unwrap());
    let digest = |number: u64| Digest::of(Algorithm::Sha256, &number.to_be_bytes());
    for chunk in (0..ROWS).collect::<Vec<_>>().chunks(1000) {
        let (chunk, linked, at_ms) = (chunk.to_vec(), place.clone(), ms_of(now));
        assert!(store.index.change(Job::new(move |tables| {
            chunk.into_iter().map(digest).try_for_each(|digest| {
                tables.published(&digest, 1, at_ms)?;
                tables.link(&linked, &digest, at_ms, 0)
            })
        })));
    }
    assert_eq!(store.usage().blobs, ROWS);
    assert!(done(store.names.link_of(&place, &digest(0))).is_some());
    assert_eq!(done(store.expire_unused(now)), 0);
    let later = now + Duration::from_secs(4000);
    let dropped: Vec<usize> = (0..4).map(|_| done(store.expire_unused(later))).collect();
    assert_eq!(dropped.iter().sum::<usize>() as u64, ROWS, "{dropped:?}");
    assert!(dropped[0] < 20_000 && store.usage().blobs == 0);
    assert_eq!(done(store.names.link_of(&place, &digest(0))), None);
}
