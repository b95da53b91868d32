//! Blobs that were pushed: read through the same path as the cache's, and taken away.

use entrepot_core::conditional::range_counts;
use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use entrepot_core::name::RepositoryName;
use entrepot_core::range;
use http::StatusCode;
use http::header::RANGE;

use super::error::RegistryError;
use super::events::{Deed, Event};
use super::removal::kept_content;
use super::request::LocalRequest;
use super::uploads::empty;
use entrepot_cache::pull::error::PullError;
use entrepot_cache::pull::request::AskedPart;
use entrepot_cache::pull::rights::Right;
use entrepot_cache::pull::serve::stored_reply;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Served;
use entrepot_observe::trail::Decision;

impl LocalRequest {
    /// `GET` or `HEAD /v2/<name>/blobs/<digest>`
    pub(super) async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Reply, RegistryError> {
        let (store, is_head) = (self.registry.store.repositories.at(repository), self.is_head());
        // A client that asks by HEAD is about to push a manifest with it, more often than not.
        let found = match is_head {
            true => store.confirm_blob(digest).await?,
            false => store.blob(digest).await?,
        };
        let Some(blob) = found else {
            let has_repository = store.exists().await;
            return Err(RegistryError::Unknown { has_repository, code: ErrorCode::BlobUnknown });
        };
        if let Some(reply) = self.conditional(digest)? {
            return Ok(reply);
        }
        let counts = !is_head && range_counts(&self.headers, &digest.to_string());
        let range = self.header(&RANGE).filter(|_| counts);
        if range.is_some_and(is_backwards) {
            return Ok(PullError::Range { size_bytes: blob.size_bytes }.into_reply());
        }
        let client = self.scope.connection.client.into();
        let is_doubted = !is_head && range.is_none_or(range::begins_at_the_start);
        if is_doubted && !self.registry.store.blobs.is_sound_for(digest, client).await {
            return Err(RegistryError::Unknown { has_repository: true, code: ErrorCode::BlobUnknown });
        }
        let reply = stored_reply(
            &self.registry.store,
            &self.scope.trail,
            blob,
            &AskedPart { range, is_head },
            || None,
            Served::Hit,
            Right::of_our_own_registry(),
        );
        Ok(reply.unwrap_or_else(PullError::into_reply))
    }

    /// `DELETE /v2/<name>/blobs/<digest>`
    pub(super) async fn delete_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Reply, RegistryError> {
        let (store, access) = (self.registry.store.repositories.at(repository), self.registry.access());
        if store.has_blob(digest).await {
            // Content never changes, so this holds until it is removed.
            self.conditional(digest)?;
        }
        if let Some(refusal) = kept_content(&store, &access, repository, digest).await? {
            return Err(refusal.into());
        }
        if !store.remove_blob(digest).await? {
            let has_repository = store.exists().await;
            return Err(RegistryError::Unknown { has_repository, code: ErrorCode::BlobUnknown });
        }
        self.tell(Deed::Delete, repository, |event| Event { digest: Some(*digest), ..event });
        self.scope.trail.record(Decision::Deleted(*digest));
        Ok(empty(StatusCode::ACCEPTED))
    }
}

/// `bytes=9-5`. HTTP has such a range ignored; to the client that computed it, 416 says more than the whole blob.
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
