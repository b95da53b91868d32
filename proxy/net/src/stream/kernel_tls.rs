//! A TLS connection whose sending half the kernel has taken over (`data_plane.ktls`): what hyper writes goes to the socket
//! as it is, mapped files by sendfile, and the kernel makes records of it. Receiving stays here, as in `sealed`.
//!
//! Invariants: control messages (alerts, key updates) are records of their own and keep their place in the order; after
//! a key update nothing is sent before the kernel has the next key, and where it takes none (before Linux 6.14) the
//! connection ends.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use entrepot_kernel::ktls::{Cipher, TransmitKey};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

use super::handshake::Secured;
use super::incoming::{Receiver, broken};
use entrepot_record::{ControlMessage, RecordError, Session};

/// A connection whose socket the kernel can seal for.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Gives the sending half to the kernel.
    fn take_over(&self, key: &TransmitKey) -> io::Result<()>;
    /// Has the kernel go on with another key.
    fn change_key(&self, key: &TransmitKey) -> io::Result<()>;
    /// Sends a record of this type.
    fn poll_record(&mut self, context: &mut Context<'_>, kind: u8, content: &[u8]) -> Poll<io::Result<()>>;
}

/// Control messages that may wait for a client that takes nothing.
const REPLIES_MAX: usize = 64;

/// A connection with a client that has shaken hands.
pub struct Handed<IO> {
    io: IO,
    receiver: Receiver,
    replies: Replies,
}

/// Control messages that wait.
#[derive(Default)]
struct Replies(VecDeque<ControlMessage>);

/// Whether the kernel may seal for this connection.
pub fn is_fit<IO>(secured: &Secured<IO>) -> bool {
    secured.secrets.protocol_version() == ProtocolVersion::TLSv1_3
}

impl<IO: Wire> Handed<IO> {
    /// Over this connection, for which [`is_fit`].
    pub fn new(secured: Secured<IO>) -> io::Result<Self> {
        let (session, key) = Session::with_kernel(secured.extracted, secured.secrets).map_err(broken)?;
        secured.io.take_over(&transmit_key(key).map_err(broken)?)?;
        Ok(Self { io: secured.io, receiver: Receiver::new(session, secured.records), replies: Replies::default() })
    }

    fn poll_replies(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.replies.poll_send(&mut self.receiver.session, &mut self.io, context)
    }
}

impl Replies {
    /// Sends them, the session's new ones too, each key change in its place.
    fn poll_send<IO: Wire>(
        &mut self,
        session: &mut Session,
        io: &mut IO,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.extend(session.take_control());
        while let Some(reply) = self.0.front() {
            ready!(io.poll_record(context, u8::from(reply.kind), &reply.bytes))?;
            if let Some(key) = self.0.pop_front().and_then(|reply| reply.next_key) {
                io.change_key(&transmit_key(key).map_err(broken)?)?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn transmit_key((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<TransmitKey, RecordError> {
    let (cipher, key, iv) = match &secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::Chacha20Poly1305, key, iv),
        _ => return Err(RecordError::Sealing),
    };
    let iv = Zeroizing::new(iv.as_ref().try_into().map_err(|_| RecordError::Sealing)?);
    Ok(TransmitKey { cipher, key: key.as_ref().to_vec().into(), iv, sequence })
}

impl<IO: Wire> AsyncRead for Handed<IO> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { io, receiver, replies } = self.get_mut();
        receiver.poll_read(io, context, buf, |session, io, context| match replies.poll_send(session, io, context) {
            Poll::Ready(sent) => sent.map(|()| true),
            Poll::Pending => Ok(replies.0.len() <= REPLIES_MAX),
        })
    }
}

impl<IO: Wire> AsyncWrite for Handed<IO> {
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
        ready!(this.poll_replies(context))?;
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(context, slices))?;
        this.receiver.session.kernel_sealed(written).map_err(broken)?;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_replies(context))?;
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.receiver.close();
        ready!(this.poll_replies(context))?;
        Pin::new(&mut this.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
