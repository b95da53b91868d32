//! Links, tags and artefacts: visible to every thread at once, and after a restart.

use std::time::{Duration, SystemTime};

use entrepot_core::media::AcceptClass;

use super::*;
use crate::{ArtefactEntry, Link, Place, TagEntry, TagKey};

fn place(registry: &str, repository: &str) -> Place {
    Place::new(origin(registry), repository.parse().unwrap())
}

fn is_linked(world: &World, place: &Place, digest: &Digest) -> bool {
    done(world.store.names.link_of(place, digest)).is_some()
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
        done(world.store.names.link(&place(registry, name), &digest, None));
    }
    assert!(is_linked(&world, &place("ghcr.io", "a/b"), &digest));
    for (registry, name, digest) in [
        ("quay.io", "a/b", digest),
        ("ghcr.io:80", "a/b", digest),
        ("http://quay.io:5000", "a/b", digest),
        ("ghcr.io", "a", digest),
        ("ghcr.io", "a/b", other),
    ] {
        assert!(!is_linked(&world, &place(registry, name), &digest), "{registry} {name}");
    }
    let listed = names.map(|(registry, name)| place(registry, name));
    assert_eq!(done(world.store.names.places(&digest)), listed);
    assert_eq!(done(world.store.names.places(&other)), []);
    done(world.store.names.unlink(&place("ghcr.io", "a/c"), &digest));
    assert_eq!(done(world.store.names.places(&digest)).len(), 2);

    done(world.store.names.link(&place("ghcr.io", "a/b"), &other, None));
    assert!(world.store.blobs.discard(&digest).unwrap());
    assert_eq!(done(world.store.names.places(&digest)), [], "links go with the content");
    assert!(is_linked(&world, &place("ghcr.io", "a/b"), &other));
}

#[test]
fn listings_of_links_are_bounded() {
    let world = World::new(PLENTY);
    let digest = put(&world.store, 1, 10);
    (0..70).for_each(|number| done(world.store.names.link(&place("ghcr.io", &format!("r{number}")), &digest, None)));
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
    let (registry, kept, other) = (origin("ghcr.io"), place("ghcr.io", "a/b"), place("ghcr.io", "a/c"));
    let seen = SystemTime::UNIX_EPOCH + Duration::from_millis(4_000_000_000_123);
    let artefact = ArtefactEntry {
        digest,
        size_bytes: 10,
        content_type: "text/plain".to_owned(),
        headers: vec![("ETag".to_owned(), "\"x\"".to_owned()), ("X-Empty".to_owned(), String::new())],
        link: Link { linked_at: seen, public_at: Some(seen) },
    };
    done(world.store.names.set_tag(key("ghcr.io", "a/b", "latest", 1), entry(digest, 5)));
    done(world.store.names.link(&kept, &digest, Some(seen)));
    done(world.store.names.set_media_type(&digest, "application/manifest"));
    done(world.store.names.link(&other, &digest, Some(seen)));
    done(world.store.names.refuse_public(&other, seen));
    let links = [&kept, &other].map(|place| done(world.store.names.link_of(place, &digest)).unwrap());
    assert_eq!(links.map(|link| link.public_at), [Some(seen), None]);
    done(world.store.names.set_artefact(&registry, "/x?y=z", artefact.clone()));
    let world = world.restarted();
    assert_eq!(done(world.store.names.tag(&key("ghcr.io", "a/b", "latest", 1))), Some(entry(digest, 5)));
    assert_eq!([&kept, &other].map(|place| done(world.store.names.link_of(place, &digest)).unwrap()), links);
    let listed = done(world.store.blobs.list(None, 10)).unwrap();
    assert_eq!(listed[0].media_type.as_deref(), Some("application/manifest"));
    assert_eq!(done(world.store.names.artefact(&registry, "/x?y=z")), Some(artefact));
    assert_eq!(done(world.store.names.artefact(&registry, "/x")), None);
}

#[test]
fn a_publication_brings_its_links() {
    let world = World::new(PLENTY);
    // A file that is found before its row is written would count as a use.
    world.store.wait_for_rebuild();
    let ((digest, bytes), now) = (content(1, 10), SystemTime::now());
    let partial = Arc::new(done(world.store.partial_blobs.begin(&hub(), &digest, Some(10))).unwrap());
    done(partial.write(0, bytes.into())).unwrap();
    let blob =
        done(partial.publish(None, &[(place("http://a.lan", "a/b"), None), (place("quay.io", "a/b"), Some(now))]))
            .unwrap();
    assert_eq!(done(blob.first_origin()), Some(origin("http://a.lan")), "written on the file");
    assert_eq!(done(world.store.names.link_of(&place("http://a.lan", "a/b"), &digest)).unwrap().public_at, None);
    assert!(done(world.store.names.public_places(&digest, now - Duration::from_millis(1))));
    done(world.store.names.set_media_type(&digest, "application/manifest"));
    let listed = done(world.store.blobs.list(None, 10)).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].digest, listed[0].size_bytes, listed[0].uses), (digest, 10, 1));
    assert_eq!(listed[0].media_type.as_deref(), Some("application/manifest"));
    assert_eq!(listed[0].places, [place("http://a.lan", "a/b"), place("quay.io", "a/b")]);
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
        link: Link { linked_at: SystemTime::UNIX_EPOCH, public_at: None },
    };
    done(world.store.names.set_artefact(&origin("ghcr.io"), &long, artefact));
    assert_eq!(done(world.store.names.artefact(&origin("ghcr.io"), &long)), None);
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
    done(world.store.names.link(&place("ghcr.io", "a/b"), &gone, None));
    assert_eq!(done(world.store.expire_unused(now)), 0);
    assert!(done(world.store.names.tag(&fresh_tag)).is_some() && done(world.store.names.tag(&old_tag)).is_none());
    assert!(is_linked(&world, &place("ghcr.io", "a/b"), &gone), "its fill may still run");

    let reading = done(world.store.blobs.get(&digest)).unwrap().unwrap();
    let later = now + Duration::from_secs(4000);
    assert_eq!(done(world.store.expire_unused(later)), 0, "what is read is not dropped");
    assert!(!is_linked(&world, &place("ghcr.io", "a/b"), &gone), "nobody waits an hour for a fill");
    drop(reading);
    assert_eq!(done(world.store.expire_unused(later)), 1);
    assert!(!done(world.store.blobs.contains(&digest)));
    assert_eq!(world.store.usage().used_bytes, 0);
}
