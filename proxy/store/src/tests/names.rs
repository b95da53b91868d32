//! Links, tags, marks and artefacts: visible to every thread at once, and after a restart.

use std::time::{Duration, SystemTime};

use entrepot_core::host::RegistryHost;
use entrepot_core::media::AcceptClass;

use super::*;
use crate::{ArtefactEntry, Place, TagEntry, TagKey};

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

fn place(registry: &str, repository: &str) -> Place {
    Place::new(host(registry), repository.parse().unwrap())
}

fn key(registry: &str, name: &str, tag: &str, accept_class: u16) -> TagKey {
    TagKey { place: place(registry, name), tag: tag.parse().unwrap(), accept_class }
}

fn entry(digest: Digest, validated_at_s: u64) -> TagEntry {
    let validated_at = SystemTime::UNIX_EPOCH + Duration::from_secs(validated_at_s);
    TagEntry { digest, media_type: "application/x".to_owned(), size_bytes: 7, validated_at }
}

#[test]
fn links_belong_to_one_registry_and_repository() {
    let world = World::new(PLENTY);
    let (digest, other) = (put(&world.store, 1, 10), put(&world.store, 2, 10));
    let names = [("ghcr.io", "a/b"), ("ghcr.io", "a/c"), ("quay.io:5000", "a/b")];
    for (registry, name) in names {
        done(world.store.names.link(&place(registry, name), &digest));
    }
    assert!(done(world.store.names.linked(&place("ghcr.io", "a/b"), &digest)));
    for (registry, name, digest) in
        [("quay.io", "a/b", digest), ("ghcr.io:80", "a/b", digest), ("ghcr.io", "a", digest), ("ghcr.io", "a/b", other)]
    {
        assert!(!done(world.store.names.linked(&place(registry, name), &digest)), "{registry} {name}");
    }
    let listed = names.map(|(registry, name)| place(registry, name));
    assert_eq!(done(world.store.names.places(&digest)), listed);
    assert_eq!(done(world.store.names.places(&other)), []);
    done(world.store.names.unlink(&place("ghcr.io", "a/c"), &digest));
    assert_eq!(done(world.store.names.places(&digest)).len(), 2);

    done(world.store.names.link(&place("ghcr.io", "a/b"), &other));
    assert!(world.store.blobs.discard(&digest).unwrap());
    assert_eq!(done(world.store.names.places(&digest)), [], "links go with the content");
    assert!(done(world.store.names.linked(&place("ghcr.io", "a/b"), &other)));
}

#[test]
fn listings_of_links_are_bounded() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 10);
    (0..70).for_each(|number| done(world.store.names.link(&place("ghcr.io", &format!("r{number}")), &digest)));
    assert_eq!(done(world.store.names.places(&digest)).len(), 64);
}

#[test]
fn tags_are_kept_by_all_parts_of_their_key() {
    let world = World::new(PLENTY);
    let (one, two) = (Digest::Sha256([1; 32]), Digest::Sha512([2; 64]));
    let latest = key("ghcr.io", "a/b", "latest", 1);
    done(world.store.names.set_tag(latest.clone(), entry(one, 5)));
    done(world.store.names.set_tag(key("ghcr.io", "a/b", "latest", u16::MAX), entry(two, 6)));
    done(world.store.names.set_tag(key("ghcr.io", "a/b", "latest2", 1), entry(two, 6)));
    done(world.store.names.set_tag(key("quay.io", "a/b", "latest", 1), entry(two, 6)));
    assert_eq!(done(world.store.names.tag(&latest)), Some(entry(one, 5)));
    assert_eq!(done(world.store.names.tag(&key("ghcr.io", "a/b", "latest", u16::MAX))), Some(entry(two, 6)));
    assert_eq!(done(world.store.names.tag(&key("ghcr.io", "a/b", "latest", 2))), None);

    let all = || done(world.store.names.tag_in_all_classes(&latest.place, &latest.tag));
    let class = AcceptClass::from_bits;
    assert_eq!(all(), [(class(u16::MAX), entry(two, 6)), (class(1), entry(one, 5))], "the last seen first");
    done(world.store.names.forget_tag(&latest.place, &latest.tag));
    assert_eq!(all(), []);
    assert_eq!(done(world.store.names.tag(&latest)), None);
    assert_eq!(done(world.store.names.tag(&key("ghcr.io", "a/b", "latest", u16::MAX))), None);
    assert!(done(world.store.names.tag(&key("ghcr.io", "a/b", "latest2", 1))).is_some());
    assert!(done(world.store.names.tag(&key("quay.io", "a/b", "latest", 1))).is_some());
}

#[test]
fn everything_survives_a_restart() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 10);
    let (registry, kept, other) = (host("ghcr.io"), place("ghcr.io", "a/b"), place("ghcr.io", "a/c"));
    let artefact = ArtefactEntry {
        digest,
        size_bytes: 10,
        content_type: "text/plain".to_owned(),
        headers: vec![("ETag".to_owned(), "\"x\"".to_owned()), ("X-Empty".to_owned(), String::new())],
    };
    let seen = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    done(world.store.names.set_tag(key("ghcr.io", "a/b", "latest", 1), entry(digest, 5)));
    done(world.store.names.link(&kept, &digest));
    done(world.store.names.set_media_type(&digest, "application/manifest"));
    done(world.store.names.mark_public(&kept, seen));
    done(world.store.names.mark_public(&other, seen));
    done(world.store.names.unmark_public(&other));
    done(world.store.names.set_artefact(&registry, "/x?y=z", artefact.clone()));
    let world = world.restarted();
    assert_eq!(done(world.store.names.tag(&key("ghcr.io", "a/b", "latest", 1))), Some(entry(digest, 5)));
    assert!(done(world.store.names.linked(&kept, &digest)));
    let listed = done(world.store.blobs.list(None, 10)).unwrap();
    assert_eq!(listed[0].media_type.as_deref(), Some("application/manifest"));
    assert_eq!(done(world.store.names.last_public(&kept)), Some(seen));
    assert_eq!(done(world.store.names.last_public(&other)), None);
    assert_eq!(done(world.store.names.artefact(&registry, "/x?y=z")), Some(artefact));
    assert_eq!(done(world.store.names.artefact(&registry, "/x")), None);
}

#[test]
fn a_publication_brings_its_links() {
    let world = World::new(PLENTY);
    // A file that is found before its row is written would count as a use.
    world.store.wait_for_rebuild();
    let (digest, bytes) = content(1, 10);
    let partial = Arc::new(done(world.store.partial_blobs.begin(&digest, Some(10))).unwrap());
    done(partial.write(0, bytes.into())).unwrap();
    let blob = done(partial.publish(None, &[place("ghcr.io", "a/b"), place("quay.io", "a/b")])).unwrap();
    assert_eq!(done(blob.first_registry()), Some(host("ghcr.io")), "written on the file");
    done(world.store.names.set_media_type(&digest, "application/manifest"));
    let listed = done(world.store.blobs.list(None, 10)).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].digest, listed[0].size_bytes, listed[0].uses), (digest, 10, 1));
    assert_eq!(listed[0].media_type.as_deref(), Some("application/manifest"));
    assert_eq!(listed[0].places, [place("ghcr.io", "a/b"), place("quay.io", "a/b")]);
}

#[test]
fn an_oversized_artefact_is_not_remembered() {
    let world = World::new(PLENTY);
    let long = "x".repeat(20_000);
    let artefact = ArtefactEntry {
        digest: Digest::Sha256([0; 32]),
        size_bytes: 0,
        content_type: String::new(),
        headers: Vec::new(),
    };
    done(world.store.names.set_artefact(&host("ghcr.io"), &long, artefact));
    assert_eq!(done(world.store.names.artefact(&host("ghcr.io"), &long)), None);
}

#[test]
fn what_was_not_confirmed_for_long_expires() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 10);
    let now = SystemTime::now();
    let (old, gone) = (now - Duration::from_secs(4000), Digest::Sha256([9; 32]));
    let (fresh_tag, old_tag) = (key("ghcr.io", "a/b", "fresh", 1), key("ghcr.io", "a/b", "old", 1));
    done(world.store.names.set_tag(fresh_tag.clone(), TagEntry { validated_at: now, ..entry(digest, 0) }));
    done(world.store.names.set_tag(old_tag.clone(), TagEntry { validated_at: old, ..entry(digest, 0) }));
    done(world.store.names.mark_public(&place("ghcr.io", "a/b"), old));
    done(world.store.names.link(&place("ghcr.io", "a/b"), &gone));
    assert_eq!(done(world.store.expire_unused(now)), 0);
    assert!(done(world.store.names.tag(&fresh_tag)).is_some() && done(world.store.names.tag(&old_tag)).is_none());
    assert_eq!(done(world.store.names.last_public(&place("ghcr.io", "a/b"))), None);
    assert!(done(world.store.names.linked(&place("ghcr.io", "a/b"), &gone)), "its fill may still run");

    let reading = done(world.store.blobs.get(&digest)).unwrap().unwrap();
    let later = now + Duration::from_secs(4000);
    assert_eq!(done(world.store.expire_unused(later)), 0, "what is read is not dropped");
    assert!(!done(world.store.names.linked(&place("ghcr.io", "a/b"), &gone)), "nobody waits an hour for a fill");
    drop(reading);
    assert_eq!(done(world.store.expire_unused(later)), 1);
    assert!(!done(world.store.blobs.contains(&digest)));
    assert_eq!(world.store.usage().used_bytes, 0);
}
