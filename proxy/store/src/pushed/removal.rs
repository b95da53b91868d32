//! Taking away what was pushed. Who reads it goes on: the content itself stays until a collection finds that nothing
//! needs it.

use entrepot_core::digest::Digest;
use entrepot_core::name::{RepositoryName, Tag};

use super::super::errors::StoreError;
use super::super::paths::{Kept, digest_of_link};
use super::super::{Store, disk};
use super::files;

impl Store {
    /// Removes a tag; false where there was none.
    pub fn remove_pushed_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<bool, StoreError> {
        let _turn = self.pushed.lock(repository);
        files::remove(&self.paths.tag(repository, tag))
    }

    /// Removes a manifest and the tags that point to it; none where there was none.
    pub fn remove_pushed_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Vec<Tag>>, StoreError> {
        let _turn = self.pushed.lock(repository);
        self.remove_manifest_now(repository, digest)
    }

    /// Takes a blob from a repository; false where it did not have it.
    pub fn remove_pushed_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let _turn = self.pushed.lock(repository);
        files::remove(&self.paths.pushed_blob(repository, digest))
    }

    /// Removes a repository with all its tags, manifests and blobs; false where there was none. A push that runs is not
    /// stopped, and may bring it back.
    pub fn remove_repository(&self, repository: &RepositoryName) -> Result<bool, StoreError> {
        let _turn = self.pushed.lock(repository);
        if !self.has_repository(repository) {
            return Ok(false);
        }
        for tag in files::names(&self.paths.kept(repository, Kept::Tags))? {
            if let Ok(tag) = tag.parse::<Tag>() {
                files::remove(&self.paths.tag(repository, &tag))?;
            }
        }
        for digest in self.pushed_manifests(repository)? {
            self.remove_manifest_now(repository, &digest)?;
        }
        // Nothing names these any more; those that a power cut brings back are found by the next collection.
        for name in files::names(&self.paths.kept(repository, Kept::Blobs))? {
            if let Some(digest) = digest_of_link(&name) {
                disk::unlink(&self.paths.pushed_blob(repository, &digest))?;
            }
        }
        self.remove_empty_folders(repository);
        Ok(true)
    }

    /// With the repository's lock held.
    pub(super) fn remove_manifest_now(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Vec<Tag>>, StoreError> {
        let Some(file) = self.manifest_file(repository, digest)? else { return Ok(None) };
        let mut tags = Vec::new();
        for tagged in self.tagged(repository)?.into_iter().filter(|tagged| tagged.digest == *digest) {
            files::remove(&self.paths.tag(repository, &tagged.tag))?;
            tags.push(tagged.tag);
        }
        files::remove(&self.paths.pushed_manifest(repository, digest))?;
        if let Some(subject) = file.subject.and_then(|subject| subject.parse::<Digest>().ok()) {
            files::remove(&self.paths.referrer(repository, &subject, digest))?;
            files::remove_folder_if_empty(&self.paths.referrers(repository, &subject));
        }
        Ok(Some(tags))
    }

    /// Removes the folders of a repository that has nothing left. With its lock held.
    pub(super) fn remove_empty_folders(&self, repository: &RepositoryName) {
        for kept in [Kept::Tags, Kept::Manifests, Kept::Referrers, Kept::Blobs] {
            files::remove_folder_if_empty(&self.paths.kept(repository, kept));
        }
        files::remove_folder_if_empty(&self.paths.repository(repository));
    }
}
