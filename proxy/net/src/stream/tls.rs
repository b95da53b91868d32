//! A TLS connection with a client, whoever seals what is sent: this process (`sealed`), or the kernel (`handed`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handshake::Secured;
use super::incoming::broken;
use super::kernel_tls::{Handed, Wire, is_fit};
use super::sealing::Sealed;

/// A connection with a client that has shaken hands.
pub enum Secure<IO> {
    /// Records are made here.
    Sealed(Sealed<IO>),
    /// Records are made by the kernel.
    Handed(Handed<IO>),
}

/// Whether the kernel seals, if `wanted`: it is asked once.
pub fn kernel_seals(wanted: bool) -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    wanted
        && *ANSWER.get_or_init(|| match entrepot_kernel::ktls::probe() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("the kernel does no TLS ({error}; the module tls); this process seals instead");
                false
            }
        })
}

impl<IO: Wire> Secure<IO> {
    /// Over this connection; by the kernel if `wanted`, and where it can.
    pub fn new(secured: Secured<IO>, wanted: bool) -> io::Result<Self> {
        if is_fit(&secured) && kernel_seals(wanted) {
            Ok(Self::Handed(Handed::new(secured)?))
        } else {
            Ok(Self::Sealed(Sealed::new(secured).map_err(broken)?))
        }
    }
}

impl<IO: Wire> AsyncRead for Secure<IO> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Sealed(io) => Pin::new(io).poll_read(context, buf),
            Self::Handed(io) => Pin::new(io).poll_read(context, buf),
        }
    }
}

impl<IO: Wire> AsyncWrite for Secure<IO> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Sealed(io) => Pin::new(io).poll_write_vectored(context, slices),
            Self::Handed(io) => Pin::new(io).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Sealed(io) => Pin::new(io).poll_flush(context),
            Self::Handed(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Sealed(io) => Pin::new(io).poll_shutdown(context),
            Self::Handed(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}
