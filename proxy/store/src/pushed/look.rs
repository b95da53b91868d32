//! Reading what was pushed. A repository has content when its link is there and the content is: what was found bad and
//! thrown away is unknown until it is pushed again.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use entrepot_core::referrer::Referrer;

use super::super::blobs::Blob;
use super::super::errors::StoreError;
use super::super::hot::StoredManifest;
use super::super::paths::{Kept, digest_of_link, repository_of_folder};
use super::super::{Store, disk};
use super::{ManifestFile, files};

/// Repositories that are asked for a blob of which nobody said where it is.
const ASKED_MAX: usize = 1000;

/// A tag and where it points.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tagged {
    /// Its name.
    pub tag: Tag,
    /// The manifest.
    pub digest: Digest,
}

impl Store {
    /// The content, if it was pushed to the repository; counts as a use.
    pub fn pushed_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<Arc<Blob>>, StoreError> {
        if disk::open(&self.paths.pushed_blob(repository, digest))?.is_none() {
            return Ok(None);
        }
        self.blob(digest)
    }

    /// The same for somebody who pushes and will rely on it: a collection leaves it alone for its grace period.
    pub fn confirm_pushed_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Arc<Blob>>, StoreError> {
        if !files::touch(&self.paths.pushed_blob(repository, digest))? {
            return Ok(None);
        }
        self.blob(digest)
    }

    /// Whether the repository has content that a manifest may refer to.
    pub fn has_pushed(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        let linked = self.paths.pushed_blob(repository, digest).exists()
            || self.paths.pushed_manifest(repository, digest).exists();
        linked && self.contains(digest)
    }

    /// Whether a blob was pushed to the repository and is here.
    pub fn has_pushed_blob(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.paths.pushed_blob(repository, digest).exists() && self.contains(digest)
    }

    /// A repository that has the blob, among those that may be asked. It looks at a bounded number of them.
    pub fn pushed_holder(
        &self,
        digest: &Digest,
        may_ask: impl Fn(&RepositoryName) -> bool,
    ) -> Result<Option<RepositoryName>, StoreError> {
        if !self.is_pinned(digest) {
            return Ok(None);
        }
        let mut asked = self.all_repositories()?.into_iter().take(ASKED_MAX);
        Ok(asked.find(|repository| self.has_pushed_blob(repository, digest) && may_ask(repository)))
    }

    /// The manifest that a reference leads to.
    pub fn pushed_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>, StoreError> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => match self.pushed_tag(repository, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        match self.manifest_file(repository, &digest)? {
            Some(file) => Ok(self.manifest_as(&digest, &file.media_type)),
            None => Ok(None),
        }
    }

    /// Where a tag points.
    pub fn pushed_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        let content = files::read(&self.paths.tag(repository, tag))?;
        Ok(content.and_then(|content| std::str::from_utf8(&content).ok()?.trim().parse().ok()))
    }

    /// When a tag was last set.
    pub fn pushed_tag_set_at(&self, repository: &RepositoryName, tag: &Tag) -> Option<SystemTime> {
        files::marked_at(&self.paths.tag(repository, tag))
    }

    /// Up to `limit` tags in their order, after one of them, and whether there are more; none where there is no such
    /// repository.
    pub fn pushed_tags(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Option<(Vec<Tag>, bool)>, StoreError> {
        if !self.has_repository(repository) {
            return Ok(None);
        }
        let names = files::names(&self.paths.kept(repository, Kept::Tags))?;
        Ok(Some(page(names.into_iter().filter_map(|name| name.parse().ok()), after, limit, Tag::as_str)))
    }

    /// All tags of a repository with where they point.
    pub fn tagged(&self, repository: &RepositoryName) -> Result<Vec<Tagged>, StoreError> {
        let (tags, _) = self.pushed_tags(repository, None, usize::MAX)?.unwrap_or_default();
        let mut found = Vec::with_capacity(tags.len());
        for tag in tags {
            // One that is deleted meanwhile is none.
            found.extend(self.pushed_tag(repository, &tag)?.map(|digest| Tagged { tag, digest }));
        }
        Ok(found)
    }

    /// The manifests of a repository, in no order.
    pub fn pushed_manifests(&self, repository: &RepositoryName) -> Result<Vec<Digest>, StoreError> {
        let names = files::names(&self.paths.kept(repository, Kept::Manifests))?;
        Ok(names.iter().filter_map(|name| digest_of_link(name)).collect())
    }

    /// What refers to a subject, in the order of its digests.
    pub fn referrers(&self, repository: &RepositoryName, subject: &Digest) -> Result<Vec<Referrer>, StoreError> {
        let folder = self.paths.referrers(repository, subject);
        let mut names = files::names(&folder)?;
        names.sort_unstable();
        let mut referrers = Vec::with_capacity(names.len());
        for digest in names.iter().filter_map(|name| digest_of_link(name)) {
            let content = files::read(&self.paths.referrer(repository, subject, &digest))?;
            // The entry comes before its manifest and goes after it.
            let known = self.paths.pushed_manifest(repository, &digest).exists();
            let entry = content.filter(|_| known).and_then(|content| serde_json::from_slice(&content).ok());
            referrers.extend(entry);
        }
        Ok(referrers)
    }

    /// Up to `limit` repositories that have a manifest, in their order, after one of them, and whether there are more.
    pub fn repositories(&self, after: Option<&str>, limit: usize) -> Result<(Vec<RepositoryName>, bool), StoreError> {
        self.repositories_where(after, limit, |_| true)
    }

    /// The same of those that are wanted.
    pub fn repositories_where(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&RepositoryName) -> bool,
    ) -> Result<(Vec<RepositoryName>, bool), StoreError> {
        let found = self.all_repositories()?.into_iter().filter(|name| is_wanted(name)).filter(|repository| {
            let folder = self.paths.kept(repository, Kept::Manifests);
            files::names(&folder).is_ok_and(|names| !names.is_empty())
        });
        Ok(page(found, after, limit, RepositoryName::as_str))
    }

    /// Whether anything was pushed to a repository of that name.
    pub fn has_repository(&self, repository: &RepositoryName) -> bool {
        self.paths.repository(repository).is_dir()
    }

    /// How long content is; nothing where it is not here.
    pub fn content_bytes(&self, digest: &Digest) -> u64 {
        std::fs::metadata(self.paths.blob(digest)).map_or(0, |file| file.len())
    }

    /// Bytes of content that a repository has, or all have together, content of several counted in each.
    pub fn pushed_usage(&self, repository: Option<&RepositoryName>) -> Result<u64, StoreError> {
        let Some(repository) = repository else { return Ok(self.usage().pinned_bytes) };
        let mut bytes = 0;
        for kept in [Kept::Blobs, Kept::Manifests] {
            for digest in
                files::names(&self.paths.kept(repository, kept))?.iter().filter_map(|name| digest_of_link(name))
            {
                bytes += self.content_bytes(&digest);
            }
        }
        Ok(bytes)
    }

    pub(super) fn all_repositories(&self) -> Result<Vec<RepositoryName>, StoreError> {
        let names = files::names(&self.paths.pushed())?;
        Ok(names.iter().filter_map(|name| repository_of_folder(name)).collect())
    }

    pub(super) fn manifest_file(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<ManifestFile>, StoreError> {
        let content = files::read(&self.paths.pushed_manifest(repository, digest))?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }
}

/// The first `limit` after `after`, sorted as bytes, and whether more follow.
fn page<T>(
    all: impl Iterator<Item = T>,
    after: Option<&str>,
    limit: usize,
    name: impl Fn(&T) -> &str,
) -> (Vec<T>, bool) {
    let mut found: Vec<T> = all.filter(|item| after.is_none_or(|after| name(item) > after)).collect();
    found.sort_unstable_by(|one, other| name(one).cmp(name(other)));
    let more = found.len() > limit;
    found.truncate(limit);
    (found, more)
}
