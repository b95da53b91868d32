//! What is answered from memory is what the index and the files say, whatever changed them; and expiry by rounds.

use std::time::SystemTime;

use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;

use super::*;
use crate::index::Job;
use crate::paths::Paths;
use crate::{StoredManifest, TagEntry, TagKey, seed};

const MEDIA_TYPE: &str = "application/manifest";

/// A manifest in two repositories with a tag, all of it in memory.
struct Known {
    place: Place,
    registry: RegistryHost,
    repository: RepositoryName,
    other: RepositoryName,
    digest: Digest,
    tag: TagKey,
}

impl Known {
    fn new() -> Self {
        let place = Place::new(PLENTY);
        let digest = put(&place.store, 1, 100);
        let (registry, repository): (RegistryHost, RepositoryName) =
            ("ghcr.io".parse().unwrap(), "a/b".parse().unwrap());
        let other = "a/c".parse().unwrap();
        let tag = TagKey {
            registry: registry.clone(),
            repository: repository.clone(),
            tag: "latest".parse().unwrap(),
            accept_class: 0,
        };
        place.store.set_media_type(&digest, MEDIA_TYPE);
        place.store.link(&registry, &repository, &digest);
        place.store.link(&registry, &other, &digest);
        place.store.set_tag(tag.clone(), Self::entry(digest, MEDIA_TYPE));
        let known = Self { place, registry, repository, other, digest, tag };
        assert_eq!(known.state(), "", "nothing was asked for yet");
        known.warm();
        known
    }

    fn entry(digest: Digest, media_type: &str) -> TagEntry {
        TagEntry { digest, media_type: media_type.to_owned(), size_bytes: 100, validated_at: SystemTime::UNIX_EPOCH }
    }

    /// With a store that has just started.
    fn cold(self) -> Self {
        Self { place: self.place.restarted(), ..self }
    }

    fn store(&self) -> &Arc<Store> {
        &self.place.store
    }

    fn manifest(&self) -> Option<StoredManifest> {
        self.store().manifest(&self.registry, &self.repository, &self.digest)
    }

    fn warm(&self) {
        self.manifest();
        self.store().linked(&self.registry, &self.other, &self.digest);
        self.store().tag(&self.tag);
    }

    /// What memory holds.
    fn state(&self) -> String {
        let store = self.store();
        let manifest = store.manifest_now(&self.registry, &self.repository, &self.digest);
        let parts = [
            manifest.map_or(String::new(), |manifest| {
                assert_eq!(manifest.bytes, content(1, 100).1);
                manifest.media_type.to_string()
            }),
            if store.linked_now(&self.registry, &self.repository, &self.digest) { " here" } else { "" }.to_owned(),
            if store.linked_now(&self.registry, &self.other, &self.digest) { " there" } else { "" }.to_owned(),
            store.tag_now(&self.tag).map_or(String::new(), |entry| format!(" tag of {}", entry.media_type)),
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
        ("remove", |known| assert!(known.store().remove(&known.digest).unwrap()), "tag of application/manifest"),
        ("quarantine", |known| known.store().quarantine(&known.digest), "tag of application/manifest"),
        ("clear", |known| assert_eq!(known.store().clear().unwrap().blobs, 1), ""),
        (
            "eviction",
            |known| {
                known.store().set_limits(limits(10));
                known.store().begin(&Digest::Sha256([1; 32]), Some(10)).unwrap();
            },
            "tag of application/manifest",
        ),
        (
            "expiry",
            |known| assert_eq!(known.store().expire_unused(SystemTime::now() + Duration::from_secs(4000)), 1),
            "",
        ),
        (
            "forget_links",
            |known| known.store().forget_links(&known.registry, &known.repository, &known.digest),
            "there tag of application/manifest",
        ),
        (
            "forget_tag",
            |known| known.store().forget_tag(&known.registry, &known.repository, &known.tag.tag),
            "application/manifest here there",
        ),
        (
            "set_tag",
            |known| known.store().set_tag(known.tag.clone(), Known::entry(known.digest, "another")),
            "application/manifest here there tag of another",
        ),
        (
            "set_media_type",
            |known| known.store().set_media_type(&known.digest, "another"),
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
fn a_rotten_manifest_is_not_given_and_not_remembered() {
    let known = Known::new().cold();
    let path = Paths::new(known.place.dir.path()).blob(&known.digest);
    std::fs::write(path, content(2, 100).1).unwrap();
    assert_eq!(known.manifest(), None);
    assert_eq!(known.state(), "");
    assert!(!known.store().contains(&known.digest), "it is thrown away");
}

#[test]
fn an_index_that_is_replaced_takes_memory_with_it() {
    let known = Known::new();
    let damaged = || Err(redb::Error::Corrupted("as if".to_owned()));
    known.store().index.change(Job::new(move |_| damaged()));
    assert_eq!(known.state(), "");
    known.store().flush();
    known.store().wait_for_rebuild();
    known.warm();
    assert_eq!(known.state(), "", "links and tags went with the index");
    assert!(known.store().contains(&known.digest));
}

#[test]
fn expiry_comes_round_to_every_row() {
    let dir = TempDir::new().unwrap();
    let count = 40_000;
    let seeded = seed::fill_index(dir.path(), count).unwrap();
    assert_eq!(seeded.blobs, count);
    let store = Store::open(dir.path(), limits(PLENTY)).unwrap();
    store.wait_for_rebuild();
    assert_eq!(store.usage().blobs, count, "rows without files survive a start");
    let manifest = store.manifest(&seeded.registry, &seeded.repository, &seeded.manifest).unwrap();
    assert!((1200..2000).contains(&manifest.bytes.len()), "{}", manifest.bytes.len());
    assert!(store.linked(&seeded.registry, &seeded.repository, &seeded.layer));
    let now = SystemTime::now();
    assert_eq!(store.expire_unused(now), 0);
    let later = now + Duration::from_secs(4000);
    let dropped: Vec<usize> = (0..4).map(|_| store.expire_unused(later)).collect();
    assert_eq!(dropped.iter().sum::<usize>() as u64, count, "{dropped:?}");
    assert!(dropped[0] < 20_000 && store.usage().blobs == 0);
    assert!(!store.linked(&seeded.registry, &seeded.repository, &seeded.layer));
}
