//! Encryption by the kernel (`data_plane.ktls`). hyper's bytes go to the socket unchanged, mapped files by sendfile,
//! and the kernel makes records of them. This file keeps the order of those bytes and the control messages: alerts and
//! key updates are records of their own type.
//!
//! Invariant: after a key update nothing is sent before the kernel has the next key. A kernel before Linux 6.14 accepts
//! no second key, and then the connection ends.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use entrepot_kernel::ktls::{self, Cipher, TransmitKey};
use entrepot_record::{ControlMessage, RecordError, Session};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

use super::client_socket::{ClientSocket, KernelOrder};
use super::incoming::broken;

/// The most control messages that wait for a client that takes nothing.
const CONTROL_MAX: usize = 64;

/// Whether the kernel encrypts, if `wanted`. The kernel is asked once.
pub(crate) fn kernel_seals(wanted: bool) -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    wanted
        && *ANSWER.get_or_init(|| match ktls::probe() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!("the kernel does no TLS ({error}; the module tls); this process seals instead");
                false
            }
        })
}

/// The control messages of a connection whose records the kernel makes.
#[derive(Default)]
pub(super) struct KernelControl {
    unsent: VecDeque<ControlMessage>,
    /// The kernel has refused a key, so nothing may be sent any more.
    is_refused: bool,
}

impl KernelControl {
    /// Has the kernel encrypt everything that `socket` sends from now on, with the key of the handshake.
    pub(super) fn take_over(socket: &mut ClientSocket, key: (u64, ConnectionTrafficSecrets)) -> io::Result<Self> {
        socket.hand_to_kernel(&transmit_key(key).map_err(broken)?)?;
        Ok(Self::default())
    }

    /// Sends the messages that wait and the session's new ones.
    pub(super) fn poll_send(
        &mut self,
        session: &mut Session,
        socket: &mut ClientSocket,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.unsent.extend(session.take_control());
        self.poll_orders(|order| socket.poll_kernel(context, &order))
    }

    /// Has the kernel encrypt the beginning of `slices`, once everything before it is sent. If that wears the key out,
    /// the next call changes it first.
    pub(super) fn poll_write(
        &mut self,
        session: &mut Session,
        socket: &mut ClientSocket,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(session, socket, context))?;
        let written = ready!(socket.poll_kernel(context, &KernelOrder::Data(slices)))?;
        session.kernel_sealed(written).map_err(broken)?;
        Poll::Ready(Ok(written))
    }

    /// Whether so many messages wait that the client has to take some first.
    pub(super) fn is_overdue(&self) -> bool {
        self.unsent.len() > CONTROL_MAX
    }

    fn poll_orders(
        &mut self,
        mut kernel: impl FnMut(KernelOrder<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        if self.is_refused {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        while let Some(message) = self.unsent.front() {
            ready!(kernel(KernelOrder::Record { kind: u8::from(message.kind), content: &message.bytes }))?;
            if let Some(key) = self.unsent.pop_front().and_then(|message| message.next_key) {
                self.is_refused = true;
                ready!(kernel(KernelOrder::ChangeKey(&transmit_key(key).map_err(broken)?)))?;
                self.is_refused = false;
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

#[cfg(test)]
mod tests {
    //! The order of messages and keys alone. `tls/tests.rs` has a whole connection whose kernel encrypts, `tests/vm` a
    //! real kernel.

    use rustls::ContentType;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn message(kind: ContentType, byte: u8, next_key: Option<(u64, ConnectionTrafficSecrets)>) -> ControlMessage {
        ControlMessage { kind, bytes: vec![byte], next_key }
    }

    fn waiting() -> KernelControl {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; 12]));
        let next_key = (5, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv });
        let mut control = KernelControl::default();
        control.unsent.extend([
            message(ContentType::Alert, 1, None),
            message(ContentType::Handshake, 2, Some(next_key)),
            message(ContentType::Alert, 3, None),
        ]);
        control
    }

    #[test]
    fn messages_and_keys_keep_their_order_whatever_the_socket_takes() {
        let (mut control, mut done, mut polls) = (waiting(), Vec::new(), 0);
        let mut is_full = false;
        let mut kernel = |order: KernelOrder<'_>| {
            is_full = !is_full && matches!(order, KernelOrder::Record { .. });
            if is_full {
                return Poll::Pending;
            }
            done.push(match order {
                KernelOrder::Data(_) => panic!("a control message"),
                KernelOrder::Record { kind, content } => format!("record {kind} {content:?}"),
                KernelOrder::ChangeKey(key) => {
                    assert_eq!((key.cipher, &key.key[..], *key.iv), (Cipher::Chacha20Poly1305, &[7; 32][..], [9; 12]));
                    format!("key at {}", key.sequence)
                }
            });
            Poll::Ready(Ok(0))
        };
        while control.poll_orders(&mut kernel).is_pending() {
            polls += 1;
        }
        assert_eq!(done, ["record 21 [1]", "record 22 [2]", "key at 5", "record 21 [3]"]);
        assert_eq!(polls, 3);
    }

    #[test]
    fn a_kernel_that_takes_no_second_key_sends_nothing_more() {
        let (mut control, mut sent) = (waiting(), 0);
        let mut kernel = |order: KernelOrder<'_>| match order {
            KernelOrder::Data(_) | KernelOrder::Record { .. } => {
                sent += 1;
                Poll::Ready(Ok(0))
            }
            KernelOrder::ChangeKey(_) => Poll::Ready(Err(io::ErrorKind::ResourceBusy.into())),
        };
        for expected in [io::ErrorKind::ResourceBusy, io::ErrorKind::BrokenPipe] {
            let Poll::Ready(Err(error)) = control.poll_orders(&mut kernel) else { panic!("goes on") };
            assert_eq!(error.kind(), expected);
        }
        assert_eq!(sent, 2);
    }

    #[test]
    fn a_client_that_takes_nothing_is_noticed() {
        let mut control = KernelControl::default();
        for number in 0..=CONTROL_MAX {
            assert!(!control.is_overdue(), "{number}");
            control.unsent.push_back(message(ContentType::Alert, 0, None));
        }
        assert!(control.is_overdue());
    }
}
