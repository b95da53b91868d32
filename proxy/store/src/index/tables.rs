//! The tables of the index, and a write transaction with all of them open. `recency` gives the rows of blobs their
//! meaning, `names` those of links, their public proofs, tags and artefacts.
//!
//! Blobs can be rebuilt from the files. The other rows are lost with the index. Each lost row costs one more question
//! to upstream and never grants anything.

use std::time::SystemTime;

use entrepot_core::digest::{Algorithm, Digest};
use redb::{
    Error, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction,
};

use crate::memory::{Memory, Stale};
use crate::paths::Paths;
use crate::space::Held;
use crate::times::{ms_of, time_of};

/// digest → (size, segment, rank, last use in ms, uses).
pub(super) const BLOBS: TableDefinition<'static, &'static [u8], BlobRow> = TableDefinition::new("blobs");
/// (segment, rank) → (digest, size): the order of eviction.
pub(super) const ORDER: TableDefinition<'static, (u8, u64), (&'static [u8], u64)> = TableDefinition::new("order");
/// digest → media type, for manifests.
pub(super) const MEDIA_TYPES: TableDefinition<'static, &'static [u8], &'static str> =
    TableDefinition::new("media_types");
/// (digest, origin, repository) → (linked since, last public proof or 0), in ms.
pub(super) const LINKS: TableDefinition<'static, LinkKey, (u64, u64)> = TableDefinition::new("links");
/// (origin, repository, tag, Accept class) → (digest, media type, size, validated at in ms).
pub(super) const TAGS: TableDefinition<'static, TagRowKey, TagRow> = TableDefinition::new("tags");
/// (origin, repository) → (newest public proof of its links, end of earlier proofs), in ms. See `names`.
pub(super) const PROOFS: TableDefinition<'static, (&'static str, &'static str), (u64, u64)> =
    TableDefinition::new("proofs");
/// (origin, path and query) → (digest, size, content type, headers, linked since in ms, last public proof in ms or 0).
pub(super) const ARTEFACTS: TableDefinition<'static, (&'static str, &'static str), ArtefactRow> =
    TableDefinition::new("artefacts");
/// () → totals, see [`Totals`].
pub(super) const TOTALS: TableDefinition<'static, (), TotalsRow> = TableDefinition::new("totals");
/// () → a time in ms. Folders changed since then may hold files that the index does not know.
pub(super) const CHECK_FROM: TableDefinition<'static, (), u64> = TableDefinition::new("check_from");

/// () → the number of this layout. Every index since the second layout has it, so a program can refuse a later one.
const FORMAT: TableDefinition<'static, (), u64> = TableDefinition::new("format");

/// The layout of the tables above. A change of any table's meaning makes it one more, with a migration.
pub(crate) const FORMAT_NOW: u64 = 2;
/// The layout that had no number yet.
pub(super) const FORMAT_UNNUMBERED: u64 = 1;

pub(super) type TotalsRow = (u64, u64, u64, u64, u64);
pub(super) type BlobRow = (u64, u8, u64, u64, u32);
pub(super) type LinkKey = (&'static [u8], &'static str, &'static str);
pub(super) type TagRowKey = (&'static str, &'static str, &'static str, u16);
pub(super) type TagRow = (&'static [u8], &'static str, u64, u64);
pub(super) type ArtefactRow = (&'static [u8], u64, &'static str, Vec<(&'static str, &'static str)>, u64, u64);

/// Sums that are updated with every change, so that nothing is ever counted by walking.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Totals {
    /// Bytes of the cache, without pinned content.
    pub(super) used_bytes: u64,
    pub(super) blobs: u64,
    pub(super) pinned_bytes: u64,
    pub(super) protected_bytes: u64,
    /// A counter that grows with every use. Unlike the wall clock it never steps back or stands still.
    pub(super) rank: u64,
}

/// All tables, open for writing.
pub(crate) struct Tables<'t> {
    pub(super) blobs: Table<'t, &'static [u8], BlobRow>,
    pub(super) order: Table<'t, (u8, u64), (&'static [u8], u64)>,
    pub(super) media_types: Table<'t, &'static [u8], &'static str>,
    pub(super) links: Table<'t, LinkKey, (u64, u64)>,
    pub(super) tags: Table<'t, TagRowKey, TagRow>,
    pub(super) proofs: Table<'t, (&'static str, &'static str), (u64, u64)>,
    pub(super) artefacts: Table<'t, (&'static str, &'static str), ArtefactRow>,
    totals_table: Table<'t, (), TotalsRow>,
    pub(super) totals: Totals,
    pub(super) paths: &'t Paths,
    pub(super) memory: &'t Memory,
    pub(super) protected_max_bytes: u64,
    /// Entries of `memory` that are untrue once this is committed.
    pub(super) stale: Vec<Stale>,
}

impl<'t> Tables<'t> {
    /// Opens all tables, making those that do not exist.
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        paths: &'t Paths,
        memory: &'t Memory,
        protected_max_bytes: u64,
    ) -> Result<Self, Error> {
        let totals_table = transaction.open_table(TOTALS)?;
        let totals = totals_table.get(())?.map(|row| Totals::from_row(row.value())).unwrap_or_default();
        Ok(Self {
            blobs: transaction.open_table(BLOBS)?,
            order: transaction.open_table(ORDER)?,
            media_types: transaction.open_table(MEDIA_TYPES)?,
            links: transaction.open_table(LINKS)?,
            tags: transaction.open_table(TAGS)?,
            proofs: transaction.open_table(PROOFS)?,
            artefacts: transaction.open_table(ARTEFACTS)?,
            totals_table,
            totals,
            paths,
            memory,
            protected_max_bytes,
            stale: Vec::new(),
        })
    }

    /// Writes the sums back, as the last thing before a commit. Returns them, and what to forget after the commit.
    pub(super) fn finish(mut self) -> Result<(Totals, Vec<Stale>), Error> {
        let Totals { used_bytes, blobs, pinned_bytes, protected_bytes, rank } = self.totals;
        self.totals_table.insert((), (used_bytes, blobs, pinned_bytes, protected_bytes, rank))?;
        Ok((self.totals, self.stale))
    }
}

impl Totals {
    /// The sums as the ledger takes them.
    pub(super) fn held(&self) -> Held {
        Held { used_bytes: self.used_bytes, pinned_bytes: self.pinned_bytes, blobs: self.blobs }
    }

    fn from_row((used_bytes, blobs, pinned_bytes, protected_bytes, rank): TotalsRow) -> Self {
        Self { used_bytes, blobs, pinned_bytes, protected_bytes, rank }
    }
}

/// Opens every table but `FORMAT`. A write transaction makes those that do not exist; a read transaction fails.
macro_rules! open_each_table {
    ($transaction:expr) => {
        $transaction.open_table(BLOBS)?;
        $transaction.open_table(ORDER)?;
        $transaction.open_table(MEDIA_TYPES)?;
        $transaction.open_table(LINKS)?;
        $transaction.open_table(TAGS)?;
        $transaction.open_table(PROOFS)?;
        $transaction.open_table(ARTEFACTS)?;
        $transaction.open_table(TOTALS)?;
        $transaction.open_table(CHECK_FROM)?;
    };
}

/// Reads the sums. Also checks that every table is there and has the right type.
pub(super) fn check(transaction: &ReadTransaction) -> Result<(Totals, Option<SystemTime>), Error> {
    open_each_table!(transaction);
    let totals = transaction.open_table(TOTALS)?.get(())?.map(|row| Totals::from_row(row.value()));
    let check_from = transaction.open_table(CHECK_FROM)?.get(())?.map(|row| time_of(row.value()));
    Ok((totals.unwrap_or_default(), check_from))
}

/// Makes the tables of a new index that it does not have yet, and gives it its number.
pub(super) fn create(database: &redb::Database) -> Result<(), Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    open_each_table!(transaction);
    transaction.open_table(FORMAT)?.insert((), FORMAT_NOW)?;
    Ok(transaction.commit()?)
}

/// The format of an index. None if it has no tables yet. An index from before there were numbers has the number 1.
pub(super) fn format_of(database: &redb::Database) -> Result<Option<u64>, Error> {
    let transaction = database.begin_read()?;
    if transaction.list_tables()?.next().is_none() {
        return Ok(None);
    }
    match transaction.open_table(FORMAT) {
        Err(TableError::TableDoesNotExist(_)) => Ok(Some(FORMAT_UNNUMBERED)),
        table => {
            let number = table?.get(())?.map(|row| row.value());
            number.map(Some).ok_or_else(|| Error::Corrupted("the index's format has no number".to_owned()))
        }
    }
}

/// Stores the time since which changed folders are looked at after a crash.
pub(super) fn set_check_from(transaction: &WriteTransaction, time: SystemTime) -> Result<(), Error> {
    transaction.open_table(CHECK_FROM)?.insert((), ms_of(time))?;
    Ok(())
}

/// A digest as a key: one byte for the algorithm, then its bytes, so that a folder of blobs is one range of keys.
#[derive(Clone, Copy)]
pub(super) struct Key {
    bytes: [u8; 65],
    len: usize,
}

impl Key {
    pub(super) fn of(digest: &Digest) -> Self {
        let mut bytes = [0; 65];
        let len = 1 + digest.bytes().len();
        bytes[0] = algorithm_byte(digest.algorithm());
        bytes[1..len].copy_from_slice(digest.bytes());
        Self { bytes, len }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The first byte of a key.
pub(super) fn algorithm_byte(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 1,
    }
}

/// The digest of a key. A key that holds no digest means that the index is damaged.
pub(super) fn digest_of(key: &[u8]) -> Result<Digest, Error> {
    let digest = match key.split_first() {
        Some((0, bytes)) => Digest::from_bytes(Algorithm::Sha256, bytes),
        Some((1, bytes)) => Digest::from_bytes(Algorithm::Sha512, bytes),
        _ => None,
    };
    digest.ok_or_else(|| Error::Corrupted("a key is no digest".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort_by_folder() {
        let short = Digest::Sha256([7; 32]);
        let long = Digest::of(Algorithm::Sha512, b"x");
        for digest in [short, long] {
            assert_eq!(digest_of(Key::of(&digest).as_slice()).unwrap(), digest);
        }
        assert!(Key::of(&short).as_slice() < Key::of(&long).as_slice());
        for damaged in [&[][..], &[0], &[2; 33], &[0; 34], &[1; 33]] {
            assert!(digest_of(damaged).is_err(), "{damaged:?}");
        }
    }
}
