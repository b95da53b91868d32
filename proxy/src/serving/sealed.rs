//! A TLS connection to a client, written in large pieces: everything that hyper has is sealed at once, up to
//! `SEAL_BYTES`, straight from where it lies (a mapped file's pages included), and goes out in one writev.
//!
//! tokio-rustls drives handshake, reading, flushing and closing; only writing is done here. Before mapped bytes are
//! touched their pages are populated, so that a file that lost bytes or a broken disk is an error of this connection.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Writer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::outlet::mapped;

/// The most that one TLS record carries (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// What is sealed in one go, and so the most that waits sealed for a slow client.
const SEAL_BYTES: usize = 128 * 1024;
/// rustls copies each record's bytes to the fifth byte of a block, and blocks begin with a page here. On Zen 4 `rep movsb`,
/// which glibc copies with, is five times slower where source and target lie so close in their pages (0.33 against
/// 0.06 s/GiB). Bytes that begin with a page are therefore sealed in two goes, of which the first is this short.
const OFF_THE_PAGE_BYTES: usize = 2048;
const PAGE_BYTES: usize = 4096;
/// hyper never hands on more slices than this.
const SLICES_MAX: usize = 64;

/// A connection with a client that has shaken hands.
pub struct Sealed<IO> {
    /// On the heap: it is large, and each layer above that it moves through would hold room for it.
    stream: Box<TlsStream<IO>>,
}

impl<IO> Sealed<IO> {
    /// Over this connection.
    pub fn new(mut stream: TlsStream<IO>) -> Self {
        stream.get_mut().1.set_buffer_limit(Some(SEAL_BYTES));
        Self { stream: Box::new(stream) }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Sealed<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Sealed<IO> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // What is sealed already goes first, so there is room for a whole piece afterwards.
        if self.stream.get_ref().1.wants_write() {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        }
        let mut piece = [IoSlice::new(&[]); SLICES_MAX];
        let (count, total) = cut(slices, &mut piece);
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        for slice in &piece[..count] {
            if let Some(located) = mapped(slice) {
                located.populate(slice.len())?;
            }
        }
        let sealed = seal(&mut self.stream.get_mut().1.writer(), &piece[..count])?;
        // What the socket does not take now goes with the next write or flush, which this one's waker asks for.
        if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(context) {
            flushed?;
        }
        Poll::Ready(Ok(sealed))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Seals what there is room for; how much that was.
fn seal(writer: &mut Writer<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let first_large = slices.iter().position(|slice| slice.len() > RECORD_BYTES);
    let Some(large) = first_large.filter(|at| slices[*at].as_ptr() as usize % PAGE_BYTES < 64) else {
        return writer.write_vectored(slices);
    };
    // What comes before it, a head as a rule, shares the short record.
    let (short, rest) = slices[large].split_at(OFF_THE_PAGE_BYTES);
    let mut first: Vec<_> = slices[..large].iter().map(|slice| IoSlice::new(slice)).collect();
    first.push(IoSlice::new(short));
    let wanted: usize = first.iter().map(|slice| slice.len()).sum();
    let sealed = writer.write_vectored(&first)?;
    if sealed < wanted {
        return Ok(sealed);
    }
    let mut second = vec![IoSlice::new(rest)];
    second.extend(slices[large + 1..].iter().map(|slice| IoSlice::new(slice)));
    Ok(sealed + writer.write_vectored(&second)?)
}

/// Takes the first [`SEAL_BYTES`] of `slices`; how many slices, and how many bytes.
fn cut<'a>(slices: &'a [IoSlice<'_>], piece: &mut [IoSlice<'a>; SLICES_MAX]) -> (usize, usize) {
    let (mut count, mut total) = (0, 0);
    for slice in slices.iter().filter(|slice| !slice.is_empty()).take(SLICES_MAX) {
        let taken = slice.len().min(SEAL_BYTES - total);
        piece[count] = IoSlice::new(&slice[..taken]);
        count += 1;
        total += taken;
        if total == SEAL_BYTES {
            break;
        }
    }
    (count, total)
}
