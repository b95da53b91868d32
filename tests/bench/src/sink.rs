//! The client that costs little: it reads into one buffer that all of its connections share, counts, and forgets, or
//! has the kernel forget where the bytes need not be seen. Over TLS it opens the records of the head and only walks over
//! the others (`records`), so the processor time of the machine goes to the server; `client` checks the same bodies by
//! digest in passes that are not measured.
//!
//! Invariant: a body counts only if its announced and its received length are the expected one.

use std::cell::RefCell;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use nix::sys::socket::{MsgFlags, recv};
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

use crate::BoxError;
use crate::client::{Head, PATIENCE, Target, parse_head};
use crate::records::RecordCounter;

const BUFFER_BYTES: usize = 256 << 10;
const RECORD_HEADER_BYTES: usize = 5;

thread_local! {
    /// Never borrowed across an await.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// One connection, good for one body where it is TLS.
pub(crate) struct Sink {
    tcp: TcpStream,
    tls: Option<ClientConnection>,
}

/// A body that came whole.
pub(crate) struct Fetched {
    pub(crate) head: Head,
    pub(crate) first_byte: Instant,
    pub(crate) last_byte: Instant,
}

impl Sink {
    /// Connects, with the handshake where there is one.
    pub(crate) async fn open(target: &Target, source: Option<Ipv4Addr>) -> Result<Self, BoxError> {
        let mut tcp = target.dial(source).await?;
        let Some(config) = &target.tls else { return Ok(Self { tcp, tls: None }) };
        let mut tls = ClientConnection::new(config.clone(), target.server_name()?)?;
        while tls.is_handshaking() {
            flush(&mut tcp, &mut tls).await?;
            if tls.is_handshaking() {
                read_record(&mut tcp, &mut tls).await?;
            }
        }
        flush(&mut tcp, &mut tls).await?;
        Ok(Self { tcp, tls: Some(tls) })
    }

    /// The socket alone, which keeps the server's side open while ours forgets its state.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.tcp
    }

    /// Pulls a body of so many bytes.
    pub(crate) async fn fetch(
        &mut self,
        target: &Target,
        path: &str,
        expected_bytes: u64,
    ) -> Result<Fetched, BoxError> {
        let fetching = async {
            let request = target.request(path);
            match &mut self.tls {
                None => self.tcp.write_all(&request).await?,
                Some(tls) => {
                    std::io::Write::write_all(&mut tls.writer(), &request)?;
                    flush(&mut self.tcp, tls).await?;
                }
            }
            let (head, body_bytes) = self.head().await?;
            head.expect(expected_bytes)?;
            self.body(head, body_bytes, expected_bytes).await
        };
        let fetched: Result<_, BoxError> = tokio::time::timeout(PATIENCE, fetching).await?;
        fetched.map_err(|error| format!("{path} from {}: {error}", target.address).into())
    }

    /// The head, and how much of the body came with it.
    async fn head(&mut self) -> Result<(Head, u64), BoxError> {
        let mut bytes = Vec::new();
        loop {
            match &mut self.tls {
                None => {
                    if self.tcp.read_buf(&mut bytes).await? == 0 {
                        return Err("the connection ended in an answer's head".into());
                    }
                }
                Some(tls) => {
                    read_record(&mut self.tcp, tls).await?;
                    let mut plain = [0; 1 << 14];
                    while let Ok(count @ 1..) = tls.reader().read(&mut plain) {
                        bytes.extend_from_slice(&plain[..count]);
                    }
                }
            }
            if let Some((head, begin)) = parse_head(&bytes)? {
                return Ok((head, (bytes.len() - begin) as u64));
            }
        }
    }

    async fn body(&mut self, head: Head, had_bytes: u64, expected_bytes: u64) -> Result<Fetched, BoxError> {
        let mut first_byte = (had_bytes > 0).then(Instant::now);
        let mut records = RecordCounter::default();
        let mut plain_bytes = 0;
        while had_bytes + plain_bytes < expected_bytes {
            self.tcp.readable().await?;
            let read = BUFFER.with_borrow_mut(|buffer| {
                let count = match self.read_or_discard(buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                    read => read?,
                };
                if self.tls.is_some() {
                    records.feed(&buffer[..count])?;
                }
                Ok::<_, BoxError>(Some(count))
            })?;
            match read {
                None => continue,
                Some(0) => return Err(format!("the body ended at {} bytes", had_bytes + plain_bytes).into()),
                Some(count) if self.tls.is_none() => plain_bytes += count as u64,
                Some(_) => plain_bytes = records.plain_bytes,
            }
            if plain_bytes > 0 {
                first_byte.get_or_insert_with(Instant::now);
            }
        }
        if had_bytes + plain_bytes > expected_bytes {
            return Err("more came than was announced".into());
        }
        let last_byte = Instant::now();
        Ok(Fetched { head, first_byte: first_byte.unwrap_or(last_byte), last_byte })
    }

    /// TLS is read, to be walked over; plain bytes are counted and dropped by the kernel, which copies nothing for it.
    fn read_or_discard(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.tls.is_some() {
            return self.tcp.try_read(buffer);
        }
        let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        self.tcp.try_io(Interest::READABLE, || Ok(recv(self.tcp.as_raw_fd(), buffer, flags)?))
    }
}

/// Sends what TLS has to send.
async fn flush(tcp: &mut TcpStream, tls: &mut ClientConnection) -> Result<(), BoxError> {
    while tls.wants_write() {
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes)?;
        tcp.write_all(&bytes).await?;
    }
    Ok(())
}

/// Reads exactly one record, so that what follows is still in the socket.
async fn read_record(tcp: &mut TcpStream, tls: &mut ClientConnection) -> Result<(), BoxError> {
    let mut record = vec![0; RECORD_HEADER_BYTES];
    tcp.read_exact(&mut record).await?;
    let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(RECORD_HEADER_BYTES + length, 0);
    tcp.read_exact(&mut record[RECORD_HEADER_BYTES..]).await?;
    let mut rest = record.as_slice();
    while !rest.is_empty() {
        if tls.read_tls(&mut rest)? == 0 {
            return Err("TLS takes no more".into());
        }
        tls.process_new_packets()?;
    }
    Ok(())
}
