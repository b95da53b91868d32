//! Rows of blobs, and the order in which blobs are evicted: a segmented LRU.
//!
//! The first use of a blob puts it into probation, the next one into the protected segment. The protected segment takes
//! at most its share of the cache; its overflow goes back to the young end of probation. Victims are the oldest of
//! probation, then the oldest protected. So a crawl through any number of blobs used once pushes out other blobs used
//! once, never the working set (threat T24).
//!
//! Pushed content is in a third segment, which has no victims and counts for no segment's limit. The file of a
//! pin tells which content is pushed (`pins`); the writer looks at it when it enters a row.
//!
//! Invariant: `BLOBS` and `ORDER` have the same blobs, and the totals are their sums.

use std::ops::Bound;

use entrepot_core::digest::{Algorithm, Digest};
use redb::{Error, ReadTransaction, ReadableTable};

use super::tables::{BLOBS, BlobRow, Key, ORDER, Tables, Totals, algorithm_byte, digest_of};
use crate::disk;
use crate::memory::Stale;

const PROBATION: u8 = 0;
const PROTECTED: u8 = 1;
pub(super) const PINNED: u8 = 2;

/// Further uses of a protected blob are noted once in this time.
const TOUCH_INTERVAL_MS: u64 = 60_000;

/// A text that sorts after every name of an origin or repository, because those are ASCII.
const AFTER_ALL_NAMES: &str = "\u{10ffff}";

/// A blob as the index knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) last_use_ms: u64,
    pub(crate) uses: u32,
}

/// A blob's position in the order of eviction: its segment, and its rank in that.
pub(crate) type Position = (u8, u64);

/// A blob in the order of eviction.
pub(crate) struct Victim {
    pub(crate) position: Position,
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

impl Tables<'_> {
    /// A blob was published. That is its first use, unless it replaces a file of the same name.
    pub(crate) fn published(&mut self, digest: &Digest, size_bytes: u64, at_ms: u64) -> Result<(), Error> {
        let key = Key::of(digest);
        let known = self.blobs.get(key.as_slice())?.map(|row| row.value());
        match known {
            Some((size, PINNED, ..)) if size == size_bytes => Ok(()),
            Some(row) if row.0 == size_bytes => self.promote(key.as_slice(), row, at_ms),
            Some(_) => {
                self.take_out(&key)?;
                self.enter(digest, size_bytes, at_ms)
            }
            None => self.enter(digest, size_bytes, at_ms),
        }
    }

    /// A file without a row was found or used. It gets a row if it is really there. A row that it has meanwhile stays,
    /// even with another size: the row has the length that was published, and a file may shrink.
    pub(crate) fn found(&mut self, digest: &Digest, at_ms: u64) -> Result<(), Error> {
        let is_known = self.blobs.get(Key::of(digest).as_slice())?.is_some();
        let file = std::fs::metadata(self.paths.blob(digest)).ok().filter(|file| file.is_file());
        match file {
            Some(file) if !is_known => self.enter(digest, file.len(), at_ms),
            _ => Ok(()),
        }
    }

    /// The bytes of a blob were found right, and the size in its row wrong. The row gets the file's size. All sums are
    /// made anew, because no sum can be trusted that a wrong row was part of.
    pub(crate) fn remeasured(&mut self, digest: &Digest, at_ms: u64) -> Result<(), Error> {
        let key = Key::of(digest);
        let known = self.blobs.get(key.as_slice())?.map(|row| row.value());
        self.take_out(&key)?;
        self.found(digest, known.map_or(at_ms, |(_, _, _, last_use_ms, _)| last_use_ms))?;
        self.add_up()
    }

    fn add_up(&mut self) -> Result<(), Error> {
        let (mut used_bytes, mut pinned_bytes, mut protected_bytes, mut blobs) = (0_u64, 0_u64, 0_u64, 0);
        for row in self.blobs.iter()? {
            let (size_bytes, segment, ..) = row?.1.value();
            let sum = if segment == PINNED { &mut pinned_bytes } else { &mut used_bytes };
            *sum = sum.saturating_add(size_bytes);
            if segment == PROTECTED {
                protected_bytes = protected_bytes.saturating_add(size_bytes);
            }
            blobs += 1;
        }
        self.totals = Totals { used_bytes, pinned_bytes, protected_bytes, blobs, ..self.totals };
        Ok(())
    }

    /// A blob was served.
    pub(crate) fn touched(&mut self, digest: &Digest, at_ms: u64) -> Result<(), Error> {
        let key = Key::of(digest);
        let known = self.blobs.get(key.as_slice())?.map(|row| row.value());
        match known {
            None => self.found(digest, at_ms),
            Some((_, PINNED, ..)) => Ok(()),
            Some((_, PROTECTED, _, last_use_ms, _)) if at_ms < last_use_ms.saturating_add(TOUCH_INTERVAL_MS) => Ok(()),
            Some(row) => self.promote(key.as_slice(), row, at_ms),
        }
    }

    /// Content was pinned, or is no longer pinned. Its row moves to the segment where it now belongs.
    pub(crate) fn pinning_changed(&mut self, digest: &Digest, at_ms: u64) -> Result<(), Error> {
        let key = Key::of(digest);
        let known = self.blobs.get(key.as_slice())?.map(|row| row.value());
        match known {
            Some((_, PINNED, ..)) if self.is_pinned(digest) => Ok(()),
            Some((size_bytes, segment, _, last_use_ms, _)) if segment == PINNED || self.is_pinned(digest) => {
                self.take_out(&key)?;
                self.enter(digest, size_bytes, last_use_ms)
            }
            Some(_) => Ok(()),
            None => self.found(digest, at_ms),
        }
    }

    fn is_pinned(&self, digest: &Digest) -> bool {
        disk::has_pin(self.paths, digest)
    }

    /// Drops a blob's row, and all rows that depend on it, if its file is gone.
    pub(crate) fn gone(&mut self, digest: &Digest) -> Result<(), Error> {
        // A disk that cannot tell is no reason to forget.
        if self.paths.blob(digest).try_exists().unwrap_or(true) { Ok(()) } else { self.removed(digest) }
    }

    /// A blob was removed. Its row, links and media type go. Upstream is asked again for the right to read it.
    pub(crate) fn removed(&mut self, digest: &Digest) -> Result<(), Error> {
        let key = Key::of(digest);
        self.take_out(&key)?;
        self.forget_cached(digest)
    }

    /// Forgets what the cache knows of a blob: its links and its type.
    pub(crate) fn forget_cached(&mut self, digest: &Digest) -> Result<(), Error> {
        let key = Key::of(digest);
        self.stale.push(Stale::Removed(*digest));
        self.media_types.remove(key.as_slice())?;
        let names = (key.as_slice(), "", "")..(key.as_slice(), AFTER_ALL_NAMES, "");
        self.links.retain_in(names, |_, _| false)?;
        Ok(())
    }

    fn enter(&mut self, digest: &Digest, size_bytes: u64, at_ms: u64) -> Result<(), Error> {
        let segment = if self.is_pinned(digest) { PINNED } else { PROBATION };
        *self.sum_of(segment) += size_bytes;
        self.totals.blobs += 1;
        self.put(Key::of(digest).as_slice(), (size_bytes, segment, 0, at_ms, 1))
    }

    fn sum_of(&mut self, segment: u8) -> &mut u64 {
        if segment == PINNED { &mut self.totals.pinned_bytes } else { &mut self.totals.used_bytes }
    }

    fn take_out(&mut self, key: &Key) -> Result<(), Error> {
        let known = self.blobs.remove(key.as_slice())?.map(|row| row.value());
        let Some((size_bytes, segment, rank, _, _)) = known else { return Ok(()) };
        self.order.remove((segment, rank))?;
        let sum = self.sum_of(segment);
        *sum = sum.saturating_sub(size_bytes);
        self.totals.blobs = self.totals.blobs.saturating_sub(1);
        if segment == PROTECTED {
            self.totals.protected_bytes = self.totals.protected_bytes.saturating_sub(size_bytes);
        }
        Ok(())
    }

    fn promote(&mut self, key: &[u8], row: BlobRow, at_ms: u64) -> Result<(), Error> {
        let (size_bytes, segment, rank, last_use_ms, uses) = row;
        self.order.remove((segment, rank))?;
        if segment == PROBATION {
            self.totals.protected_bytes += size_bytes;
        }
        self.put(key, (size_bytes, PROTECTED, 0, last_use_ms.max(at_ms), uses.saturating_add(1)))?;
        while self.totals.protected_bytes > self.protected_max_bytes && self.demote_oldest()? {}
        Ok(())
    }

    /// Sends the oldest protected blob back to probation; false if there is none.
    fn demote_oldest(&mut self) -> Result<bool, Error> {
        let oldest = self.order.range((PROTECTED, 0)..(PINNED, 0))?.next().transpose()?;
        let Some((position, key)) = oldest.map(|(position, row)| (position.value(), row.value().0.to_vec())) else {
            self.totals.protected_bytes = 0;
            return Ok(false);
        };
        self.order.remove(position)?;
        let known = self.blobs.get(key.as_slice())?.map(|row| row.value());
        let Some((size_bytes, _, _, last_use_ms, uses)) = known else { return Ok(true) };
        self.totals.protected_bytes = self.totals.protected_bytes.saturating_sub(size_bytes);
        self.put(&key, (size_bytes, PROBATION, 0, last_use_ms, uses))?;
        Ok(true)
    }

    /// Writes a row at the young end of its segment.
    fn put(&mut self, key: &[u8], row: BlobRow) -> Result<(), Error> {
        self.totals.rank += 1;
        let rank = self.totals.rank;
        self.blobs.insert(key, (row.0, row.1, rank, row.3, row.4))?;
        self.order.insert((row.1, rank), (key, row.0))?;
        Ok(())
    }
}

#[cfg(test)]
impl Tables<'_> {
    /// Makes a row wrong, as a bad disk does: its size, its segment and its last use.
    pub(crate) fn damage(&mut self, digest: &Digest, change: fn(u64, u8, u64) -> (u64, u8, u64)) -> Result<(), Error> {
        let key = Key::of(digest);
        let row = self.blobs.get(key.as_slice())?.map(|row| row.value());
        let (size_bytes, segment, rank, last_use_ms, uses) = row.unwrap_or_default();
        let (size_bytes, segment, last_use_ms) = change(size_bytes, segment, last_use_ms);
        self.blobs.insert(key.as_slice(), (size_bytes, segment, rank, last_use_ms, uses))?;
        Ok(())
    }
}

/// The size that the index has for a blob. None if it has no row.
pub(crate) fn size_of(transaction: &ReadTransaction, digest: &Digest) -> Result<Option<u64>, Error> {
    Ok(transaction.open_table(BLOBS)?.get(Key::of(digest).as_slice())?.map(|row| row.value().0))
}

/// The next victims after a position, in the order of eviction.
pub(crate) fn victims(
    transaction: &ReadTransaction,
    after: Option<Position>,
    limit: usize,
) -> Result<Vec<Victim>, Error> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    in_order(transaction, (start, Bound::Excluded((PINNED, 0))), limit)
}

/// The next pinned blobs after a position.
pub(crate) fn pinned(
    transaction: &ReadTransaction,
    after: Option<Position>,
    limit: usize,
) -> Result<Vec<Victim>, Error> {
    let start = after.map_or(Bound::Included((PINNED, 0)), Bound::Excluded);
    in_order(transaction, (start, Bound::Unbounded), limit)
}

fn in_order(
    transaction: &ReadTransaction,
    range: (Bound<Position>, Bound<Position>),
    limit: usize,
) -> Result<Vec<Victim>, Error> {
    let order = transaction.open_table(ORDER)?;
    let rows = order.range::<Position>(range)?.take(limit);
    rows.map(|row| {
        let (position, row) = row?;
        let (key, size_bytes) = row.value();
        Ok(Victim { position: position.value(), digest: digest_of(key)?, size_bytes })
    })
    .collect()
}

/// Blobs in the order of their digests.
pub(crate) fn list(transaction: &ReadTransaction, after: Option<&Digest>, limit: usize) -> Result<Vec<Row>, Error> {
    let after = after.map(Key::of);
    let start = after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(key.as_slice()));
    rows_in(transaction, (start, Bound::Unbounded), limit)
}

/// Blobs of one folder.
pub(crate) fn shard(transaction: &ReadTransaction, algorithm: Algorithm, first_byte: u8) -> Result<Vec<Row>, Error> {
    let algorithm = algorithm_byte(algorithm);
    let first = [algorithm, first_byte];
    let next = first_byte.checked_add(1).map_or([algorithm + 1, 0], |next| [algorithm, next]);
    rows_in(transaction, (Bound::Included(&first), Bound::Excluded(&next)), usize::MAX)
}

fn rows_in(
    transaction: &ReadTransaction,
    range: (Bound<&[u8]>, Bound<&[u8]>),
    limit: usize,
) -> Result<Vec<Row>, Error> {
    let mut found = Vec::new();
    for row in transaction.open_table(BLOBS)?.range::<&[u8]>(range)? {
        let (key, row) = row?;
        let (size_bytes, _, _, last_use_ms, uses) = row.value();
        found.push(Row { digest: digest_of(key.value())?, size_bytes, last_use_ms, uses });
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}
