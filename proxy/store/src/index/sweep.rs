//! Looks for rows that are no longer needed, a bounded number at a time: a million rows must neither hold up the writer
//! nor push everything else out of the page cache with each round.
//!
//! A find is only a suspicion. The writer looks again before it takes a name's row away.

use entrepot_core::digest::Digest;
use redb::{AccessGuard, Error, Key as RowKey, Range, ReadTransaction, ReadableTable, Value as RowValue};

use super::names::{PROOF_LAG_MS, place_of};
use super::recency::PINNED;
use super::tables::{ARTEFACTS, BLOBS, Key, LINKS, PROOFS, TAGS, Tables, digest_of};
use crate::entries::TagKey;
use crate::memory::Stale;

/// The most rows of one table that are looked at together.
const ROWS_MAX: usize = 16_384;

type LinkCursor = (Vec<u8>, String, String);
type TagCursor = (String, String, String, u16);
type NameCursor = (String, String);

/// The keys where the next look at each table begins. None means the start of the table.
#[derive(Default)]
pub(crate) struct Cursors {
    blobs: Option<Vec<u8>>,
    links: Option<LinkCursor>,
    tags: Option<TagCursor>,
    proofs: Option<NameCursor>,
    artefacts: Option<NameCursor>,
}

/// The times before which rows are no longer needed.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    /// For blobs, links and tags.
    pub(crate) names_ms: u64,
    /// For public proofs, which count as long as `rights.offline_for` says.
    pub(crate) proofs_ms: u64,
}

/// The finds of one look.
pub(crate) struct Suspects {
    /// Blobs that were not used for a long time.
    pub(crate) blobs: Vec<Digest>,
    pub(crate) names: StaleNames,
}

/// Rows of names that seem to be stale.
pub(crate) struct StaleNames {
    /// Digests with old links and no content: made for fetches that never ended well.
    orphans: Vec<Digest>,
    /// Tags that were not confirmed for a long time.
    tags: Vec<TagCursor>,
    /// Repositories whose public proofs were not renewed for a long time.
    proofs: Vec<NameCursor>,
    /// Artefacts without content.
    artefacts: Vec<NameCursor>,
}

/// Looks at the next rows of each table and moves the cursors on.
pub(crate) fn look(transaction: &ReadTransaction, cursors: &mut Cursors, before: Before) -> Result<Suspects, Error> {
    let before_ms = before.names_ms;
    let blobs = unused_blobs(transaction, &mut cursors.blobs, before_ms)?;
    let names = StaleNames {
        orphans: orphans(transaction, &mut cursors.links, before_ms)?,
        tags: old_tags(transaction, &mut cursors.tags, before_ms)?,
        proofs: old_proofs(transaction, &mut cursors.proofs, before.proofs_ms)?,
        artefacts: empty_artefacts(transaction, &mut cursors.artefacts)?,
    };
    Ok(Suspects { blobs, names })
}

fn unused_blobs(
    transaction: &ReadTransaction,
    cursor: &mut Option<Vec<u8>>,
    before_ms: u64,
) -> Result<Vec<Digest>, Error> {
    let start = cursor.take().unwrap_or_default();
    let (mut found, mut rows) = (Vec::new(), Rows::new(transaction.open_table(BLOBS)?.range(start.as_slice()..)?));
    while let Some((key, row)) = rows.next()? {
        let (_, segment, _, last_use_ms, _) = row.value();
        if last_use_ms < before_ms && segment != PINNED {
            found.push(digest_of(key.value())?);
        }
    }
    *cursor = rows.end()?.map(|key| key.value().to_vec());
    Ok(found)
}

fn orphans(
    transaction: &ReadTransaction,
    cursor: &mut Option<LinkCursor>,
    before_ms: u64,
) -> Result<Vec<Digest>, Error> {
    let (digest, origin, repository) = cursor.take().unwrap_or_default();
    let start = (digest.as_slice(), &*origin, &*repository);
    let blobs = transaction.open_table(BLOBS)?;
    let (mut found, mut rows) = (Vec::new(), Rows::new(transaction.open_table(LINKS)?.range(start..)?));
    while let Some((key, times)) = rows.next()? {
        let (digest, _, _) = key.value();
        if times.value().0 < before_ms && blobs.get(digest)?.is_none() {
            found.push(digest_of(digest)?);
        }
    }
    *cursor = rows.end()?.map(|key| {
        let (digest, origin, repository) = key.value();
        (digest.to_vec(), origin.to_owned(), repository.to_owned())
    });
    found.dedup();
    Ok(found)
}

fn old_tags(
    transaction: &ReadTransaction,
    cursor: &mut Option<TagCursor>,
    before_ms: u64,
) -> Result<Vec<TagCursor>, Error> {
    let owned = |(origin, repository, tag, class): (&str, &str, &str, u16)| {
        (origin.to_owned(), repository.to_owned(), tag.to_owned(), class)
    };
    let (origin, repository, tag, class) = cursor.take().unwrap_or_default();
    let start = (&*origin, &*repository, &*tag, class);
    let (mut found, mut rows) = (Vec::new(), Rows::new(transaction.open_table(TAGS)?.range(start..)?));
    while let Some((key, row)) = rows.next()? {
        let (_, _, _, validated_at_ms) = row.value();
        if validated_at_ms < before_ms {
            found.push(owned(key.value()));
        }
    }
    *cursor = rows.end()?.map(|key| owned(key.value()));
    Ok(found)
}

fn old_proofs(
    transaction: &ReadTransaction,
    cursor: &mut Option<NameCursor>,
    before_ms: u64,
) -> Result<Vec<NameCursor>, Error> {
    let (origin, repository) = cursor.take().unwrap_or_default();
    let start = (&*origin, &*repository);
    let (mut found, mut rows) = (Vec::new(), Rows::new(transaction.open_table(PROOFS)?.range(start..)?));
    while let Some((key, row)) = rows.next()? {
        if are_old(row.value(), before_ms) {
            found.push(owned_name(key.value()));
        }
    }
    *cursor = rows.end()?.map(|key| owned_name(key.value()));
    Ok(found)
}

/// Whether a row of `PROOFS` is no longer needed. Proofs that it refused must not count again when a new row begins.
fn are_old((newest_ms, ended_ms): (u64, u64), before_ms: u64) -> bool {
    newest_ms.max(ended_ms).saturating_add(PROOF_LAG_MS) < before_ms
}

fn empty_artefacts(transaction: &ReadTransaction, cursor: &mut Option<NameCursor>) -> Result<Vec<NameCursor>, Error> {
    let (origin, path) = cursor.take().unwrap_or_default();
    let start = (&*origin, &*path);
    let blobs = transaction.open_table(BLOBS)?;
    let (mut found, mut rows) = (Vec::new(), Rows::new(transaction.open_table(ARTEFACTS)?.range(start..)?));
    while let Some((key, row)) = rows.next()? {
        let digest = row.value().0;
        if blobs.get(digest)?.is_none() {
            found.push(owned_name(key.value()));
        }
    }
    *cursor = rows.end()?.map(|key| owned_name(key.value()));
    Ok(found)
}

fn owned_name((origin, name): (&str, &str)) -> NameCursor {
    (origin.to_owned(), name.to_owned())
}

type Row<K, V> = (AccessGuard<'static, K>, AccessGuard<'static, V>);

/// The rows of one look.
struct Rows<K: RowKey + 'static, V: RowValue + 'static> {
    range: Range<'static, K, V>,
    left: usize,
}

impl<K: RowKey, V: RowValue> Rows<K, V> {
    fn new(range: Range<'static, K, V>) -> Self {
        Self { range, left: ROWS_MAX }
    }

    fn next(&mut self) -> Result<Option<Row<K, V>>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        Ok(self.range.next().transpose()?)
    }

    /// The key of the row after the last one. None if the table has ended.
    fn end(mut self) -> Result<Option<AccessGuard<'static, K>>, Error> {
        Ok(self.range.next().transpose()?.map(|(key, _)| key))
    }
}

impl StaleNames {
    pub(crate) fn is_empty(&self) -> bool {
        self.orphans.is_empty() && self.tags.is_empty() && self.proofs.is_empty() && self.artefacts.is_empty()
    }
}

impl Tables<'_> {
    /// Drops the rows for which the suspicion still holds.
    pub(crate) fn drop_stale(&mut self, names: &StaleNames, before: Before) -> Result<(), Error> {
        for digest in &names.orphans {
            if self.blobs.get(Key::of(digest).as_slice())?.is_none() {
                self.removed(digest)?;
            }
        }
        for (origin, repository, tag, class) in &names.tags {
            let key = (origin.as_str(), repository.as_str(), tag.as_str(), *class);
            if self.tags.get(key)?.is_some_and(|row| row.value().3 < before.names_ms) {
                self.tags.remove(key)?;
                self.stale.push(Stale::Tag(tag_key(origin, repository, tag, *class)?));
            }
        }
        for (origin, repository) in &names.proofs {
            let key = (origin.as_str(), repository.as_str());
            if self.proofs.get(key)?.is_some_and(|row| are_old(row.value(), before.proofs_ms)) {
                self.proofs.remove(key)?;
                self.stale.push(Stale::Proofs(place_of(origin, repository)?));
            }
        }
        for (origin, path) in &names.artefacts {
            let key = (origin.as_str(), path.as_str());
            let digest = self.artefacts.get(key)?.map(|row| row.value().0.to_vec());
            if let Some(digest) = digest
                && self.blobs.get(digest.as_slice())?.is_none()
            {
                self.artefacts.remove(key)?;
            }
        }
        Ok(())
    }
}

fn tag_key(origin: &str, repository: &str, tag: &str, accept_class: u16) -> Result<TagKey, Error> {
    let tag = tag.parse().map_err(|_| Error::Corrupted("a tag's key names no tag".to_owned()))?;
    Ok(TagKey { place: place_of(origin, repository)?, tag, accept_class })
}
