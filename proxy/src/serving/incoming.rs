//! What a client has sent over TLS: whole records are opened where they lie, and read from there.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::tls::record::{Received, RecordError, Session, record_bytes};

/// What is read at once: more than the largest record.
const READ_BYTES: usize = 32 * 1024;

/// Bytes that were received.
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// Content that was not read yet.
    plain: Range<usize>,
    /// Where the records begin that were not opened yet.
    start: usize,
}

impl Incoming {
    /// Goes on with content, and with the beginning of a record.
    pub(super) fn new(plain: Vec<u8>, records: &[u8]) -> Self {
        let plain_bytes = plain.len();
        let mut bytes = plain;
        bytes.extend_from_slice(records);
        Self { bytes, plain: 0..plain_bytes, start: plain_bytes }
    }

    /// Reads content; whether there was any.
    pub(super) fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let length = self.plain.len().min(buf.remaining());
        buf.put_slice(&self.bytes[self.plain.start..self.plain.start + length]);
        self.plain.start += length;
        length > 0
    }

    /// Opens the next record; none while it is not whole. To be asked when all content was read.
    pub(super) fn open(&mut self, session: &mut Session) -> Result<Option<Received>, RecordError> {
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
    pub(super) fn poll_more<IO: AsyncRead + Unpin>(
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
