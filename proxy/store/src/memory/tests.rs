//! When each entry is forgotten, and that memory stays bounded.

use std::collections::HashMap;

use entrepot_core::digest::Algorithm;
use proptest::prelude::*;

use super::*;

const LINK: Link = Link { linked_at: SystemTime::UNIX_EPOCH, public_at: None };

fn at(repository: &str) -> Place {
    Place::new("ghcr.io".parse().unwrap(), repository.parse().unwrap())
}

fn key(tag: u8, accept_class: u16) -> TagKey {
    TagKey { place: at("a/b"), tag: format!("v{tag}").parse().unwrap(), accept_class }
}

fn entry(size_bytes: u64) -> TagEntry {
    let digest = Digest::Sha256([0; 32]);
    TagEntry { digest, media_type: "m".to_owned(), size_bytes, validated_at: SystemTime::UNIX_EPOCH }
}

fn manifest(number: u64, len: usize) -> StoredManifest {
    let digest = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
    StoredManifest { digest, bytes: vec![0; len].into(), media_type: "m".into(), stored_at: None }
}

/// The entries that are still in memory, of two manifests, each in two repositories, and two tags in two classes.
fn left_after(stale: &[Stale]) -> String {
    let memory = Memory::default();
    let now = memory.epoch();
    let (one, two) = (manifest(1, 10), manifest(2, 10));
    for manifest in [&one, &two] {
        memory.remember_manifest(now, manifest.clone());
        for name in ["a/b", "c/d"] {
            memory.remember_link(now, &at(name), &manifest.digest, LINK);
        }
    }
    for (tag, class) in [(1, 1), (1, 2), (2, 1)] {
        memory.remember_tag(now, &key(tag, class), &entry(1));
    }
    memory.forget(stale);
    let mut left = Vec::new();
    for (name, manifest) in [("one", &one), ("two", &two)] {
        for place in ["a/b", "c/d"] {
            let linked = memory.link_of(&at(place), &manifest.digest).is_some();
            let known = memory.manifest(&at(place), &manifest.digest).is_some();
            assert!(linked || !known, "nothing is told to who is not known to have it");
            left.extend(linked.then(|| format!("{name}@{place}{}", if known { "" } else { "?" })));
        }
    }
    let tags = [(1, 1), (1, 2), (2, 1)].into_iter().filter(|(tag, class)| memory.tag(&key(*tag, *class)).is_some());
    left.extend(tags.map(|(tag, class)| format!("v{tag}/{class}")));
    left.join(" ")
}

#[test]
fn exactly_what_became_untrue_is_forgotten() {
    let one = manifest(1, 10).digest;
    let tag: Tag = "v1".parse().unwrap();
    let other = Place::new("quay.io".parse().unwrap(), "a/b".parse().unwrap());
    for (stale, left) in [
        (vec![], "one@a/b one@c/d two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Removed(one)], "two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::MediaType(one)], "one@a/b? one@c/d? two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Link(at("a/b"), one)], "two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Tag(key(1, 2))], "one@a/b one@c/d two@a/b two@c/d v1/1 v2/1"),
        (vec![Stale::TagName(at("a/b"), tag.clone())], "one@a/b one@c/d two@a/b two@c/d v2/1"),
        (vec![Stale::TagName(other, tag)], "one@a/b one@c/d two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Tags], "one@a/b one@c/d two@a/b two@c/d"),
        (vec![Stale::Tags, Stale::Removed(one)], "two@a/b two@c/d"),
    ] {
        assert_eq!(left_after(&stale), left, "{stale:?}");
    }
}

#[test]
fn what_was_read_before_a_change_is_not_remembered_after_it() {
    let memory = Memory::default();
    let read = manifest(1, 10);
    let here = at("a/b");
    let changes: [fn(&Memory); 3] = [
        |memory| memory.forget(&[Stale::Tags]),
        |memory| memory.forget_content(&Digest::Sha256([9; 32])),
        Memory::clear,
    ];
    for change in changes {
        let before = memory.epoch();
        change(&memory);
        memory.remember_link(before, &here, &read.digest, LINK);
        memory.remember_manifest(before, read.clone());
        memory.remember_tag(before, &key(1, 1), &entry(1));
        assert!(memory.link_of(&here, &read.digest).is_none() && memory.tag(&key(1, 1)).is_none());
        memory.remember_link(memory.epoch(), &here, &read.digest, LINK);
        assert!(memory.manifest(&here, &read.digest).is_none());
        memory.clear();
    }
}

#[test]
fn memory_is_bounded_by_bytes() {
    let memory = Memory::default();
    let now = memory.epoch();
    memory.remember_manifest(now, manifest(0, MANIFEST_MAX_BYTES + 1));
    assert_eq!(lock(&memory.state).manifests.len(), 0, "too large");
    memory.remember_tag(now, &key(0, 1), &entry(7));
    for number in 0..20_000 {
        let manifest = manifest(number, if number % 2 == 0 { MANIFEST_MAX_BYTES } else { 1 });
        for name in 0..number % 40 {
            memory.remember_link(now, &at(&format!("a/repository{name}")), &manifest.digest, LINK);
        }
        memory.remember_manifest(now, manifest);
        memory.refuse(&(&at(&format!("a/refused{number}"))).into(), number);
        let tag = TagKey { tag: format!("v{number}").parse().unwrap(), ..key(0, 0) };
        memory.remember_tag(now, &tag, &entry(number));
        assert!(memory.tag(&key(0, 1)).is_some(), "it is asked for again and again: {number}");
    }
    let state = lock(&memory.state);
    let (manifests, links, tags) = (state.manifests.len(), state.links.len(), state.tags.len());
    assert!(manifests > 150 && links > 500 && tags > 2000, "{manifests} {links} {tags}");
    assert!(tags < 20_000 && state.links.weight() <= LINKS_BYTES && state.manifests.weight() <= MANIFESTS_BYTES);
    assert!(state.standings.len() > 1000 && state.standings.len() < 20_000, "{}", state.standings.len());
    assert!(state.standings.weight() <= STANDINGS_BYTES);
    let last = Digest::of(Algorithm::Sha256, &19_999_u64.to_le_bytes());
    assert_eq!(state.links.get(&last).map(|places| places.value.len()), Some(REPOSITORIES_MAX));
}

#[test]
fn a_use_is_told_once_a_minute() {
    let memory = Memory::default();
    let (here, read) = (at("a/b"), manifest(1, 10));
    memory.remember_link(memory.epoch(), &here, &read.digest, LINK);
    memory.remember_manifest(memory.epoch(), read.clone());
    let told = || memory.manifest(&here, &read.digest).unwrap().2;
    assert!(!told(), "the index has just been told");
    let minute_ago = Instant::now().checked_sub(TOUCH_INTERVAL).unwrap();
    lock(&memory.state).manifests.get(&read.digest).unwrap().value.touched.set(minute_ago);
    assert_eq!([told(), told()], [true, false]);
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u64),
    Forget(u8),
    ForgetAll,
    BeginRead(u8),
    EndRead,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3u8, any::<u64>()).prop_map(|(tag, value)| Step::Set(tag, value)),
        (0..3u8).prop_map(Step::Forget),
        Just(Step::ForgetAll),
        (0..3u8).prop_map(Step::BeginRead),
        Just(Step::EndRead),
    ]
}

proptest! {
    /// Readers read in the middle of changes of the index. Memory never tells anything but the index's state.
    #[test]
    fn memory_agrees_with_the_index(steps in proptest::collection::vec(step(), 0..200)) {
        let memory = Memory::default();
        let mut index = HashMap::new();
        let mut reading = Vec::new();
        for step in steps {
            match step {
                Step::Set(tag, value) => {
                    index.insert(tag, value);
                    memory.forget(&[Stale::Tag(key(tag, 0))]);
                }
                Step::Forget(tag) => {
                    index.remove(&tag);
                    memory.forget(&[Stale::TagName(at("a/b"), key(tag, 0).tag)]);
                }
                Step::ForgetAll => {
                    index.clear();
                    memory.forget(&[Stale::Tags]);
                }
                Step::BeginRead(tag) => {
                    let since = memory.epoch();
                    reading.extend(index.get(&tag).map(|value| (since, tag, *value)));
                }
                Step::EndRead => {
                    if let Some((since, tag, value)) = reading.pop() {
                        memory.remember_tag(since, &key(tag, 0), &entry(value));
                    }
                }
            }
            for tag in 0..3 {
                let told = memory.tag(&key(tag, 0)).map(|entry| entry.size_bytes);
                prop_assert!(told.is_none() || told.as_ref() == index.get(&tag));
            }
        }
    }
}
