//! Collection: takes away content that is no longer needed, while pushes and pulls go on.
//!
//! First it visits each repository by itself. A blob goes that no manifest of the repository names, once no client
//! pushed it or asked for it during the grace period. On request, manifests that no tag leads to go as well. Then it
//! visits the pins. Content without a link from any repository is the cache's again, or goes if the cache has no use
//! for it either. Content that is being read stays readable to its end.
//!
//! Manifests are read without the repository's lock. Under the lock, only those that came since are read.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::DirEntry;
use std::path::Path;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, SystemTime};

use entrepot_core::digest::Digest;
use entrepot_core::media::ManifestInfo;
use entrepot_core::name::{RepositoryName, Tag};

use super::Tagged;
use super::facts::Facts;
use super::live::LivePushes;
use crate::errors::StoreError;
use crate::index::{Index, names, recency};
use crate::paths::{ALGORITHMS, Kept};
use crate::times::judging_now;
use crate::{disk, small_files};

/// Links that are held in memory at once while pins are compared with them.
const LINKS_MAX: usize = 500_000;
/// Rows of pinned blobs that are looked at together.
const ROWS_MAX: usize = 4096;

/// The settings of a collection.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// How long pushed content waits for its manifest.
    pub grace: Duration,
    /// The manifests that go although nobody deleted them.
    pub untagged: Untagged,
    /// Whether it only counts.
    pub dry_run: bool,
}

/// What becomes of manifests that no tag leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Untagged {
    /// All of them stay.
    Keep,
    /// Those that once had a tag go, so long after the last one left them, with what only they lead to: their children
    /// and their referrers. Those that never had a tag stay, and so does all that anything else leads to.
    After(Duration),
    /// All of them go.
    All,
}

/// The counts of a collection: what it took away, or would take away in a dry run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Collected {
    /// Repositories that were looked at.
    pub repositories: u64,
    /// Manifests without a tag.
    pub manifests: u64,
    /// Links of repositories to blobs.
    pub links: u64,
    /// Links that are still in their grace period.
    pub waiting: u64,
    /// Content that left the disk.
    pub blobs: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Content that stays only because the cache has a use for it.
    pub kept_by_cache: u64,
    /// Repositories that were left alone because one of their manifests cannot be read.
    pub skipped: u64,
}

/// How far a collection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Repositories: how many are done, of how many.
    Repositories(u64, u64),
    /// Folders of pins: how many are done, of 512.
    Content(u64, u64),
}

/// Collects, one collection at a time.
pub(super) struct Collector {
    facts: Arc<Facts>,
    live: Arc<LivePushes>,
    index: Arc<Index>,
    running: Mutex<()>,
}

/// One collection at work.
struct Sweeper<'c> {
    facts: &'c Facts,
    live: &'c LivePushes,
    index: &'c Index,
    sweep: Sweep,
    /// When the collection began.
    began: SystemTime,
    collected: Collected,
    /// Links that a real run would have removed. Empty unless this is a dry run.
    would_go: HashSet<(RepositoryName, Digest)>,
}

impl Collector {
    pub(super) fn new(facts: Arc<Facts>, live: Arc<LivePushes>, index: Arc<Index>) -> Self {
        Self { facts, live, index, running: Mutex::default() }
    }

    /// See [`super::Repositories::collect`].
    pub(super) fn collect(
        &self,
        sweep: Sweep,
        mut progress: impl FnMut(Step),
    ) -> Result<Option<Collected>, StoreError> {
        let _only = match self.running.try_lock() {
            Ok(only) => only,
            Err(TryLockError::WouldBlock) => return Ok(None),
            // An earlier collection panicked. This one begins anew.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let _watching = self.facts.pins.watch();
        let (facts, live, index, began) = (&*self.facts, &*self.live, &*self.index, judging_now());
        let (collected, would_go) = (Collected::default(), HashSet::new());
        let mut sweeper = Sweeper { facts, live, index, sweep, began, collected, would_go };
        let repositories = facts.all()?;
        let total = repositories.len() as u64;
        for repository in &repositories {
            if let Err(error) = sweeper.repository(repository) {
                // The content that an unreadable manifest names is unknown, so nothing of its repository may go.
                tracing::warn!(%repository, "a repository is not collected: {error}");
                sweeper.collected.skipped += 1;
            }
            sweeper.collected.repositories += 1;
            progress(Step::Repositories(sweeper.collected.repositories, total));
        }
        sweeper.content(&repositories, &mut progress)?;
        if !sweep.dry_run {
            sweeper.correct_pinned_rows();
        }
        Ok(Some(sweeper.collected))
    }
}

/// See [`super::Repository::remove_tagged`].
pub(super) fn remove_tagged(
    facts: &Facts,
    repository: &RepositoryName,
    tag: &Tag,
) -> Result<Option<Vec<Digest>>, StoreError> {
    let _turn = facts.lock(repository);
    let Some(digest) = facts.tag(repository, tag)? else { return Ok(None) };
    small_files::remove(&facts.paths.tag(repository, tag))?;
    let mut known = HashMap::new();
    let needed = reachable(facts, repository, &mut known)?;
    let mut gone = Vec::new();
    for manifest in closure(facts, repository, vec![digest], &mut known)? {
        if !needed.contains(&manifest) && facts.remove_manifest_locked(repository, &manifest)?.is_some() {
            gone.push(manifest);
        }
    }
    Ok(Some(gone))
}

/// See [`super::Repository::unneeded_since`].
pub(super) fn unneeded_since(facts: &Facts, repository: &RepositoryName) -> Result<Option<SystemTime>, StoreError> {
    let (mut known, mut needed) = (Children::new(), HashSet::new());
    let _turn = facts.lock(repository);
    for digest in facts.manifests(repository)? {
        needed.extend(known_children(facts, &mut known, &digest)?.iter().copied());
    }
    let blobs = facts.digests_in(&facts.paths.kept(repository, Kept::Blobs))?.into_iter();
    let unneeded = blobs.filter(|digest| !needed.contains(digest));
    let marks = unneeded.filter_map(|digest| small_files::marked_at(&facts.paths.pushed_blob(repository, &digest)));
    Ok(marks.max())
}

/// See [`super::Repository::tag_leading_to`].
pub(super) fn tag_leading_to(
    facts: &Facts,
    repository: &RepositoryName,
    target: &Digest,
    is_wanted: impl Fn(&Tag) -> bool,
) -> Result<Option<Tag>, StoreError> {
    let (mut seen, mut known) = (HashSet::new(), HashMap::new());
    for Tagged { tag, digest } in facts.tagged(repository)? {
        if !is_wanted(&tag) {
            continue;
        }
        // What an earlier tag leads to was looked at.
        let mut open = vec![digest];
        while let Some(digest) = open.pop() {
            if digest == *target {
                return Ok(Some(tag));
            }
            if seen.insert(digest) && facts.paths.pushed_manifest(repository, &digest).exists() {
                open.extend(known_children(facts, &mut known, &digest)?);
            }
        }
    }
    Ok(None)
}

type Children = HashMap<Digest, Vec<Digest>>;

/// The manifests that tags lead to, their children, and their referrers.
fn reachable(facts: &Facts, repository: &RepositoryName, known: &mut Children) -> Result<HashSet<Digest>, StoreError> {
    let tagged = facts.tagged(repository)?.into_iter().map(|tagged| tagged.digest).collect();
    closure(facts, repository, tagged, known)
}

fn closure(
    facts: &Facts,
    repository: &RepositoryName,
    mut open: Vec<Digest>,
    known: &mut Children,
) -> Result<HashSet<Digest>, StoreError> {
    let mut found = HashSet::new();
    while let Some(digest) = open.pop() {
        if !found.insert(digest) {
            continue;
        }
        // An index may name manifests that are not here. A kill may leave the entry of a referrer whose manifest never
        // came.
        let is_here = |manifest: &Digest| facts.paths.pushed_manifest(repository, manifest).exists();
        let children = known_children(facts, known, &digest)?;
        open.extend(children.iter().filter(|child| is_here(child)));
        let referrers = facts.digests_in(&facts.paths.referrers(repository, &digest))?;
        open.extend(referrers.into_iter().filter(is_here));
    }
    Ok(found)
}

/// The digests that a manifest names.
fn known_children<'k>(facts: &Facts, known: &'k mut Children, digest: &Digest) -> Result<&'k [Digest], StoreError> {
    match known.entry(*digest) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(unknown) => {
            let lost = || StoreError::ManifestLost { digest: Box::new(*digest) };
            let (_, bytes) = facts.blobs.manifest_blocking(digest).ok_or_else(lost)?;
            let info = ManifestInfo::inspect(&bytes).map_err(|_| lost())?;
            Ok(unknown.insert(info.children.into_iter().map(|child| child.digest).collect()))
        }
    }
}

impl Sweeper<'_> {
    fn repository(&mut self, repository: &RepositoryName) -> Result<(), StoreError> {
        let facts = self.facts;
        let mut known = Children::new();
        for digest in facts.manifests(repository)? {
            known_children(facts, &mut known, &digest)?;
        }
        let _turn = facts.lock(repository);
        let before = self.grace_ended_before(repository);
        let mut manifests = facts.manifests(repository)?;
        let needed_by_all = match self.sweep.untagged {
            Untagged::Keep => None,
            Untagged::After(age) => Some(self.needed_after(repository, &manifests, age, &mut known)?),
            Untagged::All => Some(reachable(facts, repository, &mut known)?),
        };
        if let Some(needed) = needed_by_all {
            for digest in manifests.extract_if(.., |digest| !needed.contains(digest)).collect::<Vec<_>>() {
                if is_young(&facts.paths.pushed_manifest(repository, &digest), before) {
                    manifests.push(digest);
                    continue;
                }
                self.collected.manifests += 1;
                if self.sweep.dry_run {
                    self.would_go.insert((repository.clone(), digest));
                } else {
                    facts.remove_manifest_locked(repository, &digest)?;
                }
            }
        }
        let mut needed: HashSet<Digest> = HashSet::new();
        for digest in &manifests {
            needed.extend(known_children(facts, &mut known, digest)?);
        }
        for digest in facts.digests_in(&facts.paths.kept(repository, Kept::Blobs))? {
            if needed.contains(&digest) {
                continue;
            }
            let path = facts.paths.pushed_blob(repository, &digest);
            if is_young(&path, before) {
                self.collected.waiting += 1;
                continue;
            }
            self.collected.links += 1;
            if self.sweep.dry_run {
                self.would_go.insert((repository.clone(), digest));
            } else {
                // A link that a power cut brings back is found by the next collection.
                if disk::unlink(&path)? {
                    facts.dropped(repository, &digest);
                }
            }
        }
        if !self.sweep.dry_run {
            self.remove_drafts(repository);
            facts.remove_empty_folders(repository);
        }
        Ok(())
    }

    /// The manifests that stay if those go whose last tag left them so long ago.
    fn needed_after(
        &self,
        repository: &RepositoryName,
        manifests: &[Digest],
        age: Duration,
        known: &mut Children,
    ) -> Result<HashSet<Digest>, StoreError> {
        let facts = self.facts;
        let before = self.began.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let left_at = |digest: &Digest| facts.untagged_at(repository, digest);
        let left_long_ago = |digest: &Digest| left_at(digest).is_some_and(|at| at < before);
        let go: Vec<Digest> = manifests.iter().copied().filter(left_long_ago).collect();
        if go.is_empty() {
            return Ok(manifests.iter().copied().collect());
        }
        let led_to = closure(facts, repository, go, known)?;
        // Those that a tag left lately, and those that nothing which goes leads to, stay for their own sake.
        let own = |digest: &&Digest| !led_to.contains(*digest) || left_at(digest).is_some_and(|at| at >= before);
        let mut roots: Vec<Digest> = manifests.iter().filter(own).copied().collect();
        roots.extend(facts.tagged(repository)?.into_iter().map(|tagged| tagged.digest));
        closure(facts, repository, roots, known)
    }

    /// A file of the repository that was marked before this time is past its grace period. What was young when a push
    /// began is young as long as that runs.
    fn grace_ended_before(&self, repository: &RepositoryName) -> SystemTime {
        let counted_from = self.live.oldest(repository).map_or(self.began, |begun_at| begun_at.min(self.began));
        counted_from.checked_sub(self.sweep.grace).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Removes files that a kill left half written. The repository's lock guarantees that none is being written now.
    fn remove_drafts(&self, repository: &RepositoryName) {
        for kept in [Kept::Blobs, Kept::Manifests, Kept::Tags] {
            remove_drafts_in(&self.facts.paths.kept(repository, kept));
        }
        for subject in entries(&self.facts.paths.kept(repository, Kept::Referrers)) {
            remove_drafts_in(&subject.path());
            small_files::remove_folder_if_empty(&subject.path());
        }
    }

    /// Compares the pins with all links, in as many passes as the bound on memory requires.
    fn content(&mut self, repositories: &[RepositoryName], progress: &mut dyn FnMut(Step)) -> Result<(), StoreError> {
        let mut count = 0;
        self.each_link(repositories, |_| count += 1)?;
        let passes = u8::try_from(count / LINKS_MAX + 1).unwrap_or(u8::MAX);
        let folders = ALGORITHMS.len() as u64 * 256;
        let mut done = 0;
        for pass in 0..passes {
            let mut linked = HashSet::new();
            self.each_link(repositories, |digest| {
                if digest.bytes()[0] % passes == pass {
                    linked.insert(digest);
                }
            })?;
            for algorithm in ALGORITHMS {
                for first_byte in (pass..=u8::MAX).step_by(usize::from(passes)) {
                    for name in small_files::names(&self.facts.paths.pins(algorithm, first_byte))? {
                        let pinned = format!("{}:{name}", algorithm.name()).parse::<Digest>();
                        if let Some(digest) = pinned.ok().filter(|digest| !linked.contains(digest)) {
                            self.release(&digest)?;
                        }
                    }
                    done += 1;
                    progress(Step::Content(done, folders));
                }
            }
        }
        Ok(())
    }

    fn each_link(&self, repositories: &[RepositoryName], mut see: impl FnMut(Digest)) -> Result<(), StoreError> {
        for repository in repositories {
            for kept in [Kept::Blobs, Kept::Manifests] {
                for digest in self.facts.digests_in(&self.facts.paths.kept(repository, kept))? {
                    if self.would_go.is_empty() || !self.would_go.contains(&(repository.clone(), digest)) {
                        see(digest);
                    }
                }
            }
        }
        Ok(())
    }

    /// Corrects rows that a kill left among the pinned ones without a pin.
    fn correct_pinned_rows(&self) {
        let (pins, mut after) = (&self.facts.pins, None);
        while let Some(rows) = self.index.read(|index| recency::pinned(index, after, ROWS_MAX)) {
            let Some(last) = rows.last() else { return };
            after = Some(last.position);
            rows.iter().filter(|row| !pins.is_pinned(&row.digest)).for_each(|row| pins.changed(&row.digest));
        }
    }

    /// Releases content that no repository has.
    fn release(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let facts = self.facts;
        let bytes = facts.blobs.size_blocking(digest).unwrap_or(0);
        let places = self.index.read(|index| names::places(index, digest, 1));
        // Without an answer of the index it stays.
        let cached = places.is_none_or(|places| !places.is_empty());
        if !self.sweep.dry_run {
            if !facts.pins.unpin(digest)? {
                return Ok(());
            }
            if !cached {
                // If it is pinned in between, it stays and counts as pushed content again.
                if facts.pins.unless_pinned(digest, || facts.blobs.unlink(digest))?.is_none() {
                    return Ok(());
                }
                facts.blobs.drop_rows(vec![*digest]);
            }
        }
        match cached {
            true => self.collected.kept_by_cache += 1,
            false => {
                self.collected.blobs += 1;
                self.collected.bytes += bytes;
            }
        }
        Ok(())
    }
}

fn is_young(path: &Path, before: SystemTime) -> bool {
    // If the time is unknown, the file stays.
    small_files::marked_at(path).is_none_or(|marked| marked > before)
}

fn remove_drafts_in(folder: &Path) {
    for entry in entries(folder) {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            // A file that cannot be removed now is found again by the next collection.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}
