//! The answers that hits ask for again and again, in memory: small verified manifests, links, tags. A look-up is one
//! short lock and never waits for a disk, so the serving threads make it themselves.
//!
//! ```text
//! names ─► look-up ─ found ─► answer         reads of the index and of files ─► remember, if nothing was
//!              └─ not found ─► the blocking pool ─┘                               forgotten meanwhile (`Epoch`)
//! the index's writer, after each commit ─► forget        unlinking a file ─► forget_content
//! ```
//!
//! Invariants: memory holds only facts that are there, never that something is missing. A fact that was changed or
//! removed in the index is forgotten before the change counts as visible. A result that was read before that is not
//! remembered after it. A public proof counts no more from the moment of a later refusal on, also one that memory held
//! or that is on its way to the index (`standing`). Memory is bounded by bytes, whatever the sizes and numbers of
//! entries.

mod standing;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};
use entrepot_core::origin::Origin;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::entries::{Link, TagEntry, TagKey};
use crate::lock;
use crate::place::Place;
use standing::Standings;

/// Larger manifests are read from their files each time.
const MANIFEST_MAX_BYTES: usize = 64 << 10;
const MANIFESTS_BYTES: u64 = 12 << 20;
const LINKS_BYTES: u64 = 2 << 20;
const TAGS_BYTES: u64 = 2 << 20;
const STANDINGS_BYTES: u64 = 1 << 20;
/// A manifest takes about this many bytes.
const MANIFEST_TYPICAL_BYTES: u64 = 2048;
/// A link or a tag takes about this many bytes.
const NAME_TYPICAL_BYTES: u64 = 512;
/// Bytes of an entry besides its key, its value and their heap: links to its neighbours, and its share of a hash table
/// that has just grown.
const SLOT_BYTES: usize = 64;
/// The most repositories remembered for one digest. Base layers are in a great many.
const REPOSITORIES_MAX: usize = 16;
/// Uses of a manifest reach the index once in this time.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// A stored manifest whose bytes were compared with its digest. Cloning it copies no content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredManifest {
    pub digest: Digest,
    /// The bytes, verbatim.
    pub bytes: Bytes,
    pub media_type: Arc<str>,
    /// When it was stored.
    pub stored_at: Option<SystemTime>,
}

/// The entries that a change of the index makes untrue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stale {
    /// The content is gone, with its type and its links.
    Removed(Digest),
    /// The manifest has another type.
    MediaType(Digest),
    /// The repository no longer has the content, or its link has another proof.
    Link(Place, Digest),
    /// Public proofs of the repository's links ended.
    Proofs(Place),
    /// The tag points elsewhere, or nowhere, for one class of Accept.
    Tag(TagKey),
    /// The tag is forgotten for all classes of Accept.
    TagName(Place, Tag),
    /// Every tag was forgotten.
    Tags,
}

/// The moment before something was read. The result may be remembered only if nothing was forgotten since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Epoch(u64);

pub(crate) struct Memory {
    state: Mutex<State>,
}

struct State {
    epoch: u64,
    manifests: Bounded<Digest, Known>,
    /// The repositories that have a digest.
    links: Bounded<Digest, Vec<(Place, Link)>>,
    tags: Bounded<Arc<TagKey>, TagEntry>,
    /// The standing of repositories and artefacts with anonymous clients.
    standings: Standings,
    /// A refusal up to this time may have been lost. See `standing`.
    standings_floor_ms: u64,
    /// The number of times that the index lost changes.
    losses: u64,
}

/// A cache of a bounded number of bytes. Entries that were not asked for again leave first.
type Bounded<K, V> = Cache<K, Weighed<V>, ByWeight>;

struct Weighed<V> {
    value: V,
    bytes: u64,
}

#[derive(Clone)]
struct ByWeight;

impl<K, V> Weighter<K, Weighed<V>> for ByWeight {
    fn weight(&self, _: &K, weighed: &Weighed<V>) -> u64 {
        weighed.bytes
    }
}

struct Known {
    manifest: StoredManifest,
    touched: Cell<Instant>,
}

impl Default for Memory {
    fn default() -> Self {
        let state = State {
            epoch: 0,
            manifests: bounded(MANIFESTS_BYTES, MANIFEST_TYPICAL_BYTES),
            links: bounded(LINKS_BYTES, NAME_TYPICAL_BYTES),
            tags: bounded(TAGS_BYTES, NAME_TYPICAL_BYTES),
            standings: standing::standings(STANDINGS_BYTES),
            standings_floor_ms: 0,
            losses: 0,
        };
        Self { state: Mutex::new(state) }
    }
}

impl Memory {
    /// To be taken before a read whose result is to be remembered.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(lock(&self.state).epoch)
    }

    /// A manifest that the repository has, with the link, and whether the index is to hear of this use.
    pub(crate) fn manifest(&self, place: &Place, digest: &Digest) -> Option<(StoredManifest, Link, bool)> {
        let state = lock(&self.state);
        let link = state.link_of(place, digest)?;
        let known = &state.manifests.get(digest)?.value;
        let touch = known.touched.get().elapsed() >= TOUCH_INTERVAL;
        if touch {
            known.touched.set(Instant::now());
        }
        Some((known.manifest.clone(), link, touch))
    }

    /// The link of the repository to the content. None means only that memory does not know.
    pub(crate) fn link_of(&self, place: &Place, digest: &Digest) -> Option<Link> {
        lock(&self.state).link_of(place, digest)
    }

    pub(crate) fn tag(&self, key: &TagKey) -> Option<TagEntry> {
        lock(&self.state).tags.get(key).map(|entry| entry.value.clone())
    }

    /// Remembers a manifest whose use the index was just told.
    pub(crate) fn remember_manifest(&self, since: Epoch, manifest: StoredManifest) {
        if manifest.bytes.len() > MANIFEST_MAX_BYTES {
            return;
        }
        let heap_bytes = manifest.bytes.len() + manifest.media_type.len();
        let (digest, known) = (manifest.digest, Known { manifest, touched: Cell::new(Instant::now()) });
        self.remember(since, |state| state.manifests.insert(digest, weighed::<Digest, _>(known, heap_bytes)));
    }

    pub(crate) fn remember_link(&self, since: Epoch, place: &Place, digest: &Digest, link: Link) {
        self.remember(since, |state| {
            let mut places = state.links.remove(digest).map(|(_, places)| places.value).unwrap_or_default();
            places.retain(|(known, _)| known != place);
            if places.len() >= REPOSITORIES_MAX {
                places.remove(0);
            }
            places.push((place.clone(), link));
            let names_bytes = places.iter().map(|(place, _)| heap_bytes_of(place)).sum::<usize>();
            let heap_bytes = names_bytes + places.capacity() * size_of::<(Place, Link)>();
            state.links.insert(*digest, weighed::<Digest, _>(places, heap_bytes));
        });
    }

    pub(crate) fn remember_tag(&self, since: Epoch, key: &TagKey, entry: &TagEntry) {
        let names_bytes = heap_bytes_of(&key.place) + key.tag.as_str().len();
        let heap_bytes = size_of::<TagKey>() + names_bytes + entry.media_type.len();
        let entry = weighed::<Arc<TagKey>, _>(entry.clone(), heap_bytes);
        self.remember(since, |state| state.tags.insert(Arc::new(key.clone()), entry));
    }

    /// Forgets the entries that changes of the index made untrue.
    pub(crate) fn forget(&self, stale: &[Stale]) {
        if stale.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        state.epoch += 1;
        stale.iter().for_each(|stale| state.forget(stale));
        let ended: HashSet<_> = stale.iter().filter_map(Stale::ended_proofs).collect();
        if !ended.is_empty() {
            // The other repositories of a digest are read again soon.
            state.links.retain(|_, places| {
                !places.value.iter().any(|(place, link)| link.public_at.is_some() && ended.contains(place))
            });
        }
    }

    /// Forgets the bytes of a digest whose file is being removed.
    pub(crate) fn forget_content(&self, digest: &Digest) {
        let mut state = lock(&self.state);
        state.epoch += 1;
        state.manifests.remove(digest);
    }

    /// Forgets everything, because the index lost changes or is closed.
    pub(crate) fn clear(&self) {
        let mut state = lock(&self.state);
        state.epoch += 1;
        state.manifests.clear();
        state.links.clear();
        state.tags.clear();
        state.losses += 1;
    }

    fn remember(&self, since: Epoch, remember: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        if Epoch(state.epoch) == since {
            remember(&mut state);
        }
    }
}

/// A cache of `bytes` for entries of about `typical_bytes`. Keys that were evicted lately keep a slot without a weight,
/// half as many as typical entries fit.
fn bounded<K: std::hash::Hash + Eq, V>(bytes: u64, typical_bytes: u64) -> Bounded<K, V> {
    Cache::with_weighter((bytes / typical_bytes) as usize, bytes, ByWeight)
}

/// A value for the key type `K`; `heap_bytes` is the heap of key and value together. The slots lie in one array that
/// doubles when it is full, so an entry may take two of them.
fn weighed<K, V>(value: V, heap_bytes: usize) -> Weighed<V> {
    let bytes = heap_bytes.saturating_add(2 * size_of::<(K, Weighed<V>)>() + SLOT_BYTES);
    Weighed { value, bytes: bytes as u64 }
}

/// The heap bytes of a place that is not shared.
fn heap_bytes_of(place: &Place) -> usize {
    size_of::<(Origin, RepositoryName)>() + place.origin().host.name().len() + place.repository().as_str().len()
}

impl State {
    fn link_of(&self, place: &Place, digest: &Digest) -> Option<Link> {
        let places = &self.links.get(digest)?.value;
        let link = places.iter().find(|(known, _)| known == place)?.1;
        Some(self.as_it_counts(&place.into(), link))
    }

    fn forget(&mut self, stale: &Stale) {
        match stale {
            Stale::Removed(digest) => {
                self.manifests.remove(digest);
                self.links.remove(digest);
            }
            Stale::MediaType(digest) => drop(self.manifests.remove(digest)),
            // The other repositories of the digest are read again soon.
            Stale::Link(_, digest) => drop(self.links.remove(digest)),
            Stale::Tag(key) => drop(self.tags.remove(key)),
            Stale::TagName(place, tag) => self.tags.retain(|key, _| key.tag != *tag || key.place != *place),
            Stale::Tags => self.tags.clear(),
            // All of them together cost one walk.
            Stale::Proofs(_) => {}
        }
    }
}

impl Stale {
    fn ended_proofs(&self) -> Option<&Place> {
        match self {
            Self::Proofs(place) => Some(place),
            _ => None,
        }
    }
}
