//! Blobs that were pushed: read through the same path as the cache's, and taken away.

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::name::RepositoryName;
use entrepot_core::outcome::{CacheStatus, RequestType};
use http::StatusCode;

use super::events::{Deed, Event};
use super::failure::{store_failed, unknown};
use super::request::Request;
use super::uploads::empty;
use entrepot_cache::pull::blob_reply::{range_header, stored_reply, unsatisfiable};
use entrepot_net::http::reply::{Note, Reply};

impl Request {
    /// `GET` or `HEAD /v2/<name>/blobs/<digest>`
    pub(super) async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Reply {
        let (store, is_head) = (self.registry.store.repositories.at(repository), self.is_head());
        // A client that asks by HEAD is about to push a manifest with it, more often than not.
        let found = match is_head {
            true => store.confirm_blob(digest).await,
            false => store.blob(digest).await,
        };
        let reply = match found {
            Ok(Some(blob)) => {
                let range = range_header(&self.headers).filter(|_| !is_head);
                if range.is_some_and(is_backwards) {
                    return unsatisfiable(blob.size_bytes);
                }
                let note = Note { cache_status: CacheStatus::Hit, ..Note::default() };
                let note = Note { stored_at: blob.stored_at(), ..note };
                stored_reply(&self.registry.store, blob, range, is_head, || None, note)
            }
            Ok(None) => unknown(store.exists().await, ErrorCode::BlobUnknown),
            Err(error) => store_failed(&error),
        };
        let status = reply.note.cache_status;
        reply.noted(RequestType::BlobByDigest, status).of(*digest)
    }

    /// `DELETE /v2/<name>/blobs/<digest>`
    pub(super) async fn delete_blob(&self, repository: &RepositoryName, digest: &Digest) -> Reply {
        let store = self.registry.store.repositories.at(repository);
        match store.remove_blob(digest).await {
            Ok(true) => {
                self.tell(Deed::Delete, repository, |event| Event { digest: Some(*digest), ..event });
                empty(StatusCode::ACCEPTED).of(*digest)
            }
            Ok(false) => unknown(store.exists().await, ErrorCode::BlobUnknown),
            Err(error) => store_failed(&error),
        }
    }
}

/// `bytes=9-5`. HTTP has such a range ignored; to whoever computed it, 416 says more than the whole blob.
fn is_backwards(range: &str) -> bool {
    let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let numbers = bounds.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    numbers.is_some_and(|(first, last)| first > last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backward_ranges_are_told_from_others() {
        assert!(is_backwards("bytes=500-0"));
        for other in ["bytes=0-500", "bytes=500-500", "bytes=500-", "bytes=-0", "bytes=5-1,0-2", "items=5-1", ""] {
            assert!(!is_backwards(other), "{other}");
        }
    }
}
