//! What is forgotten when, and that memory stays bounded.

use std::collections::HashMap;

use entrepot_core::digest::Algorithm;
use proptest::prelude::*;

use super::*;

fn host() -> RegistryHost {
    "ghcr.io".parse().unwrap()
}

fn repository(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn key(tag: u8, accept_class: u16) -> TagKey {
    TagKey { registry: host(), repository: repository("a/b"), tag: format!("v{tag}").parse().unwrap(), accept_class }
}

fn entry(size_bytes: u64) -> TagEntry {
    let digest = Digest::Sha256([0; 32]);
    TagEntry { digest, media_type: "m".to_owned(), size_bytes, validated_at: SystemTime::UNIX_EPOCH }
}

fn manifest(number: u64, len: usize) -> StoredManifest {
    let digest = Digest::of(Algorithm::Sha256, &number.to_le_bytes());
    StoredManifest { digest, bytes: vec![0; len].into(), media_type: "m".into(), stored_at: None }
}

/// What of a world of two manifests, each in two repositories, and two tags in two classes is still in memory.
fn left_after(stale: &[Stale]) -> String {
    let hot = Hot::default();
    let now = hot.epoch();
    let (one, two) = (manifest(1, 10), manifest(2, 10));
    for manifest in [&one, &two] {
        hot.remember_manifest(now, manifest.clone());
        for name in ["a/b", "c/d"] {
            hot.remember_link(now, &host(), &repository(name), &manifest.digest);
        }
    }
    for (tag, class) in [(1, 1), (1, 2), (2, 1)] {
        hot.remember_tag(now, &key(tag, class), &entry(1));
    }
    hot.forget(stale);
    let mut left = Vec::new();
    for (name, manifest) in [("one", &one), ("two", &two)] {
        for place in ["a/b", "c/d"] {
            let linked = hot.linked(&host(), &repository(place), &manifest.digest);
            let known = hot.manifest(&host(), &repository(place), &manifest.digest).is_some();
            assert!(linked || !known, "nothing is told to who is not known to have it");
            left.extend(linked.then(|| format!("{name}@{place}{}", if known { "" } else { "?" })));
        }
    }
    let tags = [(1, 1), (1, 2), (2, 1)].into_iter().filter(|(tag, class)| hot.tag(&key(*tag, *class)).is_some());
    left.extend(tags.map(|(tag, class)| format!("v{tag}/{class}")));
    left.join(" ")
}

#[test]
fn exactly_what_became_untrue_is_forgotten() {
    let one = manifest(1, 10).digest;
    let tag: Tag = "v1".parse().unwrap();
    let other: RegistryHost = "quay.io".parse().unwrap();
    for (stale, left) in [
        (vec![], "one@a/b one@c/d two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Removed(one)], "two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::MediaType(one)], "one@a/b? one@c/d? two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Link(host(), repository("a/b"), one)], "two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Tag(key(1, 2))], "one@a/b one@c/d two@a/b two@c/d v1/1 v2/1"),
        (vec![Stale::TagName(host(), repository("a/b"), tag.clone())], "one@a/b one@c/d two@a/b two@c/d v2/1"),
        (vec![Stale::TagName(other, repository("a/b"), tag)], "one@a/b one@c/d two@a/b two@c/d v1/1 v1/2 v2/1"),
        (vec![Stale::Tags], "one@a/b one@c/d two@a/b two@c/d"),
        (vec![Stale::Tags, Stale::Removed(one)], "two@a/b two@c/d"),
    ] {
        assert_eq!(left_after(&stale), left, "{stale:?}");
    }
}

#[test]
fn what_was_read_before_a_change_is_not_remembered_after_it() {
    let hot = Hot::default();
    let read = manifest(1, 10);
    let (host, name) = (host(), repository("a/b"));
    let changes: [fn(&Hot); 3] =
        [|hot| hot.forget(&[Stale::Tags]), |hot| hot.forget_content(&Digest::Sha256([9; 32])), Hot::clear];
    for change in changes {
        let before = hot.epoch();
        change(&hot);
        hot.remember_link(before, &host, &name, &read.digest);
        hot.remember_manifest(before, read.clone());
        hot.remember_tag(before, &key(1, 1), &entry(1));
        assert!(!hot.linked(&host, &name, &read.digest) && hot.tag(&key(1, 1)).is_none());
        hot.remember_link(hot.epoch(), &host, &name, &read.digest);
        assert!(hot.manifest(&host, &name, &read.digest).is_none());
        hot.clear();
    }
}

#[test]
fn memory_is_bounded_by_bytes() {
    let hot = Hot::default();
    let now = hot.epoch();
    hot.remember_manifest(now, manifest(0, MANIFEST_MAX_BYTES + 1));
    assert_eq!(lock(&hot.state).manifests.len(), 0, "too large");
    for number in 0..20_000 {
        let manifest = manifest(number, if number % 2 == 0 { MANIFEST_MAX_BYTES } else { 1 });
        for name in 0..number % 40 {
            hot.remember_link(now, &host(), &repository(&format!("a/repository{name}")), &manifest.digest);
        }
        hot.remember_manifest(now, manifest);
        let tag = TagKey { tag: format!("v{number}").parse().unwrap(), ..key(0, 0) };
        hot.remember_tag(now, &tag, &entry(number));
    }
    let mut state = lock(&hot.state);
    let (manifests, links, tags) = (state.manifests.len(), state.links.len(), state.tags.len());
    assert!(manifests > 150 && links > 500 && tags > 2000, "{manifests} {links} {tags}");
    assert!(tags < 20_000 && state.links.bytes() <= LINKS_BYTES && state.manifests.bytes() <= MANIFESTS_BYTES);
    let last = Digest::of(Algorithm::Sha256, &19_999_u64.to_le_bytes());
    assert_eq!(state.links.get(&last).map(|places| places.len()), Some(REPOSITORIES_MAX));
}

#[test]
fn a_use_is_told_once_a_minute() {
    let hot = Hot::default();
    let (host, name, read) = (host(), repository("a/b"), manifest(1, 10));
    hot.remember_link(hot.epoch(), &host, &name, &read.digest);
    hot.remember_manifest(hot.epoch(), read.clone());
    let told = || hot.manifest(&host, &name, &read.digest).unwrap().1;
    assert!(!told(), "the index has just been told");
    let minute_ago = Instant::now().checked_sub(TOUCH_INTERVAL).unwrap();
    lock(&hot.state).manifests.get(&read.digest).unwrap().touched = minute_ago;
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
    /// Readers that are in the middle of reading while the index changes: memory never tells anything but its state.
    #[test]
    fn memory_agrees_with_the_index(steps in proptest::collection::vec(step(), 0..200)) {
        let hot = Hot::default();
        let mut index = HashMap::new();
        let mut reading = Vec::new();
        for step in steps {
            match step {
                Step::Set(tag, value) => {
                    index.insert(tag, value);
                    hot.forget(&[Stale::Tag(key(tag, 0))]);
                }
                Step::Forget(tag) => {
                    index.remove(&tag);
                    hot.forget(&[Stale::TagName(host(), repository("a/b"), key(tag, 0).tag)]);
                }
                Step::ForgetAll => {
                    index.clear();
                    hot.forget(&[Stale::Tags]);
                }
                Step::BeginRead(tag) => {
                    let since = hot.epoch();
                    reading.extend(index.get(&tag).map(|value| (since, tag, *value)));
                }
                Step::EndRead => {
                    if let Some((since, tag, value)) = reading.pop() {
                        hot.remember_tag(since, &key(tag, 0), &entry(value));
                    }
                }
            }
            for tag in 0..3 {
                let told = hot.tag(&key(tag, 0)).map(|entry| entry.size_bytes);
                prop_assert!(told.is_none() || told.as_ref() == index.get(&tag));
            }
        }
    }
}
