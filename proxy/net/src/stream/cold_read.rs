//! Bytes of a mapped file that the page cache no longer has when they are to be sent, because a slice may wait for a
//! slow client for minutes. They are read without blocking the thread, and sent from memory in place of the slice.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use entrepot_kernel::mapping::Located;
use entrepot_kernel::read::Reading;
use entrepot_kernel::{buffers, read};

/// Such bytes, from the beginning of their read until they are sent.
pub(super) struct ColdRead {
    /// The slice's own address: hyper offers the same slice again.
    address: usize,
    /// Keeps the mapping, so that no other mapping can get the address.
    _located: Located,
    state: State,
}

enum State {
    Reading(Reading),
    Read(Bytes),
}

impl ColdRead {
    /// Begins to read the first of `slices`, of which `length` bytes are at `located`.
    pub(super) fn start(slices: &[IoSlice<'_>], located: Located, length: usize) -> Self {
        let reading = read::start(located.file(), located.offset, length.min(buffers::window_bytes()));
        Self { address: first_address(slices), _located: located, state: State::Reading(reading) }
    }

    /// Whether these are the next bytes of `slices`.
    pub(super) fn is_next(&self, slices: &[IoSlice<'_>]) -> bool {
        self.address == first_address(slices)
    }

    /// The bytes, at least one. An error if the file has no more or the disk fails.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let State::Reading(reading) = &mut self.state {
            let bytes = ready!(pin!(reading.finish()).poll(context))?;
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.state = State::Read(bytes);
        }
        match &self.state {
            State::Read(bytes) => Poll::Ready(Ok(bytes.clone())),
            State::Reading(_) => Poll::Pending,
        }
    }

    /// Removes the bytes that were sent. Returns false if none is left.
    pub(super) fn sent(&mut self, length: usize) -> bool {
        let State::Read(bytes) = &mut self.state else { return true };
        let length = length.min(bytes.len());
        bytes.advance(length);
        self.address += length;
        !bytes.is_empty()
    }
}

fn first_address(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().find(|slice| !slice.is_empty()).map_or(0, |slice| slice.as_ptr() as usize)
}
