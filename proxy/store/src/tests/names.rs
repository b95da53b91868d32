//! Links, tags, marks and artefacts: visible to every thread at once, and after a restart.

use std::time::{Duration, SystemTime};

use entrepot_core::host::RegistryHost;
use entrepot_core::media::AcceptClass;
use entrepot_core::name::RepositoryName;

use super::*;
use crate::{ArtefactEntry, TagEntry, TagKey};

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

fn repository(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn key(registry: &str, name: &str, tag: &str, accept_class: u16) -> TagKey {
    TagKey { registry: host(registry), repository: repository(name), tag: tag.parse().unwrap(), accept_class }
}

fn entry(digest: Digest, validated_at_s: u64) -> TagEntry {
    let validated_at = SystemTime::UNIX_EPOCH + Duration::from_secs(validated_at_s);
    TagEntry { digest, media_type: "application/x".to_owned(), size_bytes: 7, validated_at }
}

#[test]
fn links_belong_to_one_registry_and_repository() {
    let place = Place::new(PLENTY);
    let (digest, other) = (put(&place.store, 1, 10), put(&place.store, 2, 10));
    let names = [("ghcr.io", "a/b"), ("ghcr.io", "a/c"), ("quay.io:5000", "a/b")];
    for (registry, name) in names {
        place.store.link(&host(registry), &repository(name), &digest);
    }
    assert!(place.store.linked(&host("ghcr.io"), &repository("a/b"), &digest));
    for (registry, name, digest) in
        [("quay.io", "a/b", digest), ("ghcr.io:80", "a/b", digest), ("ghcr.io", "a", digest), ("ghcr.io", "a/b", other)]
    {
        assert!(!place.store.linked(&host(registry), &repository(name), &digest), "{registry} {name}");
    }
    let listed = names.map(|(registry, name)| (host(registry), name.to_owned()));
    assert_eq!(place.store.linked_repositories(&digest), listed);
    assert_eq!(place.store.linked_repositories(&other), []);
    place.store.forget_links(&host("ghcr.io"), &repository("a/c"), &digest);
    assert_eq!(place.store.linked_repositories(&digest).len(), 2);

    place.store.link(&host("ghcr.io"), &repository("a/b"), &other);
    assert!(place.store.remove(&digest).unwrap());
    assert_eq!(place.store.linked_repositories(&digest), [], "links go with the content");
    assert!(place.store.linked(&host("ghcr.io"), &repository("a/b"), &other));
}

#[test]
fn listings_of_links_are_bounded() {
    let place = Place::new(PLENTY);
    let digest = put(&place.store, 1, 10);
    (0..70).for_each(|number| place.store.link(&host("ghcr.io"), &repository(&format!("r{number}")), &digest));
    assert_eq!(place.store.linked_repositories(&digest).len(), 64);
}

#[test]
fn tags_are_kept_by_all_parts_of_their_key() {
    let place = Place::new(PLENTY);
    let (one, two) = (Digest::Sha256([1; 32]), Digest::Sha512([2; 64]));
    let latest = key("ghcr.io", "a/b", "latest", 1);
    place.store.set_tag(latest.clone(), entry(one, 5));
    place.store.set_tag(key("ghcr.io", "a/b", "latest", u16::MAX), entry(two, 6));
    place.store.set_tag(key("ghcr.io", "a/b", "latest2", 1), entry(two, 6));
    place.store.set_tag(key("quay.io", "a/b", "latest", 1), entry(two, 6));
    assert_eq!(place.store.tag(&latest), Some(entry(one, 5)));
    assert_eq!(place.store.tag(&key("ghcr.io", "a/b", "latest", u16::MAX)), Some(entry(two, 6)));
    assert_eq!(place.store.tag(&key("ghcr.io", "a/b", "latest", 2)), None);

    let all = || place.store.tag_in_all_classes(&latest.registry, &latest.repository, &latest.tag);
    let class = AcceptClass::from_bits;
    assert_eq!(all(), [(class(u16::MAX), entry(two, 6)), (class(1), entry(one, 5))], "the last seen first");
    place.store.forget_tag(&latest.registry, &latest.repository, &latest.tag);
    assert_eq!(all(), []);
    assert_eq!(place.store.tag(&latest), None);
    assert_eq!(place.store.tag(&key("ghcr.io", "a/b", "latest", u16::MAX)), None);
    assert!(place.store.tag(&key("ghcr.io", "a/b", "latest2", 1)).is_some());
    assert!(place.store.tag(&key("quay.io", "a/b", "latest", 1)).is_some());
}

#[test]
fn everything_survives_a_restart() {
    let place = Place::new(PLENTY);
    let digest = put(&place.store, 1, 10);
    let (registry, name) = (host("ghcr.io"), repository("a/b"));
    let artefact = ArtefactEntry {
        digest,
        size_bytes: 10,
        content_type: "text/plain".to_owned(),
        headers: vec![("ETag".to_owned(), "\"x\"".to_owned()), ("X-Empty".to_owned(), String::new())],
    };
    let seen = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    place.store.set_tag(key("ghcr.io", "a/b", "latest", 1), entry(digest, 5));
    place.store.link(&registry, &name, &digest);
    place.store.set_media_type(&digest, "application/manifest");
    place.store.mark_public(&registry, &name, seen);
    place.store.mark_public(&registry, &repository("a/c"), seen);
    place.store.unmark_public(&registry, &repository("a/c"));
    place.store.set_artefact(&registry, "/x?y=z", artefact.clone());
    let place = place.restarted();
    assert_eq!(place.store.tag(&key("ghcr.io", "a/b", "latest", 1)), Some(entry(digest, 5)));
    assert!(place.store.linked(&registry, &name, &digest));
    assert_eq!(place.store.media_type(&digest).as_deref(), Some("application/manifest"));
    assert_eq!(place.store.last_public(&registry, &name), Some(seen));
    assert_eq!(place.store.last_public(&registry, &repository("a/c")), None);
    assert_eq!(place.store.artefact(&registry, "/x?y=z"), Some(artefact));
    assert_eq!(place.store.artefact(&registry, "/x"), None);
}

#[test]
fn a_publication_brings_its_type_and_links() {
    let place = Place::new(PLENTY);
    // A file that is found before its row is written would count as a use.
    place.store.wait_for_rebuild();
    let (digest, bytes) = content(1, 10);
    let fill = place.store.begin(&digest, Some(10)).unwrap();
    fill.write_at(0, &bytes).unwrap();
    fill.publish(Some("application/manifest"), &[(host("ghcr.io"), repository("a/b"))]).unwrap();
    let listed = place.store.list(None, 10).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].digest, listed[0].size_bytes, listed[0].uses), (digest, 10, 1));
    assert_eq!(listed[0].media_type.as_deref(), Some("application/manifest"));
    assert_eq!(listed[0].repositories, [(host("ghcr.io"), "a/b".to_owned())]);
}

#[test]
fn an_oversized_artefact_is_not_remembered() {
    let place = Place::new(PLENTY);
    let long = "x".repeat(20_000);
    let artefact = ArtefactEntry {
        digest: Digest::Sha256([0; 32]),
        size_bytes: 0,
        content_type: String::new(),
        headers: Vec::new(),
    };
    place.store.set_artefact(&host("ghcr.io"), &long, artefact);
    assert_eq!(place.store.artefact(&host("ghcr.io"), &long), None);
}

#[test]
fn what_was_not_confirmed_for_long_expires() {
    let place = Place::new(PLENTY);
    let digest = put(&place.store, 1, 10);
    let now = SystemTime::now();
    let (old, gone) = (now - Duration::from_secs(4000), Digest::Sha256([9; 32]));
    let (fresh_tag, old_tag) = (key("ghcr.io", "a/b", "fresh", 1), key("ghcr.io", "a/b", "old", 1));
    place.store.set_tag(fresh_tag.clone(), TagEntry { validated_at: now, ..entry(digest, 0) });
    place.store.set_tag(old_tag.clone(), TagEntry { validated_at: old, ..entry(digest, 0) });
    place.store.mark_public(&host("ghcr.io"), &repository("a/b"), old);
    place.store.link(&host("ghcr.io"), &repository("a/b"), &gone);
    assert_eq!(place.store.expire_unused(now), 0);
    assert!(place.store.tag(&fresh_tag).is_some() && place.store.tag(&old_tag).is_none());
    assert_eq!(place.store.last_public(&host("ghcr.io"), &repository("a/b")), None);
    assert!(place.store.linked(&host("ghcr.io"), &repository("a/b"), &gone), "its fill may still run");

    let reading = place.store.blob(&digest).unwrap().unwrap();
    let later = now + Duration::from_secs(4000);
    assert_eq!(place.store.expire_unused(later), 0, "what is read is not dropped");
    assert!(!place.store.linked(&host("ghcr.io"), &repository("a/b"), &gone), "nobody waits an hour for a fill");
    drop(reading);
    assert_eq!(place.store.expire_unused(later), 1);
    assert!(!place.store.contains(&digest));
    assert_eq!(place.store.usage().used_bytes, 0);
}
