//! A TLS connection with a client, after its handshake (`handshake.rs`). Records are encrypted in this process
//! (`sealing.rs`) or by the kernel (`kernel_tls.rs`), and always decrypted here (`incoming.rs`). The crate
//! `entrepot-record` has the protocol itself.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use entrepot_record::{Received, Session};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ExtractedSecrets, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_socket::ClientSocket;
use super::incoming::{Incoming, broken};
use super::kernel_tls::{KernelControl, kernel_seals};
use super::sealing::Sealing;

/// A connection with a client that has finished its handshake.
pub struct Tls {
    socket: ClientSocket,
    /// On the heap, because it is large: every layer above that it moves through would reserve memory for it.
    session: Box<Session>,
    incoming: Incoming,
    sending: Sending,
    hears_no_more: bool,
    /// Nothing more may be sent except the waiting bytes.
    says_no_more: bool,
}

/// The sending half: this process or the kernel encrypts.
enum Sending {
    Here(Sealing),
    Kernel(KernelControl),
}

/// A connection whose handshake is over, with the present keys of both directions.
pub(super) struct Secured {
    pub(super) socket: ClientSocket,
    pub(super) extracted: ExtractedSecrets,
    /// Derives the later keys.
    pub(super) secrets: KernelConnection<ServerConnectionData>,
    /// Records that the client sent after the handshake.
    pub(super) records: Vec<u8>,
}

impl Tls {
    /// The kernel encrypts if `kernel_wanted` and if it can, which needs TLS 1.3.
    pub(super) fn new(secured: Secured, kernel_wanted: bool) -> io::Result<Self> {
        let is_possible = secured.secrets.protocol_version() == ProtocolVersion::TLSv1_3;
        Self::with(secured, is_possible && kernel_seals(kernel_wanted))
    }

    fn with(secured: Secured, kernel_seals: bool) -> io::Result<Self> {
        let Secured { mut socket, extracted, secrets, records } = secured;
        let (session, sending) = if kernel_seals {
            let (session, key) = Session::with_kernel(extracted, secrets).map_err(broken)?;
            (session, Sending::Kernel(KernelControl::take_over(&mut socket, key)?))
        } else {
            (Session::new(extracted, secrets).map_err(broken)?, Sending::Here(Sealing::default()))
        };
        Ok(Self {
            socket,
            session: Box::new(session),
            incoming: Incoming::new(records),
            sending,
            hears_no_more: false,
            says_no_more: false,
        })
    }

    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sending.poll_send(&mut self.session, &mut self.socket, context)
    }
}

impl Sending {
    /// Sends the waiting bytes, including the session's control messages.
    fn poll_send(
        &mut self,
        session: &mut Session,
        socket: &mut ClientSocket,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Here(sealing) => sealing.poll_send(session, socket, context),
            Self::Kernel(control) => control.poll_send(session, socket, context),
        }
    }

    fn is_overdue(&self) -> bool {
        match self {
            Self::Here(sealing) => sealing.is_overdue(),
            Self::Kernel(control) => control.is_overdue(),
        }
    }
}

impl AsyncRead for Tls {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.incoming.give(buf) || buf.remaining() == 0 || this.hears_no_more {
                return Poll::Ready(Ok(()));
            }
            // The client's own control messages are answered as far as the socket takes the answers.
            if this.poll_unsent(context)?.is_pending() && this.sending.is_overdue() {
                return Poll::Pending;
            }
            match this.incoming.open(&mut this.session) {
                Ok(Some(Received::Closed)) => this.hears_no_more = true,
                Ok(Some(Received::Data(_) | Received::Nothing)) => {}
                Ok(None) => {
                    if !ready!(this.incoming.poll_more(&mut this.socket, context))? {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => {
                    (this.hears_no_more, this.says_no_more) = (true, true);
                    // The alert. If the client does not get it, the connection ends nevertheless.
                    let _ = this.poll_unsent(context);
                    return Poll::Ready(Err(broken(error)));
                }
            }
        }
    }
}

impl AsyncWrite for Tls {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.says_no_more {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match &mut this.sending {
            Sending::Here(sealing) => sealing.poll_write(&mut this.session, &mut this.socket, context, slices),
            Sending::Kernel(control) => control.poll_write(&mut this.session, &mut this.socket, context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(context))?;
        Pin::new(&mut this.socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.says_no_more {
            this.says_no_more = true;
            // A connection whose key can encrypt no more ends without the message.
            let _ = this.session.close();
        }
        ready!(this.poll_unsent(context))?;
        Pin::new(&mut this.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
