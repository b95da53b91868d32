//! An index with a million entries, made without a million pulls.

use std::path::Path;

use crate::BoxError;

/// How many entries the figures of start and memory are for.
pub(crate) const ENTRIES: u64 = 1_000_000;

/// Fills the index of a data directory that nobody has used yet with `count` rows.
pub(crate) fn fill_index(data_directory: &Path, count: u64) -> Result<(), BoxError> {
    entrepot_store::seed::fill_index(data_directory, count)?;
    Ok(())
}
