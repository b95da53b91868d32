//! Collection: what nothing needs is taken away, while pushes and pulls go on.
//!
//! First each repository by itself: blobs that none of its manifests names, once nobody pushed or asked for them for the
//! grace period; where asked, manifests that no tag leads to. Then the pins: content that no repository links is the
//! cache's again, or goes where the cache has no use for it either. What is read meanwhile stays readable to its end.
//!
//! Manifests are read without the repository's lock; under it only those are read that came since.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::DirEntry;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use entrepot_core::digest::Digest;
use entrepot_core::media::ManifestInfo;
use entrepot_core::name::{RepositoryName, Tag};

use super::super::errors::StoreError;
use super::super::index::recency;
use super::super::paths::{ALGORITHMS, Kept, digest_of_link};
use super::super::{Store, disk, lock};
use super::files;

/// Links that are held in memory at once while pins are compared with them.
const LINKS_MAX: usize = 500_000;
/// Rows of pinned blobs that are looked at in one go.
const ROWS_MAX: usize = 4096;

/// What a collection is to do.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// How long what was pushed waits for its manifest.
    pub grace: Duration,
    /// Whether manifests that no tag leads to go as well.
    pub untagged: bool,
    /// Whether it only counts.
    pub dry_run: bool,
}

/// What a collection took away, or would.
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
    /// Content that only the cache has a use for now.
    pub kept_by_cache: u64,
    /// Repositories that were left alone because a manifest of theirs cannot be read.
    pub skipped: u64,
}

/// How far a collection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// So many repositories of so many.
    Repositories(u64, u64),
    /// So many of 512 folders of pins.
    Content(u64, u64),
}

/// One collection at work.
struct Sweeper<'s> {
    store: &'s Store,
    sweep: Sweep,
    /// Marked before this: no longer in its grace period.
    before: SystemTime,
    collected: Collected,
    /// In a dry run, links that would be gone.
    would_go: HashSet<(RepositoryName, Digest)>,
}

impl Store {
    /// Collects; none while another collection runs.
    pub fn collect(&self, sweep: Sweep, progress: &mut dyn FnMut(Step)) -> Result<Option<Collected>, StoreError> {
        let Ok(_only) = self.pushed.sweeping.try_lock() else { return Ok(None) };
        let _watching = Watching::begin(self);
        let before = SystemTime::now().checked_sub(sweep.grace).unwrap_or(SystemTime::UNIX_EPOCH);
        let collected = Collected::default();
        let mut sweeper = Sweeper { store: self, sweep, before, collected, would_go: HashSet::new() };
        let repositories = self.all_repositories()?;
        let total = repositories.len() as u64;
        for repository in &repositories {
            if let Err(error) = sweeper.repository(repository) {
                // What a manifest that cannot be read names is not known, so nothing of its repository may go.
                tracing::warn!(%repository, "a repository is not collected: {error}");
                sweeper.collected.skipped += 1;
            }
            sweeper.collected.repositories += 1;
            progress(Step::Repositories(sweeper.collected.repositories, total));
        }
        sweeper.content(&repositories, progress)?;
        if !sweep.dry_run {
            self.correct_pinned_rows();
        }
        Ok(Some(sweeper.collected))
    }

    /// Removes a tag, and the manifest with its children where nothing else leads to them; false where there was none.
    pub fn remove_tagged(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Vec<Digest>>, StoreError> {
        let _turn = self.pushed.lock(repository);
        let Some(digest) = self.pushed_tag(repository, tag)? else { return Ok(None) };
        files::remove(&self.paths.tag(repository, tag))?;
        let mut known = HashMap::new();
        let needed = self.reachable(repository, &mut known)?;
        let mut gone = Vec::new();
        for manifest in self.closure(repository, vec![digest], &mut known)? {
            if !needed.contains(&manifest) && self.remove_manifest_now(repository, &manifest)?.is_some() {
                gone.push(manifest);
            }
        }
        Ok(Some(gone))
    }

    /// The manifests that tags lead to, their children and what refers to them.
    fn reachable(&self, repository: &RepositoryName, known: &mut Children) -> Result<HashSet<Digest>, StoreError> {
        let tagged = self.tagged(repository)?.into_iter().map(|tagged| tagged.digest).collect();
        self.closure(repository, tagged, known)
    }

    fn closure(
        &self,
        repository: &RepositoryName,
        mut open: Vec<Digest>,
        known: &mut Children,
    ) -> Result<HashSet<Digest>, StoreError> {
        let mut found = HashSet::new();
        while let Some(digest) = open.pop() {
            if !found.insert(digest) {
                continue;
            }
            // An index may name what is not here, and a kill leave the entry of a referrer whose manifest never came.
            let is_here = |manifest: &Digest| self.paths.pushed_manifest(repository, manifest).exists();
            let children = known_children(self, known, &digest)?;
            open.extend(children.iter().filter(|child| is_here(child)));
            let referrers = files::names(&self.paths.referrers(repository, &digest))?;
            open.extend(referrers.iter().filter_map(|name| digest_of_link(name)).filter(is_here));
        }
        Ok(found)
    }

    /// Rows that a kill left among the pinned ones without a pin.
    fn correct_pinned_rows(&self) {
        let mut after = None;
        while let Some(rows) = self.index.read(|index| recency::pinned(index, after, ROWS_MAX)) {
            let Some(last) = rows.last() else { return };
            after = Some(last.place);
            rows.iter().filter(|row| !self.is_pinned(&row.digest)).for_each(|row| self.pinning_changed(&row.digest));
        }
    }
}

type Children = HashMap<Digest, Vec<Digest>>;

/// What a manifest names.
fn known_children<'k>(store: &Store, known: &'k mut Children, digest: &Digest) -> Result<&'k [Digest], StoreError> {
    match known.entry(*digest) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(unknown) => {
            let lost = || StoreError::ManifestLost { digest: Box::new(*digest) };
            let manifest = store.manifest_as(digest, "").ok_or_else(lost)?;
            let info = ManifestInfo::inspect(&manifest.bytes).map_err(|_| lost())?;
            Ok(unknown.insert(info.children.into_iter().map(|child| child.digest).collect()))
        }
    }
}

/// Has what is pinned noted, as long as a collection runs.
struct Watching<'s>(&'s Store);

impl<'s> Watching<'s> {
    fn begin(store: &'s Store) -> Self {
        lock(&store.pushed.pins).since_sweep = Some(HashSet::new());
        Self(store)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.pushed.pins.lock().unwrap_or_else(PoisonError::into_inner).since_sweep = None;
    }
}

impl Sweeper<'_> {
    fn repository(&mut self, repository: &RepositoryName) -> Result<(), StoreError> {
        let store = self.store;
        let mut known = Children::new();
        for digest in store.pushed_manifests(repository)? {
            known_children(store, &mut known, &digest)?;
        }
        let _turn = store.pushed.lock(repository);
        let mut manifests = store.pushed_manifests(repository)?;
        if self.sweep.untagged {
            let reachable = store.reachable(repository, &mut known)?;
            for digest in manifests.extract_if(.., |digest| !reachable.contains(digest)).collect::<Vec<_>>() {
                if self.is_young(&store.paths.pushed_manifest(repository, &digest)) {
                    manifests.push(digest);
                    continue;
                }
                self.collected.manifests += 1;
                if self.sweep.dry_run {
                    self.would_go.insert((repository.clone(), digest));
                } else {
                    store.remove_manifest_now(repository, &digest)?;
                }
            }
        }
        let mut needed: HashSet<Digest> = HashSet::new();
        for digest in &manifests {
            needed.extend(known_children(store, &mut known, digest)?);
        }
        for name in files::names(&store.paths.kept(repository, Kept::Blobs))? {
            let Some(digest) = digest_of_link(&name).filter(|digest| !needed.contains(digest)) else { continue };
            let path = store.paths.pushed_blob(repository, &digest);
            if self.is_young(&path) {
                self.collected.waiting += 1;
                continue;
            }
            self.collected.links += 1;
            if self.sweep.dry_run {
                self.would_go.insert((repository.clone(), digest));
            } else {
                // One that a power cut brings back is found by the next collection.
                disk::unlink(&path)?;
            }
        }
        if !self.sweep.dry_run {
            self.remove_drafts(repository);
            store.remove_empty_folders(repository);
        }
        Ok(())
    }

    fn is_young(&self, path: &Path) -> bool {
        // What cannot be told stays.
        files::marked_at(path).is_none_or(|marked| marked > self.before)
    }

    /// Files that a kill left half written. The repository's lock says that none is being written now.
    fn remove_drafts(&self, repository: &RepositoryName) {
        for kept in [Kept::Blobs, Kept::Manifests, Kept::Tags] {
            remove_drafts_in(&self.store.paths.kept(repository, kept));
        }
        for subject in entries(&self.store.paths.kept(repository, Kept::Referrers)) {
            remove_drafts_in(&subject.path());
            files::remove_folder_if_empty(&subject.path());
        }
    }

    /// Compares the pins with all links, in as many passes as memory asks for.
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
                    for name in files::names(&self.store.paths.pins(algorithm, first_byte))? {
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
                for name in files::names(&self.store.paths.kept(repository, kept))? {
                    if let Some(digest) = digest_of_link(&name)
                        && (self.would_go.is_empty() || !self.would_go.contains(&(repository.clone(), digest)))
                    {
                        see(digest);
                    }
                }
            }
        }
        Ok(())
    }

    /// Content that no repository has.
    fn release(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let store = self.store;
        let bytes = std::fs::metadata(store.paths.blob(digest)).map_or(0, |file| file.len());
        let cached = !store.linked_repositories(digest).is_empty();
        if !self.sweep.dry_run {
            if !store.unpin(digest)? {
                return Ok(());
            }
            if !cached {
                // Whoever pins it in between keeps it, and pays for it as the cache does.
                if store.unless_pinned(digest, || store.unlink_blob(digest))?.is_none() {
                    return Ok(());
                }
                store.drop_rows(vec![*digest]);
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

fn remove_drafts_in(folder: &Path) {
    for entry in entries(folder) {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            // What cannot be removed now is looked at again by the next collection.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}
