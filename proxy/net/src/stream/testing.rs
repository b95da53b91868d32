//! Helpers of this folder's tests.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::{Buf, Bytes};
use entrepot_kernel::ktls::{Cipher, TransmitKey};
use entrepot_kernel::mapping::MappedFile;
use entrepot_record::RECORD_MAX_BYTES;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client_socket::{ClientSocket, KernelOrder};

/// A bound on operations that should take no time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of a connection over loopback.
pub(crate) async fn socket_pair(send_timeout: Duration) -> (ClientSocket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    client.set_nodelay(true).expect("an option");
    (ClientSocket::new(listener.accept().await.expect("accepted").0, send_timeout), client)
}

/// A mapped file on a disk. In a memory file system, content is never cold.
pub(crate) fn mapped_file(content: &[u8]) -> Arc<MappedFile> {
    let mut file = tempfile::tempfile_in(std::env::current_dir().expect("a folder")).expect("a file");
    file.write_all(content).expect("written");
    file.sync_all().expect("synced");
    MappedFile::new(Arc::new(file), content.len() as u64).expect("mapped")
}

/// Writes slices as hyper does: all remaining ones at once, until none is left.
pub(crate) async fn write_all(io: &mut (impl AsyncWrite + Unpin), mut slices: Vec<Bytes>) -> io::Result<()> {
    while !slices.is_empty() {
        let borrowed: Vec<_> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut written = io.write_vectored(&borrowed).await?;
        drop(borrowed);
        while let Some(first) = slices.first_mut().filter(|first| written > 0 || first.is_empty()) {
            let taken = written.min(first.len());
            first.advance(taken);
            written -= taken;
            if first.is_empty() {
                slices.remove(0);
            }
        }
    }
    io.flush().await
}

/// A kernel that encrypts, as the kernel's `Documentation/networking/tls.rst` says: data become records, a control
/// message is a record of its own type, and a key is changed between two records.
pub(crate) struct Kernel {
    /// Whether it is new enough to take a second key.
    takes_second_key: bool,
    /// The cipher, the nonces' common part, and the number of the next record.
    key: Option<(LessSafeKey, [u8; 12], u64)>,
    /// The bytes of the last record that the socket has not taken yet.
    unsent: Vec<u8>,
    /// Everything that it did.
    pub(crate) done: Vec<Done>,
}

/// One thing that a [`Kernel`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Data,
    Alert,
    KeyUpdate,
    KeyChanged,
}

impl Kernel {
    pub(crate) fn new(takes_second_key: bool) -> Self {
        Self { takes_second_key, key: None, unsent: Vec::new(), done: Vec::new() }
    }

    pub(crate) fn take_over(&mut self, key: &TransmitKey) -> io::Result<()> {
        let algorithm = match key.cipher {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Chacha20Poly1305 => &CHACHA20_POLY1305,
        };
        let cipher = LessSafeKey::new(UnboundKey::new(algorithm, &key.key).expect("a key of its length"));
        self.key = Some((cipher, *key.iv, key.sequence));
        Ok(())
    }

    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        socket: &mut ClientSocket,
        order: &KernelOrder<'_>,
    ) -> Poll<io::Result<usize>> {
        let (kind, content, taken) = match order {
            KernelOrder::ChangeKey(_) if !self.takes_second_key => {
                return Poll::Ready(Err(io::ErrorKind::ResourceBusy.into()));
            }
            KernelOrder::ChangeKey(key) => {
                self.done.push(Done::KeyChanged);
                return Poll::Ready(self.take_over(key).map(|()| 0));
            }
            KernelOrder::Record { kind, content } => (*kind, content.to_vec(), 0),
            KernelOrder::Data(slices) => {
                let content = slices.iter().flat_map(|slice| slice.iter().copied()).take(RECORD_MAX_BYTES);
                let content: Vec<u8> = content.collect();
                let taken = content.len();
                (23, content, taken)
            }
        };
        let doing = match kind {
            21 => Done::Alert,
            22 => Done::KeyUpdate,
            23 => Done::Data,
            _ => panic!("a record of type {kind}"),
        };
        if self.unsent.is_empty() {
            assert_ne!(self.done.last(), Some(&Done::KeyUpdate), "nothing is sent before the next key");
            self.unsent = self.record(kind, content);
            self.done.push(doing);
        }
        assert_eq!(self.done.last(), Some(&doing), "a record is sent to its end before the next one");
        while !self.unsent.is_empty() {
            let sent = ready!(socket.poll_write_memory(context, &self.unsent))?;
            self.unsent.drain(..sent);
        }
        Poll::Ready(Ok(taken))
    }

    /// A record of TLS 1.3 (RFC 8446 section 5.2).
    fn record(&mut self, kind: u8, mut inner: Vec<u8>) -> Vec<u8> {
        let (cipher, iv, sequence) = self.key.as_mut().expect("taken over");
        let mut nonce = *iv;
        nonce[4..].iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        *sequence += 1;
        inner.push(kind);
        let length = u16::try_from(inner.len() + 16).expect("a record").to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let nonce = Nonce::assume_unique_for_key(nonce);
        cipher.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("sealed");
        [&header[..], &inner].concat()
    }
}
