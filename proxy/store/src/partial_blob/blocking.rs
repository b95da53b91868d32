//! Fills on the caller's own thread, which must be one that may block: for callers that nobody waits for, and for tests.

use std::sync::Arc;

use bytes::Bytes;
use entrepot_core::digest::Digest;
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;

use super::{PartialBlob, Published, check_digest};
use crate::disk_threads::calls::Calls;
use crate::disk_threads::wait;
use crate::space::Purpose;
use crate::{Blob, Extents, Store, StoreError};

impl Store {
    /// Starts to fill a digest, or goes on where a paused fill of the same size ended ([`Fill::extents`]). Makes room
    /// first; `NoSpace` when there is none to be made.
    pub fn begin(self: &Arc<Self>, digest: &Digest, size: Option<u64>) -> Result<PartialBlob, StoreError> {
        wait(self.begin_with(Calls::Inline, Some(*digest), size))
    }

    /// Starts to fill content whose digest is known only at its end ([`Fill::publish_as`]).
    pub fn begin_unnamed(self: &Arc<Self>, size: Option<u64>) -> Result<PartialBlob, StoreError> {
        wait(self.begin_with(Calls::Inline, None, size))
    }

    /// Stores small content at once, durably; its digest is checked. Content that is there already stays.
    pub fn put(self: &Arc<Self>, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        check_digest(digest, bytes)?;
        wait(self.put_with(Calls::Inline, *digest, Bytes::copy_from_slice(bytes), Purpose::Cache))
    }
}

impl PartialBlob {
    /// Writes bytes at an offset. Two writes may run at once where they do not overlap.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        wait(self.write_with(Calls::Inline, offset, &Bytes::copy_from_slice(bytes)))
    }

    /// Publishes the content under the digest that the fill began with; the caller has checked it. On an error the
    /// fill is over, its file gone and nothing visible.
    pub fn publish(
        &self,
        media_type: Option<&str>,
        links: &[(RegistryHost, RepositoryName)],
    ) -> Result<Arc<Blob>, StoreError> {
        self.end_as(None, media_type, links)
    }

    /// Publishes the content of a fill that began without a digest; the caller has hashed it.
    pub fn publish_as(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
        links: &[(RegistryHost, RepositoryName)],
    ) -> Result<Arc<Blob>, StoreError> {
        self.end_as(Some(digest), media_type, links)
    }

    /// Keeps what is there for a later `begin`; `extents` are the bytes that were written. A fill without a digest or
    /// size cannot be found again and is dropped.
    pub fn pause(&self, extents: &Extents) -> Result<(), StoreError> {
        wait(self.pause_with(Calls::Inline, extents))
    }

    fn end_as(
        &self,
        digest: Option<&Digest>,
        media_type: Option<&str>,
        links: &[(RegistryHost, RepositoryName)],
    ) -> Result<Arc<Blob>, StoreError> {
        let digest = self.name_as(digest)?;
        let (media_type, links) = (media_type.map(str::to_owned), links.to_vec());
        wait(self.publish_with(Calls::Inline, Published { digest, length: None, media_type, links }))
    }
}
