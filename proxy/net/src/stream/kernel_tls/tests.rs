//! Real rustls clients, and a socket that does what `Documentation/networking/tls.rst` says of the kernel's: each write is
//! a record, a control message is one of its own type, and a key is changed between two records.

use std::sync::{Arc, Mutex};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs as provider;
use rustls::version::TLS13;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::stream::handshake::accept;
use crate::stream::handshake::tests::{PATIENCE, client_with, host, roots, store};

/// A pipe with a kernel that seals.
struct Kernel {
    pipe: DuplexStream,
    sealing: Mutex<Sealing>,
    /// Whether it is new enough to take a second key.
    can_change: bool,
}

#[derive(Default)]
struct Sealing {
    key: Option<(LessSafeKey, [u8; 12], u64)>,
    /// Records that the pipe has not taken yet.
    waiting: Vec<u8>,
}

impl Sealing {
    fn take(&mut self, key: &TransmitKey) {
        let algorithm = match key.cipher {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::Chacha20Poly1305 => &CHACHA20_POLY1305,
        };
        let cipher = LessSafeKey::new(UnboundKey::new(algorithm, &key.key).expect("a key of its length"));
        self.key = Some((cipher, *key.iv, key.sequence));
    }

    fn record(&mut self, kind: u8, content: &[u8]) {
        let (cipher, iv, sequence) = self.key.as_mut().expect("taken over");
        let mut nonce = *iv;
        nonce[4..].iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        *sequence += 1;
        let mut inner = [content, &[kind]].concat();
        let length = u16::try_from(inner.len() + 16).expect("a record").to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let nonce = Nonce::assume_unique_for_key(nonce);
        cipher.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("sealed");
        self.waiting.extend(header);
        self.waiting.extend(inner);
    }
}

impl Kernel {
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sealing = self.sealing.get_mut().expect("one thread");
        while !sealing.waiting.is_empty() {
            let taken = ready!(Pin::new(&mut self.pipe).poll_write(context, &sealing.waiting))?;
            sealing.waiting.drain(..taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl Wire for Kernel {
    fn take_over(&self, key: &TransmitKey) -> io::Result<()> {
        self.sealing.lock().expect("one thread").take(key);
        Ok(())
    }

    fn change_key(&self, key: &TransmitKey) -> io::Result<()> {
        if !self.can_change {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.sealing.lock().expect("one thread").take(key);
        Ok(())
    }

    fn poll_record(&mut self, context: &mut Context<'_>, kind: u8, content: &[u8]) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(context))?;
        self.sealing.get_mut().expect("one thread").record(kind, content);
        let _ = self.poll_waiting(context)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Kernel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buf)
    }
}

impl AsyncWrite for Kernel {
    /// Before the handshake is over, bytes go as they are.
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.sealing.get_mut().expect("one thread").key.is_none() {
            return Pin::new(&mut self.pipe).poll_write(context, bytes);
        }
        ready!(self.poll_waiting(context))?;
        let length = bytes.len().min(16 * 1024);
        self.sealing.get_mut().expect("one thread").record(23, &bytes[..length]);
        let _ = self.poll_waiting(context)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(context))?;
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(context))?;
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

async fn pair(suite: &str, can_change: bool) -> (Handed<Kernel>, TlsStream<DuplexStream>) {
    let store = store();
    let mut crypto = provider::default_provider();
    crypto.cipher_suites.retain(|known| format!("{:?}", known.suite()) == suite);
    let client = client_with(crypto, roots(&store), &[&TLS13]);
    let config = store.server_config(&host("ghcr.io")).await.expect("a leaf");
    let (near, far) = tokio::io::duplex(50_000);
    let far = Kernel { pipe: far, sealing: Mutex::default(), can_change };
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("ghcr.io").expect("a name");
    let (served, client) = tokio::join!(accept(far, config, PATIENCE), connector.connect(name, near));
    let secured = served.expect("accepted");
    assert!(is_fit(&secured));
    (Handed::new(secured).expect("taken over"), client.expect("connected"))
}

const SUITES: [&str; 3] = ["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256"];

/// Sends back what comes, under a key that each write wears out.
async fn echo(mut handed: Handed<Kernel>) -> io::Result<()> {
    handed.receiver.session.limit_key_use(2);
    let mut piece = vec![0; 10_000];
    loop {
        let read = handed.read(&mut piece).await?;
        if read == 0 {
            return handed.shutdown().await;
        }
        handed.write_all(&piece[..read]).await?;
        handed.flush().await?;
    }
}

#[tokio::test]
async fn keys_change_for_both_reasons_and_everything_arrives() {
    for suite in SUITES {
        let (handed, mut client) = pair(suite, true).await;
        let echoing = tokio::spawn(echo(handed));
        for round in 0..20u8 {
            if round % 3 == 0 {
                client.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
            }
            let sent = vec![round; 30_000];
            client.write_all(&sent).await.expect("written");
            client.flush().await.expect("flushed");
            let mut heard = vec![0; 30_000];
            client.read_exact(&mut heard).await.expect("echoed");
            assert!(heard == sent, "{suite}, round {round}");
        }
        client.shutdown().await.expect("ended");
        assert_eq!(client.read(&mut [0]).await.expect("a clean end"), 0);
        echoing.await.expect("no panic").expect("a clean end");
    }
}

#[tokio::test]
async fn a_kernel_that_takes_no_second_key_ends_the_connection() {
    let (handed, mut client) = pair(SUITES[0], false).await;
    let echoing = tokio::spawn(echo(handed));
    client.write_all(b"once").await.expect("written");
    client.flush().await.expect("flushed");
    let mut heard = [0; 4];
    client.read_exact(&mut heard).await.expect("under the first key");
    // The other side may be gone already.
    let _ = client.write_all(b"twice").await;
    let _ = client.flush().await;
    assert!(client.read_exact(&mut heard).await.is_err(), "nothing is sealed under a key that is worn out");
    echoing.await.expect("no panic").expect_err("the kernel refused");
}

#[tokio::test]
async fn nonsense_is_answered_by_an_alert() {
    let (mut handed, client) = pair(SUITES[0], true).await;
    let (mut pipe, mut session) = client.into_inner();
    pipe.write_all(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
        .await
        .expect("written");
    handed.read(&mut [0]).await.expect_err("no record");
    drop(handed);
    let mut answer = Vec::new();
    pipe.read_to_end(&mut answer).await.expect("read");
    let mut answer = &answer[..];
    let told = loop {
        session.read_tls(&mut answer).expect("room");
        if let Err(error) = session.process_new_packets() {
            break error;
        }
        assert!(!answer.is_empty(), "no alert");
    };
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
}
