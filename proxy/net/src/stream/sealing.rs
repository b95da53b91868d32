//! A TLS connection with a client, behind its handshake: what hyper writes is laid out as records of one large piece,
//! sealed there, and goes out in one write. A mapped file's bytes are read straight into the records they leave in.
//!
//! Neighbours: `entrepot_record` has the protocol; `gather` lays out, `late` reads what the page cache does not have, `room`
//! has the memory, `incoming` the other direction.
//! Invariants: records leave in the order in which they were sealed, so nothing is sealed while anything waits; an idle
//! connection holds no buffer; a file that lost bytes or a broken disk is an error of this connection and no more.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::ContentType;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::cold_read::Late;
use super::gather::{gather, page_offset};
use super::handshake::Secured;
use super::incoming::{Receiver, broken};
use super::record_buffer::Room;
use entrepot_record::{RECORD_MAX_BYTES, RecordError, Session};

/// A client may cause so many bytes of answers to its control messages before it has to take some.
const REPLIES_MAX_BYTES: usize = 4096;

/// A connection with a client that has shaken hands.
pub struct Sealed<IO> {
    io: IO,
    receiver: Receiver,
    outgoing: Outgoing,
    late: Option<Late>,
}

/// What was sealed and waits for the socket.
#[derive(Default)]
struct Outgoing {
    room: Room,
    /// Answers to control messages in it.
    reply_bytes: usize,
}

impl Outgoing {
    /// Sends what waits, the session's own records behind it.
    fn poll_send<IO: AsyncWrite + Unpin>(
        &mut self,
        session: &mut Session,
        io: &mut IO,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        for reply in session.take_control() {
            self.reply_bytes += reply.bytes.len();
            self.room.append(reply.bytes);
        }
        while !self.room.left().is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(context, self.room.left()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.room.sent(sent),
            }
        }
        self.reply_bytes = 0;
        Poll::Ready(Ok(()))
    }
}

impl<IO> Sealed<IO> {
    /// Over this connection.
    pub fn new(secured: Secured<IO>) -> Result<Self, RecordError> {
        let session = Session::new(secured.extracted, secured.secrets)?;
        Ok(Self {
            io: secured.io,
            receiver: Receiver::new(session, secured.records),
            outgoing: Outgoing::default(),
            late: None,
        })
    }

    /// Seals the beginning of `slices` into an empty room; how many bytes of them that were. None where the next bytes
    /// are no longer in the page cache: then they are being read.
    fn seal(&mut self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let sealer = self.receiver.session.sealer().map_err(broken)?;
        let (prefix, suffix) = (sealer.prefix_bytes(), sealer.suffix_bytes());
        let stride = prefix + RECORD_MAX_BYTES + suffix;
        let mut room = Room::new();
        let memory = room.beginning_at(page_offset(slices).wrapping_sub(prefix) % super::record_buffer::PAGE_BYTES);
        let gathered = gather(slices, memory, stride, prefix)?;
        if let (0, Some((located, length))) = (gathered.filled_bytes, gathered.missing) {
            self.late = Some(Late::read(slices, located, length));
            return Ok(None);
        }
        let mut sealed_bytes = 0;
        let mut left = gathered.filled_bytes;
        while left > 0 {
            let length = left.min(RECORD_MAX_BYTES);
            let record = &mut memory[sealed_bytes..sealed_bytes + prefix + length + suffix];
            sealer.seal(ContentType::ApplicationData, record).map_err(broken)?;
            sealed_bytes += record.len();
            left -= length;
        }
        room.sealed(sealed_bytes);
        self.outgoing.room = room;
        Ok(Some(gathered.filled_bytes))
    }
}

impl<IO: AsyncWrite + Unpin> Sealed<IO> {
    /// Sends what waits.
    fn poll_outgoing(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_send(&mut self.receiver.session, &mut self.io, context)
    }

    /// Seals bytes that were read late, once they are there.
    fn poll_late(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<Option<usize>>> {
        let Some(mut late) = self.late.take().filter(|late| late.is_next(slices)) else { return Poll::Ready(Ok(None)) };
        let Poll::Ready(bytes) = late.poll(context) else {
            self.late = Some(late);
            return Poll::Pending;
        };
        Poll::Ready(self.seal(&[IoSlice::new(&bytes?)]))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Sealed<IO> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, receiver, outgoing, .. } = self.get_mut();
        receiver.poll_read(io, context, buf, |session, io, context| match outgoing.poll_send(session, io, context) {
            Poll::Ready(sent) => sent.map(|()| true),
            Poll::Pending => Ok(outgoing.reply_bytes <= REPLIES_MAX_BYTES),
        })
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Sealed<IO> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.receiver.says_no_more {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // A worn key is changed first; the client hears of it before what the next key seals.
        this.receiver.session.sealer().map_err(broken)?;
        ready!(this.poll_outgoing(context))?;
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let sealed = loop {
            if let Some(sealed) = ready!(this.poll_late(context, slices))? {
                break sealed;
            }
            if let Some(sealed) = this.seal(slices)? {
                break sealed;
            }
        };
        // What the socket does not take now goes with the next call, which this one's waker asks for.
        let _ = this.poll_outgoing(context)?;
        Poll::Ready(Ok(sealed))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(context))?;
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.receiver.close();
        ready!(this.poll_outgoing(context))?;
        Pin::new(&mut this.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
