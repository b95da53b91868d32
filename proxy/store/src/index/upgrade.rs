//! Brings an index of the format before to the present one, at the first start of a program that knows it.
//!
//! ```text
//! index.redb (format 1) ─ rows ─► index.redb.new
//!            └─ a second name ─► index.redb.format-1, then index.redb.new ─ rename ─► index.redb (format 2)
//! ```
//!
//! Blobs, their order, media types and sums stay as they are. Links keep their age and have no public proof, because
//! the mark of a repository said nothing about one link. Tags stay. Links and tags of a registry on port 80 are
//! dropped: they came by plain HTTP, and their texts would now mean https. So are the marks of public repositories and
//! the artefacts, which shared their keys. Upstream is asked anew for all that is dropped.
//!
//! Invariants: `index.redb` is whole at every moment, old or new, so a start after a kill begins again or finds the
//! work done. Both files are locked until the end. Memory is bounded: rows are copied by transactions of [`ROWS`] each.
//! The old index stays until the first stop in good order.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use redb::{
    Database, Error, Key as RowKey, ReadTransaction, ReadableDatabase, ReadableTableMetadata, Table, TableDefinition,
    Value as RowValue,
};

use super::file;
use super::tables::{self, BLOBS, CHECK_FROM, FORMAT_UNNUMBERED, LINKS, LinkKey, MEDIA_TYPES, ORDER, TAGS, TOTALS};
use crate::disk;
use crate::paths::Paths;

/// Rows of one transaction.
const ROWS: usize = 16_384;

/// The links of format 1: (digest, registry, repository) → linked since, in ms.
const LINKS_BEFORE: TableDefinition<'static, LinkKey, u64> = TableDefinition::new("links");

/// Makes an index of the present format from one without a number and puts it in its place. Returns the new one, open.
pub(super) fn upgrade(old: Database, paths: &Paths) -> Result<Database, Error> {
    let began = Instant::now();
    remove_draft(paths)?;
    // A disk that is too full is found out before it is filled.
    let needed_bytes = fs::metadata(paths.index())?.len();
    if disk::free_bytes(paths.root()).is_ok_and(|free_bytes| free_bytes < needed_bytes) {
        return Err(io::Error::from(Errno::ENOSPC).into());
    }
    tracing::info!("the cache's index is brought to its new format; this happens once");
    let made = make(&old, paths).and_then(|new| {
        put_in_place(paths)?;
        Ok(new)
    });
    let new = made.inspect_err(|_| drop(remove_draft(paths)))?;
    file::close(old);
    let links = new.begin_read()?.open_table(LINKS)?.len()?;
    let kept = paths.earlier_index(FORMAT_UNNUMBERED);
    tracing::info!(
        elapsed = ?began.elapsed(),
        links,
        "the cache's index has its new format; the old one stays as {} until the first stop in good order",
        kept.display()
    );
    Ok(new)
}

/// Removes a new index that was not finished.
pub(super) fn remove_draft(paths: &Paths) -> Result<(), Error> {
    remove(&paths.new_index())
}

/// Removes the index of the earlier format, after a run that ended in good order.
pub(super) fn forget_earlier(paths: &Paths) {
    if let Err(error) = remove(&paths.earlier_index(FORMAT_UNNUMBERED)) {
        tracing::warn!(%error, "the index of the earlier format could not be removed");
    }
}

/// Writes the new index beside the old one. It is on the medium when this returns.
fn make(old: &Database, paths: &Paths) -> Result<Database, Error> {
    let new = file::open(&paths.new_index())?;
    let rows = old.begin_read()?;
    copy(&rows, &new, BLOBS, BLOBS, keep)?;
    copy(&rows, &new, ORDER, ORDER, keep)?;
    copy(&rows, &new, MEDIA_TYPES, MEDIA_TYPES, keep)?;
    copy(
        &rows,
        &new,
        LINKS_BEFORE,
        LINKS,
        |links, key, linked_ms| {
            if was_plain(key.1) { Ok(()) } else { keep(links, key, (linked_ms, 0)) }
        },
    )?;
    copy(&rows, &new, TAGS, TAGS, |tags, key, row| if was_plain(key.0) { Ok(()) } else { keep(tags, key, row) })?;
    copy(&rows, &new, TOTALS, TOTALS, keep)?;
    copy(&rows, &new, CHECK_FROM, CHECK_FROM, keep)?;
    tables::create(&new)?;
    Ok(new)
}

/// Whether a registry was asked by plain HTTP, as far as its text tells.
fn was_plain(registry: &str) -> bool {
    registry.ends_with(":80")
}

/// Hands the rows of a table to `enter`, a bounded number for each transaction.
fn copy<K: RowKey, V: RowValue, W: RowValue>(
    rows: &ReadTransaction,
    new: &Database,
    from: TableDefinition<'_, K, V>,
    to: TableDefinition<'_, K, W>,
    enter: impl Fn(&mut Table<'_, K, W>, K::SelfType<'_>, V::SelfType<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut rows = rows.open_table(from)?.range::<K::SelfType<'_>>(..)?;
    let mut taken = ROWS;
    while taken == ROWS {
        taken = 0;
        let transaction = new.begin_write()?;
        let mut table = transaction.open_table(to)?;
        for row in rows.by_ref().take(ROWS) {
            let (key, row) = row?;
            enter(&mut table, key.value(), row.value())?;
            taken += 1;
        }
        drop(table);
        transaction.commit()?;
    }
    Ok(())
}

/// Enters a row as it is.
fn keep<K: RowKey, V: RowValue>(
    table: &mut Table<'_, K, V>,
    key: K::SelfType<'_>,
    row: V::SelfType<'_>,
) -> Result<(), Error> {
    table.insert(key, row)?;
    Ok(())
}

/// Gives the old index its second name, then the new one the first.
fn put_in_place(paths: &Paths) -> Result<(), Error> {
    let (index, kept) = (paths.index(), paths.earlier_index(FORMAT_UNNUMBERED));
    remove(&kept)?;
    // A file system without hard links takes a copy.
    fs::hard_link(&index, &kept).or_else(|_| fs::copy(&index, &kept).map(drop))?;
    File::open(&kept)?.sync_all()?;
    let root = File::open(paths.root())?;
    root.sync_all()?;
    fs::rename(paths.new_index(), &index)?;
    Ok(root.sync_all()?)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
