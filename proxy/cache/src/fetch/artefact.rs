//! What the fetch of an artefact has beyond that of a blob: nothing tells beforehand which bytes the path names, so the
//! answer itself has to be one that may be kept, and what is kept is noted under the path.
//!
//! Invariants: parts are put together only under one strong validator. A kept artefact is public as of upstream's answer,
//! not as of the end of its bytes: a refusal in between counts. It can be found before its last byte leaves.

use std::sync::Arc;
use std::time::SystemTime;

use entrepot_core::digest::Digest;
use entrepot_core::origin::Origin;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName};
use tokio::time::sleep;

use crate::fetch::source::Opened;
use entrepot_observe::labels::Bypass;
use entrepot_store::{ArtefactEntry, Link, PartialBlob, Store, StoreError};

/// Upstream's fields that belong to the artefact, besides its type.
const KEPT: [HeaderName; 3] = [CACHE_CONTROL, ETAG, LAST_MODIFIED];
const TYPE_UNKNOWN: &str = "application/octet-stream";

/// Why an answer is not kept. None if it is.
pub(super) fn unfit(opened: &Opened) -> Option<Bypass> {
    if !may_store(&opened.headers) {
        return Some(Bypass::NoStore);
    }
    // A page is nothing immutable: it may ask for a login. Without a length nobody knows whether all of it came, and a
    // part that nothing identifies cannot be completed.
    let is_fit = !opened.is_page && opened.size.is_some() && (!opened.is_part || opened.validator().is_some());
    (!is_fit).then_some(Bypass::Unfit)
}

fn may_store(headers: &HeaderMap) -> bool {
    let control = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let forbidden = |value: &str| {
        let mut directives = value.split(',').map(|directive| directive.trim().to_ascii_lowercase());
        directives.any(|directive| directive == "no-store" || directive == "private")
    };
    !headers.contains_key(CONTENT_ENCODING) && !control.into_iter().any(forbidden)
}

/// The fields of an answer that belong to the artefact itself.
pub fn own_fields(headers: &HeaderMap) -> HeaderMap {
    let kept = |name: &HeaderName| headers.get(name).map(|value| (name.clone(), value.clone()));
    KEPT.iter().chain([&CONTENT_TYPE]).filter_map(kept).collect()
}

/// An artefact whose bytes are all here.
pub(super) struct Complete<'a> {
    pub(super) origin: &'a Origin,
    pub(super) path: &'a str,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) headers: &'a HeaderMap,
    /// When upstream gave it to an anonymous client. None if the client was known to upstream.
    pub(super) public_at: Option<SystemTime>,
}

impl Complete<'_> {
    /// Publishes the bytes and notes them under the path. `late` runs as soon as the disk takes longer than a client
    /// waits for it.
    pub(super) async fn publish(
        &self,
        store: &Store,
        partial: &Arc<PartialBlob>,
        late: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let publishing = async {
            partial.publish(Some(&self.digest), &[]).await?;
            store.names.set_artefact(self.origin, self.path, self.entry()).await;
            Ok(())
        };
        tokio::pin!(publishing);
        tokio::select! {
            published = &mut publishing => return published,
            () = sleep(partial.disk_timeout()) => late(),
        }
        publishing.await
    }

    fn entry(&self) -> ArtefactEntry {
        let text = |name: &HeaderName| self.headers.get(name)?.to_str().ok();
        let kept = KEPT.iter().filter_map(|name| Some((name.as_str().to_owned(), text(name)?.to_owned())));
        ArtefactEntry {
            digest: self.digest,
            size_bytes: self.size_bytes,
            content_type: text(&CONTENT_TYPE).unwrap_or(TYPE_UNKNOWN).to_owned(),
            headers: kept.collect(),
            link: Link { linked_at: SystemTime::now(), public_at: self.public_at },
        }
    }
}
