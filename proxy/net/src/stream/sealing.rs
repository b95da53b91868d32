//! Encryption in this process. hyper's bytes are laid out as the records of one large buffer, encrypted there, and sent
//! in one write. A mapped file's bytes are read directly into the records that carry them.
//!
//! `tls.rs` has the connection; `gather.rs` lays out; `cold_read.rs` reads what the page cache does not have;
//! `record_buffer.rs` has the memory.
//!
//! Invariants: records are sent in the order in which they were encrypted, so nothing is encrypted while anything
//! waits. An idle connection holds no buffer. A file that lost bytes or a broken disk is an error of this connection
//! alone.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use entrepot_record::{RECORD_MAX_BYTES, Session};
use rustls::ContentType;

use super::client_socket::ClientSocket;
use super::cold_read::ColdRead;
use super::gather::{gather, page_offset};
use super::incoming::broken;
use super::record_buffer::{PAGE_BYTES, RecordBuffer};

/// The most bytes of control messages that a client may cause before it has to take some.
const CONTROL_MAX_BYTES: usize = 4096;

/// The sending half of a connection whose records are made here.
#[derive(Default)]
pub(super) struct Sealing {
    /// Records that wait for the socket.
    waiting: RecordBuffer,
    /// The bytes of control messages among them.
    control_bytes: usize,
    cold: Option<ColdRead>,
}

impl Sealing {
    /// Sends the waiting records, and the session's control messages after them.
    pub(super) fn poll_send(
        &mut self,
        session: &mut Session,
        socket: &mut ClientSocket,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        for message in session.take_control() {
            self.control_bytes += message.bytes.len();
            self.waiting.append(message.bytes);
        }
        while !self.waiting.unsent().is_empty() {
            match ready!(socket.poll_write_memory(context, self.waiting.unsent()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.waiting.sent(sent),
            }
        }
        self.control_bytes = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether so many control messages wait that the client has to take some first.
    pub(super) fn is_overdue(&self) -> bool {
        self.control_bytes > CONTROL_MAX_BYTES
    }

    /// Encrypts the beginning of `slices`, once everything before it is sent.
    pub(super) fn poll_write(
        &mut self,
        session: &mut Session,
        socket: &mut ClientSocket,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A worn key is changed first. The client is told before the records of the next key.
        session.sealer().map_err(broken)?;
        ready!(self.poll_send(session, socket, context))?;
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let sealed = loop {
            if let Some(sealed) = ready!(self.poll_cold(session, context, slices))? {
                break sealed;
            }
            if let Some(sealed) = self.seal(session, slices)? {
                break sealed;
            }
        };
        // The next call sends the bytes that the socket does not take now. The waker of this call causes the next one.
        let _ = self.poll_send(session, socket, context)?;
        Poll::Ready(Ok(sealed))
    }

    /// Encrypts bytes that the page cache did not have, once they are read. None if there are none.
    fn poll_cold(
        &mut self,
        session: &mut Session,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<Option<usize>>> {
        let Some(mut cold) = self.cold.take().filter(|cold| cold.is_next(slices)) else { return Poll::Ready(Ok(None)) };
        let Poll::Ready(bytes) = cold.poll(context) else {
            self.cold = Some(cold);
            return Poll::Pending;
        };
        Poll::Ready(self.seal(session, &[IoSlice::new(&bytes?)]))
    }

    /// Encrypts the beginning of `slices` into a new buffer, and returns the number of bytes. None if the page cache
    /// does not have the next bytes. Then they are being read.
    fn seal(&mut self, session: &mut Session, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let sealer = session.sealer().map_err(broken)?;
        let (prefix, suffix) = (sealer.prefix_bytes(), sealer.suffix_bytes());
        let stride = prefix + RECORD_MAX_BYTES + suffix;
        let mut buffer = RecordBuffer::new();
        let memory = buffer.beginning_at(page_offset(slices).wrapping_sub(prefix) % PAGE_BYTES);
        let gathered = gather(slices, memory, stride, prefix)?;
        if let (0, Some((located, length))) = (gathered.filled_bytes, gathered.missing) {
            self.cold = Some(ColdRead::start(slices, located, length));
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
        buffer.sealed(sealed_bytes);
        self.waiting = buffer;
        Ok(Some(gathered.filled_bytes))
    }
}
