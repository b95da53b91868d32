//! Pushed content: which repository has which content, where its tags point, which manifests refer to which.
//!
//! ```text
//! mod    the async edge: Repositories, and one Repository    facts    the files that hold it all
//! catalog     their names in order                      referrers    pages of a subject's referrers
//! collection  takes away content that is no longer needed                live     pushes that run
//! sums        how many bytes each holds
//! ```
//!
//! A change is durable when its method returns. Names and links of other registries' content are in `names`, the pins
//! against eviction are in `pins`, and the bytes of running uploads are in `uploads`.

mod catalog;
mod collection;
mod facts;
mod live;
mod referrers;
mod sums;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::media::ManifestInfo;
use entrepot_core::name::{Reference, RepositoryName, Tag};
use entrepot_core::referrer::Referrer;
use serde::{Deserialize, Serialize};

use crate::adopt::{self, Adopted};
use crate::blob::Blob;
use crate::blobs::Blobs;
use crate::blocking::{blocking, try_blocking};
use crate::errors::StoreError;
use crate::index::Index;
use crate::memory::StoredManifest;
use crate::partial_blobs::{PartialBlob, PartialBlobs};
use crate::paths::Paths;
use crate::pins::{Hold, Pins};
use crate::space::Purpose;
pub use collection::{Collected, Step, Sweep, Untagged};
use collection::{Collector, remove_tagged};
use facts::Facts;
pub use live::LivePush;
use live::LivePushes;
pub use referrers::{ReferrersAsked, ReferrersPage};

/// The repositories of one store.
pub struct Repositories {
    facts: Arc<Facts>,
    live: Arc<LivePushes>,
    collector: Arc<Collector>,
    partial_blobs: Arc<PartialBlobs>,
}

/// One repository, which may not exist.
pub struct Repository {
    facts: Arc<Facts>,
    name: RepositoryName,
}

/// A manifest as a repository keeps it. Its bytes are content like any other.
#[derive(Clone, PartialEq, Debug)]
pub struct PushedManifest {
    pub digest: Digest,
    pub media_type: String,
    /// The subject that it refers to, and its entry in the list of referrers. None if it has no subject.
    pub referrer: Option<(Digest, Referrer)>,
    /// Whether the push came with a login. Tags that are set with it remember that too.
    pub pushed_by: PushedBy,
}

/// Whether something was pushed with a login. Content from before this note existed counts as pushed without one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushedBy {
    /// A client without a login.
    #[default]
    Anyone,
    /// An account.
    Account,
}

/// A tag and the manifest that it points to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tagged {
    pub tag: Tag,
    pub digest: Digest,
}

/// Why a manifest was not put. Nothing was changed.
#[derive(Debug, PartialEq, Eq)]
pub enum NotPut<E> {
    /// The repository lacks this content.
    Missing(Digest),
    /// A tag points elsewhere and may not be moved, for this reason.
    Refused(E),
    /// Something else is there than the push expects.
    Unexpected,
}

/// The expectation of a push about what is there before it.
pub struct Expected {
    /// The tag or manifest that it is about.
    pub reference: Reference,
    /// Whether the expectation holds for this digest; None if nothing is there.
    pub holds: Box<dyn Fn(Option<Digest>) -> bool + Send>,
}

impl PushedManifest {
    /// The facts that are kept of a manifest of this type.
    pub fn of(digest: Digest, media_type: &str, info: &ManifestInfo, bytes: &[u8], pushed_by: PushedBy) -> Self {
        let subject = info.subject.as_ref().map(|subject| subject.digest);
        let referrer = subject.and_then(|subject| Some((subject, Referrer::of(bytes, media_type, &digest)?)));
        Self { digest, media_type: media_type.to_owned(), referrer, pushed_by }
    }
}

impl PushedBy {
    // By reference, as serde asks it.
    fn is_anyone(&self) -> bool {
        *self == Self::Anyone
    }
}

impl Repositories {
    pub(crate) fn new(
        paths: Paths,
        blobs: Arc<Blobs>,
        pins: Arc<Pins>,
        index: Arc<Index>,
        partial_blobs: Arc<PartialBlobs>,
    ) -> Self {
        let facts = Arc::new(Facts::new(paths, blobs, pins));
        let live = Arc::<LivePushes>::default();
        let collector = Arc::new(Collector::new(facts.clone(), live.clone(), index));
        Self { facts, live, collector, partial_blobs }
    }

    pub fn at(&self, name: &RepositoryName) -> Repository {
        Repository { facts: self.facts.clone(), name: name.clone() }
    }

    /// Notes that a push runs which began at that time: until it is dropped, collections leave what it may rely on.
    pub fn pushing(&self, name: &RepositoryName, begun_at: SystemTime) -> LivePush {
        LivePush::new(&self.live, name, begun_at)
    }

    /// Makes what the repository was given since `begun_at`, or shortly before, wait for its manifest anew. For the end
    /// of an upload.
    pub async fn renew(&self, name: &RepositoryName, begun_at: SystemTime, grace: Duration) -> Result<(), StoreError> {
        let (facts, live, name) = (self.facts.clone(), self.live.clone(), name.clone());
        try_blocking(move || live.renew(&facts, &name, begun_at, grace)).await
    }

    /// Up to `limit` wanted repositories that have a manifest, in their order, after one of them. Also tells whether
    /// there are more.
    pub async fn list(
        &self,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(&RepositoryName) -> bool + Send + 'static,
    ) -> Result<(Vec<RepositoryName>, bool), StoreError> {
        let (facts, after) = (self.facts.clone(), after.map(str::to_owned));
        try_blocking(move || facts.list(after.as_deref(), limit, is_wanted)).await
    }

    /// A repository that has the blob, among those that may be asked. The search looks at a bounded number of them.
    pub async fn holder(
        &self,
        digest: &Digest,
        may_ask: impl Fn(&RepositoryName) -> bool + Send + 'static,
    ) -> Result<Option<RepositoryName>, StoreError> {
        let (facts, digest) = (self.facts.clone(), *digest);
        try_blocking(move || facts.holder(&digest, may_ask)).await
    }

    /// Whether some repository has the content, or is about to have it.
    pub async fn is_pinned(&self, digest: &Digest) -> bool {
        let (facts, digest) = (self.facts.clone(), *digest);
        blocking(move || facts.pins.is_pinned(&digest)).await.unwrap_or(true)
    }

    /// The length of content. None if the content is not here.
    pub async fn content_bytes(&self, digest: &Digest) -> Option<u64> {
        let (facts, digest) = (self.facts.clone(), *digest);
        blocking(move || facts.blobs.size_blocking(&digest)).await.flatten()
    }

    /// Pins content that is about to be published and linked, and keeps it from collections until the hold is dropped.
    pub async fn hold(&self, digest: &Digest) -> Result<Hold, StoreError> {
        let (facts, digest) = (self.facts.clone(), *digest);
        try_blocking(move || facts.pins.hold(&digest)).await
    }

    /// [`PartialBlobs::begin`] for content that is pushed and held. It counts as pushed, and resumes no paused content.
    pub async fn begin(&self, digest: &Digest, size_bytes: u64) -> Result<PartialBlob, StoreError> {
        self.partial_blobs.begin_as(Some(*digest), Some(size_bytes), Purpose::Upload).await
    }

    /// [`PartialBlobs::put`] for content that is pushed and held.
    pub async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), StoreError> {
        self.partial_blobs.put_as(digest, bytes, Purpose::Upload).await
    }

    /// Makes a file of another program content of that digest, durably, without copying it. None if the file system can
    /// neither clone nor link it. The caller holds the digest first, so that the content is still there when it is
    /// linked to a repository.
    pub async fn adopt(&self, digest: &Digest, source: &Path) -> Result<Option<Adopted>, StoreError> {
        adopt::adopt(&self.partial_blobs, digest, source).await
    }

    /// Takes away content that is no longer needed. None if another collection runs.
    pub async fn collect(
        &self,
        sweep: Sweep,
        progress: impl FnMut(Step) + Send + 'static,
    ) -> Result<Option<Collected>, StoreError> {
        let collector = self.collector.clone();
        try_blocking(move || collector.collect(sweep, progress)).await
    }
}

impl Repository {
    /// A wanted tag that leads to content: to the manifest itself, to a manifest that it names, or to a blob of one. None
    /// if there is none. It is an error if a manifest on the way cannot be read.
    pub async fn tag_leading_to(
        &self,
        target: &Digest,
        is_wanted: impl Fn(&Tag) -> bool + Send + 'static,
    ) -> Result<Option<Tag>, StoreError> {
        let target = *target;
        self.with_files(move |facts, name| collection::tag_leading_to(facts, name, &target, is_wanted)).await
    }

    /// Whether anything was pushed to the repository.
    pub async fn exists(&self) -> bool {
        self.with_files(|facts, name| Ok(facts.exists(name))).await.unwrap_or(false)
    }

    /// The content. None if it was not pushed here. Counts as a use.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Arc<Blob>>, StoreError> {
        let digest = *digest;
        self.with_files(move |facts, name| facts.blob(name, &digest)).await
    }

    /// [`Self::blob`] for a client that pushes and will rely on it: a collection leaves it alone for its grace period.
    pub async fn confirm_blob(&self, digest: &Digest) -> Result<Option<Arc<Blob>>, StoreError> {
        let digest = *digest;
        self.with_files(move |facts, name| facts.confirm_blob(name, &digest)).await
    }

    /// Whether the repository has content that a manifest may refer to.
    pub async fn has(&self, digest: &Digest) -> bool {
        let digest = *digest;
        self.with_files(move |facts, name| Ok(facts.has(name, &digest))).await.unwrap_or(false)
    }

    /// Whether a blob was pushed to the repository and is here.
    pub async fn has_blob(&self, digest: &Digest) -> bool {
        let digest = *digest;
        self.with_files(move |facts, name| Ok(facts.has_blob(name, &digest))).await.unwrap_or(false)
    }

    /// The manifest that a reference leads to.
    pub async fn manifest(&self, reference: &Reference) -> Result<Option<StoredManifest>, StoreError> {
        let reference = reference.clone();
        self.with_files(move |facts, name| facts.manifest(name, &reference)).await
    }

    /// The manifests, in no order.
    pub async fn manifests(&self) -> Result<Vec<Digest>, StoreError> {
        self.with_files(Facts::manifests).await
    }

    /// Whether the repository has any manifest.
    pub async fn has_manifests(&self) -> Result<bool, StoreError> {
        self.with_files(Facts::has_manifests).await
    }

    /// A page of the referrers of a subject, in the order of their digests. A page that has no entry, of a list that
    /// goes on, is one of a long list of which few are wanted.
    pub async fn referrers(&self, subject: &Digest, asked: ReferrersAsked) -> Result<ReferrersPage, StoreError> {
        let subject = *subject;
        self.with_files(move |facts, name| facts.referrers(name, &subject, &asked)).await
    }

    /// The digest that a tag points to.
    pub async fn tag(&self, tag: &Tag) -> Result<Option<Digest>, StoreError> {
        let tag = tag.clone();
        self.with_files(move |facts, name| facts.tag(name, &tag)).await
    }

    /// When a tag was last set.
    pub async fn tag_set_at(&self, tag: &Tag) -> Option<SystemTime> {
        let tag = tag.clone();
        self.with_files(move |facts, name| Ok(facts.tag_set_at(name, &tag))).await.ok().flatten()
    }

    /// Up to `limit` tags in their order, after one of them, and whether there are more. None if the repository does
    /// not exist.
    pub async fn tags(&self, after: Option<&str>, limit: usize) -> Result<Option<(Vec<Tag>, bool)>, StoreError> {
        let after = after.map(str::to_owned);
        self.with_files(move |facts, name| facts.tags(name, after.as_deref(), limit)).await
    }

    /// All tags with the digests that they point to.
    pub async fn tagged(&self) -> Result<Vec<Tagged>, StoreError> {
        self.with_files(Facts::tagged).await
    }

    /// Bytes of the repository's content.
    pub async fn held_bytes(&self) -> Result<u64, StoreError> {
        self.with_files(Facts::held_bytes).await
    }

    /// Notes that the repository has the content, and keeps it from eviction; false if the content is not here.
    pub async fn link(&self, digest: &Digest) -> Result<bool, StoreError> {
        let digest = *digest;
        self.with_files(move |facts, name| facts.link(name, &digest)).await
    }

    /// Adds a manifest, whose bytes are in the store already, and points `tags` to it. The repository must have
    /// everything in `needed`. `may_move` is asked about each tag that points elsewhere, with whether it was set with a
    /// login. Nothing changes between these checks and the end.
    pub async fn put_manifest<E: Send + 'static>(
        &self,
        manifest: PushedManifest,
        tags: Vec<Tag>,
        needed: Vec<Digest>,
        may_move: impl Fn(&Tag, PushedBy) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<(), NotPut<E>>, StoreError> {
        self.put_manifest_if(None, manifest, tags, needed, may_move).await
    }

    /// [`Self::put_manifest`] on a condition, which is judged together with the other checks.
    pub async fn put_manifest_if<E: Send + 'static>(
        &self,
        expected: Option<Expected>,
        manifest: PushedManifest,
        tags: Vec<Tag>,
        needed: Vec<Digest>,
        may_move: impl Fn(&Tag, PushedBy) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<(), NotPut<E>>, StoreError> {
        let put = move |facts: &Facts, name: &RepositoryName| {
            facts.put_manifest(name, expected.as_ref(), &manifest, (&tags, &needed), may_move)
        };
        self.with_files(put).await
    }

    /// The digest of a manifest that is here. None if there is none.
    pub async fn digest_of(&self, reference: &Reference) -> Result<Option<Digest>, StoreError> {
        let reference = reference.clone();
        self.with_files(move |facts, name| facts.digest_of(name, &reference)).await
    }

    /// Removes a tag that points to this manifest; false if there is no such tag.
    pub async fn remove_tag_at(&self, tag: &Tag, digest: &Digest) -> Result<bool, StoreError> {
        let (tag, digest) = (tag.clone(), *digest);
        self.with_files(move |facts, name| facts.remove_tag_at(name, &tag, &digest)).await
    }

    /// Removes a tag; false if there was none.
    pub async fn remove_tag(&self, tag: &Tag) -> Result<bool, StoreError> {
        let tag = tag.clone();
        self.with_files(move |facts, name| facts.remove_tag(name, &tag)).await
    }

    /// Removes a tag, and its manifest with the children, as far as nothing else leads to them. Returns the removed
    /// manifests. None if there was no such tag.
    pub async fn remove_tagged(&self, tag: &Tag) -> Result<Option<Vec<Digest>>, StoreError> {
        let tag = tag.clone();
        self.with_files(move |facts, name| remove_tagged(facts, name, &tag)).await
    }

    /// Removes a manifest and the tags that point to it. Returns these tags. None if there was no such manifest.
    pub async fn remove_manifest(&self, digest: &Digest) -> Result<Option<Vec<Tag>>, StoreError> {
        let digest = *digest;
        self.with_files(move |facts, name| facts.remove_manifest(name, &digest)).await
    }

    /// When a blob that no manifest of the repository names was last pushed or asked for by a push: a collection takes
    /// all of them once the grace period has passed since. None if there is no such blob.
    pub async fn unneeded_since(&self) -> Result<Option<SystemTime>, StoreError> {
        self.with_files(collection::unneeded_since).await
    }

    /// Takes a blob away from the repository; false if the repository did not have it.
    pub async fn remove_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let digest = *digest;
        self.with_files(move |facts, name| facts.remove_blob(name, &digest)).await
    }

    /// Removes the repository with all its tags and manifests; false if it has none. Its blobs wait for a collection, as
    /// after the removal of a tag. A push that runs is not stopped, and may bring it back. Clients that read content go
    /// on.
    pub async fn remove(&self) -> Result<bool, StoreError> {
        self.with_files(Facts::remove).await
    }

    /// Works with the files off the event loop.
    async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Facts, &RepositoryName) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (facts, name) = (self.facts.clone(), self.name.clone());
        try_blocking(move || work(&facts, &name)).await
    }
}
