//! Fills on the disk threads. What a client waits for has a deadline (`data_plane.disk_timeout`); after it the caller
//! goes on without the disk, and what was asked of the disk ends as if nobody had asked: a fill that was begun is
//! dropped, a write is of a fill that is about to be dropped. An upload's file outlives that: its next request waits
//! until the write has ended (`store::uploads`).

use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;

use super::{PartialBlob, Published, check_digest, random};
use crate::disk_threads::Lane;
use crate::space::Purpose;
use crate::{Blob, Extents, Store, StoreError};

impl Store {
    /// [`Store::begin`], within the deadline.
    pub async fn begin_in_time(
        self: &Arc<Self>,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<PartialBlob, StoreError> {
        let (store, digest) = (self.clone(), *digest);
        let begun = self.disk.run_in_time(Lane::of(Some(&digest), 0), move |calls| async move {
            store.begin_with(calls, Some(digest), size).await
        });
        begun.await?
    }

    /// [`Store::begin_unnamed`], within the deadline.
    pub async fn begin_unnamed_in_time(self: &Arc<Self>, size: Option<u64>) -> Result<PartialBlob, StoreError> {
        let store = self.clone();
        let lane = Lane::of(None, random());
        self.disk.run_in_time(lane, move |calls| async move { store.begin_with(calls, None, size).await }).await?
    }

    /// [`Store::put`], within the deadline. The digest is checked here, on the caller's thread: content is small.
    pub async fn put_in_time(self: &Arc<Self>, digest: &Digest, bytes: Bytes) -> Result<(), StoreError> {
        self.put_for(digest, bytes, Purpose::Cache).await
    }

    /// The same for content that is pushed, and pinned already.
    pub async fn put_pushed_in_time(self: &Arc<Self>, digest: &Digest, bytes: Bytes) -> Result<(), StoreError> {
        self.put_for(digest, bytes, Purpose::Upload).await
    }

    async fn put_for(self: &Arc<Self>, digest: &Digest, bytes: Bytes, purpose: Purpose) -> Result<(), StoreError> {
        check_digest(digest, &bytes)?;
        let (store, digest) = (self.clone(), *digest);
        let put = self.disk.run_in_time(Lane::of(Some(&digest), 0), move |calls| async move {
            store.put_with(calls, digest, bytes, purpose).await
        });
        put.await?
    }
}

impl PartialBlob {
    /// Writes bytes at an offset, within the deadline. Two writes may run at once where they do not overlap.
    pub async fn write_in_time(self: &Arc<Self>, offset: u64, bytes: Bytes) -> Result<(), StoreError> {
        let fill = self.clone();
        let written = self
            .store
            .disk
            .run_in_time(self.lane(), move |calls| async move { fill.write_with(calls, offset, &bytes).await });
        written.await?
    }

    /// Publishes the content as `digest`, by default the one that the fill began with; the caller has checked it. No
    /// deadline: clients have every byte already, and a large file takes a slow disk its time.
    pub async fn publish_from(
        self: &Arc<Self>,
        digest: Option<&Digest>,
        links: &[(RegistryHost, RepositoryName)],
    ) -> Result<Arc<Blob>, StoreError> {
        let published =
            Published { digest: self.name_as(digest)?, length: None, media_type: None, links: links.to_vec() };
        let fill = self.clone();
        let job =
            self.store.disk.run(self.lane(), move |calls| async move { fill.publish_with(calls, published).await });
        job.await?
    }

    /// [`Fill::pause`], within the deadline.
    pub async fn pause_in_time(self: &Arc<Self>, extents: &Extents) -> Result<(), StoreError> {
        let (fill, extents) = (self.clone(), extents.clone());
        let paused = self
            .store
            .disk
            .run_in_time(self.lane(), move |calls| async move { fill.pause_with(calls, &extents).await });
        paused.await?
    }
}
