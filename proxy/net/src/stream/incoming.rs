//! What a client has sent over TLS: whole records are opened where they lie, and read from there. Both kinds of sending
//! half (`sealed`, `handed`) have a [`Receiver`]; each brings its own way of sending the session's replies.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use entrepot_record::{Received, RecordError, Session, record_bytes};

/// What is read at once: more than the largest record.
const READ_BYTES: usize = 32 * 1024;

/// The session of a connection, and its receiving half.
pub(super) struct Receiver {
    /// On the heap: it is large, and each layer above that it moves through would hold room for it.
    pub(super) session: Box<Session>,
    incoming: Incoming,
    hears_no_more: bool,
    /// Nothing may be sent any more but what waits.
    pub(super) says_no_more: bool,
}

impl Receiver {
    /// Goes on with records that have come already, the last perhaps in part.
    pub(super) fn new(session: Session, records: Vec<u8>) -> Self {
        let incoming = Incoming { bytes: records, plain: 0..0, start: 0 };
        Self { session: Box::new(session), incoming, hears_no_more: false, says_no_more: false }
    }

    /// Reads content. `answer` sends the session's replies as far as the socket takes them; false where so many wait that
    /// the client has to take some first, and its waker asks for that.
    pub(super) fn poll_read<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        mut answer: impl FnMut(&mut Session, &mut IO, &mut Context<'_>) -> io::Result<bool>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.incoming.give(buf) || buf.remaining() == 0 || self.hears_no_more {
                return Poll::Ready(Ok(()));
            }
            if !answer(&mut self.session, io, context)? {
                return Poll::Pending;
            }
            match self.incoming.open(&mut self.session) {
                Ok(Some(Received::Closed)) => self.hears_no_more = true,
                Ok(Some(Received::Data(_) | Received::Nothing)) => {}
                Ok(None) => {
                    if !ready!(self.incoming.poll_more(Pin::new(io), context))? {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => {
                    (self.hears_no_more, self.says_no_more) = (true, true);
                    // The alert; a client that cannot be told is ended all the same.
                    let _ = answer(&mut self.session, io, context);
                    return Poll::Ready(Err(broken(error)));
                }
            }
        }
    }

    /// Has the session say that nothing more will come.
    pub(super) fn close(&mut self) {
        if !self.says_no_more {
            self.says_no_more = true;
            // A connection whose key can seal no more ends without the word.
            let _ = self.session.close();
        }
    }
}

/// Bytes that were received.
struct Incoming {
    bytes: Vec<u8>,
    /// Content that was not read yet.
    plain: Range<usize>,
    /// Where the records begin that were not opened yet.
    start: usize,
}

impl Incoming {
    /// Reads content; whether there was any.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let length = self.plain.len().min(buf.remaining());
        buf.put_slice(&self.bytes[self.plain.start..self.plain.start + length]);
        self.plain.start += length;
        length > 0
    }

    /// Opens the next record; none while it is not whole. To be asked when all content was read.
    fn open(&mut self, session: &mut Session) -> Result<Option<Received>, RecordError> {
        let length = match record_bytes(&self.bytes[self.start..]) {
            Ok(Some(length)) if self.start + length <= self.bytes.len() => length,
            Ok(_) => return Ok(None),
            Err(error) => {
                session.refuse(&error);
                return Err(error);
            }
        };
        let record = self.start..self.start + length;
        self.start = record.end;
        let received = session.receive(&mut self.bytes[record.clone()])?;
        if let Received::Data(content) = &received {
            self.plain = record.start + content.start..record.start + content.end;
        }
        Ok(Some(received))
    }

    /// Receives more; false at the connection's end. While nothing comes no memory is held.
    fn poll_more<IO: AsyncRead + Unpin>(
        &mut self,
        mut io: Pin<&mut IO>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.plain = 0..0;
        self.bytes.reserve(READ_BYTES);
        let polled = pin!(io.read_buf(&mut self.bytes)).poll(context);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Poll::Ready(Ok(ready!(polled)? > 0))
    }
}

/// As an error of the connection.
pub(super) fn broken(error: RecordError) -> io::Error {
    let kind = match error {
        RecordError::Broken { .. } => io::ErrorKind::InvalidData,
        RecordError::Alert(_) | RecordError::WornOut => io::ErrorKind::ConnectionAborted,
        RecordError::Sealing => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
