//! Makes the index agree with the files, on a thread of its own, while the store serves. Files are the truth: a file
//! without a row gets one, and a row without a file goes.
//!
//! A new index is compared with all folders. A known one is compared only with the folders that changed after its last
//! durable commit, which 512 `stat` calls tell. So a start does not walk the blobs, not even after kill -9. Measured
//! with a million rows, debug build: 0.38 s from opening the files that kill -9 left to the first hit, 2 ms more for
//! the comparison.
//!
//! Blobs found this way enter probation with their file's time as last use. The order among them is that of the walk.

use std::collections::HashMap;
use std::io;
use std::time::SystemTime;

use entrepot_core::digest::{Algorithm, Digest};

use super::{Job, Shared, recency};
use crate::disk;
use crate::paths::ALGORITHMS;
use crate::times::ms_of;

/// Rows that are entered between two looks at whether the store is closing.
const CHUNK: usize = 256;

/// Compares the folders changed since `check_from`, or all folders if it is None. Returns false if the index may not
/// know every file afterwards.
pub(super) fn reconcile(index: &Shared, check_from: Option<SystemTime>) -> bool {
    let mut complete = true;
    for algorithm in ALGORITHMS {
        for first_byte in 0..=u8::MAX {
            if index.is_closing() {
                return false;
            }
            if has_changed(index, algorithm, first_byte, check_from) {
                complete &= reconcile_shard(index, algorithm, first_byte);
            }
        }
    }
    complete
}

fn has_changed(index: &Shared, algorithm: Algorithm, first_byte: u8, check_from: Option<SystemTime>) -> bool {
    let modified = std::fs::metadata(index.paths.shard(algorithm, first_byte)).and_then(|folder| folder.modified());
    match modified {
        Ok(modified) => check_from.is_none_or(|check_from| modified >= check_from),
        // Another program may have removed the folder; a new index has no rows for it anyway.
        Err(error) => error.kind() == io::ErrorKind::NotFound && check_from.is_some(),
    }
}

fn reconcile_shard(index: &Shared, algorithm: Algorithm, first_byte: u8) -> bool {
    let Some(rows) = index.read(|transaction| recency::shard(transaction, algorithm, first_byte)) else {
        return false;
    };
    let mut files: HashMap<_, _> = disk::blobs_in(&index.paths, algorithm, first_byte).into_iter().collect();
    let mut missing = Vec::new();
    for row in rows {
        match files.remove(&row.digest) {
            // The row keeps its size. If the file has another one, its next use shows that, and its bytes decide.
            Some(_) => {}
            None => missing.push(row.digest),
        }
    }
    let mut found: Vec<_> =
        files.into_iter().map(|(digest, file)| (file.modified().map_or(0, ms_of), digest)).collect();
    found.sort_unstable();
    enter(index, &found) && forget(index, &missing)
}

/// The writer looks at each file again, so a blob that is evicted meanwhile does not come back as a row.
fn enter(index: &Shared, found: &[(u64, Digest)]) -> bool {
    found.chunks(CHUNK).all(|chunk| {
        let chunk = chunk.to_vec();
        let entered = index.change(Job::new(move |tables| {
            chunk.iter().try_for_each(|(modified_ms, digest)| tables.found(digest, *modified_ms))
        }));
        entered && !index.is_closing()
    })
}

fn forget(index: &Shared, missing: &[Digest]) -> bool {
    missing.chunks(CHUNK).all(|chunk| {
        let chunk = chunk.to_vec();
        index.change(Job::new(move |tables| chunk.iter().try_for_each(|digest| tables.gone(digest))))
            && !index.is_closing()
    })
}
