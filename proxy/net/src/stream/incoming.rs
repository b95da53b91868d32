//! Receives over TLS: whole records are decrypted in place, and read from there.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use entrepot_record::{Received, RecordError, Session, record_bytes};
use tokio::io::{AsyncReadExt, ReadBuf};

use super::client_socket::ClientSocket;

/// The size of one read: more than the largest record.
const READ_BYTES: usize = 32 * 1024;

/// The bytes that were received.
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// Content that is not read yet.
    plain: Range<usize>,
    /// The place of the first record that is not decrypted yet.
    start: usize,
}

impl Incoming {
    /// Begins with records that were received already. The last may be incomplete.
    pub(super) fn new(records: Vec<u8>) -> Self {
        Self { bytes: records, plain: 0..0, start: 0 }
    }

    /// Gives content to the reader. Returns false if there was none.
    pub(super) fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let length = self.plain.len().min(buf.remaining());
        buf.put_slice(&self.bytes[self.plain.start..self.plain.start + length]);
        self.plain.start += length;
        length > 0
    }

    /// Decrypts the next record, when all content is read. None if the record is incomplete.
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

    /// Receives more. Returns false at the connection's end. No memory is held while nothing arrives.
    pub(super) fn poll_more(&mut self, socket: &mut ClientSocket, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.plain = 0..0;
        self.bytes.reserve(READ_BYTES);
        let polled = pin!(socket.read_buf(&mut self.bytes)).poll(context);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Poll::Ready(Ok(ready!(polled)? > 0))
    }
}

/// A record layer's error as the connection's.
pub(super) fn broken(error: RecordError) -> io::Error {
    let kind = match error {
        RecordError::Broken { .. } => io::ErrorKind::InvalidData,
        RecordError::Alert(_) | RecordError::WornOut => io::ErrorKind::ConnectionAborted,
        RecordError::Sealing => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
