//! What the tests of both outlets do.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Writes slices as hyper does: all that are left at once, until nothing is.
pub(super) async fn write_all(io: &mut (impl AsyncWrite + Unpin), mut slices: Vec<Bytes>) -> io::Result<()> {
    while !slices.is_empty() {
        let borrowed: Vec<_> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut written = io.write_vectored(&borrowed).await?;
        drop(borrowed);
        while let Some(first) = slices.first_mut().filter(|first| written > 0 || first.is_empty()) {
            let taken = written.min(first.len());
            first.advance(taken);
            written -= taken;
            if first.is_empty() {
                slices.remove(0);
            }
        }
    }
    io.flush().await
}
