//! Lays hyper's slices out as the contents of TLS records: memory is copied, mapped bytes are read from their file, and
//! only from the page cache.

use std::io::{self, IoSlice, IoSliceMut};

use entrepot_kernel::mapping::{Located, locate};
use entrepot_kernel::residency::read_scattered_now;

use super::record_buffer::PAGE_BYTES;
use entrepot_record::RECORD_MAX_BYTES;

/// hyper never passes more slices than this.
const SLICES_MAX: usize = 64;

/// The outcome of [`gather`].
#[derive(Default)]
pub(super) struct Gathered {
    /// Bytes of content in the records. All records but the last are full.
    pub(super) filled_bytes: usize,
    /// The place and number of the bytes after those, if the page cache does not have them.
    pub(super) missing: Option<(Located, usize)>,
}

/// The offset in a page at which the first content should begin: half a page away from the offset of the copied bytes.
/// The C library and the kernel copy with `rep movsb`, which is five times slower on Zen 4 if the target is closely
/// after the source (0.33 against 0.06 s/GiB; `tests/bench/NOTES.md`).
pub(super) fn page_offset(slices: &[IoSlice<'_>]) -> usize {
    let largest = slices.iter().max_by_key(|slice| slice.len());
    largest.map_or(0, |slice| (slice.as_ptr() as usize + PAGE_BYTES / 2) % PAGE_BYTES)
}

/// Fills the contents of records. Each `stride` bytes of `records` hold one record, whose content begins after `prefix`
/// bytes.
pub(super) fn gather(slices: &[IoSlice<'_>], records: &mut [u8], stride: usize, prefix: usize) -> io::Result<Gathered> {
    let mut contents = records.chunks_exact_mut(stride).map(|record| &mut record[prefix..prefix + RECORD_MAX_BYTES]);
    let mut content: &mut [u8] = &mut [];
    let mut gathered = Gathered::default();
    for slice in slices.iter().filter(|slice| !slice.is_empty()).take(SLICES_MAX) {
        let mut parts = Vec::new();
        let mut taken = 0;
        while taken < slice.len() {
            if content.is_empty() {
                let Some(next) = contents.next() else { break };
                content = next;
            }
            let length = content.len().min(slice.len() - taken);
            let (part, rest) = std::mem::take(&mut content).split_at_mut(length);
            taken += part.len();
            content = rest;
            parts.push(IoSliceMut::new(part));
        }
        if taken == 0 {
            break;
        }
        let Some(located) = locate(slice) else {
            copy(slice, &mut parts);
            gathered.filled_bytes += taken;
            continue;
        };
        let read = match read_scattered_now(located.file(), located.offset, &mut parts) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(0) if gathered.filled_bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => Some(read?),
        };
        gathered.filled_bytes += read.unwrap_or(0);
        if read.is_none() {
            gathered.missing = Some((located, taken));
        }
        if read != Some(taken) {
            break;
        }
    }
    Ok(gathered)
}

fn copy(slice: &[u8], parts: &mut [IoSliceMut<'_>]) {
    let mut from = slice;
    for part in parts {
        let (piece, rest) = from.split_at(part.len());
        part.copy_from_slice(piece);
        from = rest;
    }
}
