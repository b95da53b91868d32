//! Bytes of a mapped file that had left the page cache when their turn to be sent came: a slice may wait for a slow client
//! for minutes. They are read without blocking the thread, and sent from memory in place of the slice.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use entrepot_kernel::mapping::Located;
use entrepot_kernel::read::Reading;
use entrepot_kernel::{buffers, read};

/// Such bytes, on their way or here.
pub(super) struct Late {
    /// Where hyper has them.
    address: usize,
    /// Keeps the mapping, so that nothing else can come to have the address.
    _located: Located,
    state: State,
}

enum State {
    Coming(Reading),
    Here(Bytes),
}

impl Late {
    /// Begins to read the first of `slices`, of which `length` bytes are at `located`.
    pub(super) fn read(slices: &[IoSlice<'_>], located: Located, length: usize) -> Self {
        let reading = read::start(located.file(), located.offset, length.min(buffers::window_bytes()));
        Self { address: first_address(slices), _located: located, state: State::Coming(reading) }
    }

    /// Whether these are the next bytes of `slices`.
    pub(super) fn is_next(&self, slices: &[IoSlice<'_>]) -> bool {
        self.address == first_address(slices)
    }

    /// The bytes, at least one; an error where the file has no more or the disk does not give them.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let State::Coming(reading) = &mut self.state {
            let bytes = ready!(pin!(reading.finish()).poll(context))?;
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.state = State::Here(bytes);
        }
        match &self.state {
            State::Here(bytes) => Poll::Ready(Ok(bytes.clone())),
            State::Coming(_) => Poll::Pending,
        }
    }

    /// So many of them were sent; false where none is left.
    pub(super) fn sent(&mut self, length: usize) -> bool {
        let State::Here(bytes) = &mut self.state else { return true };
        let length = length.min(bytes.len());
        bytes.advance(length);
        self.address += length;
        !bytes.is_empty()
    }
}

fn first_address(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().find(|slice| !slice.is_empty()).map_or(0, |slice| slice.as_ptr() as usize)
}
