//! Small requests over connections that are kept: as fast as answers come, or at a rate. Every answer is compared with
//! the manifest byte by byte.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep_until;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::BoxError;
use crate::client::{Target, parse_head};
use crate::content::Blob;
use crate::figures::Samples;

const BUFFER_BYTES: usize = 16 << 10;

/// What is asked again and again.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) target: Target,
    pub(crate) path: String,
    pub(crate) answer: Blob,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
}

/// What came of it.
pub(crate) struct Load {
    pub(crate) requests_per_second: f64,
    pub(crate) latencies_ms: Samples,
}

struct Connection {
    stream: TlsStream<TcpStream>,
    request: Vec<u8>,
    buffer: Vec<u8>,
    expected: bytes::Bytes,
}

impl Question {
    /// Each connection asks as soon as it was answered.
    pub(crate) async fn ask_at_once(&self) -> Result<Load, BoxError> {
        let connections = self.connect().await?;
        let begin = Instant::now();
        let deadline = begin + self.duration;
        let asking = connections.into_iter().map(|mut connection| {
            tokio::task::spawn_local(async move {
                let mut latencies_ms = Vec::new();
                while Instant::now() < deadline {
                    let sent = Instant::now();
                    connection.ask().await?;
                    latencies_ms.push(sent.elapsed().as_secs_f64() * 1e3);
                }
                Ok::<_, BoxError>(latencies_ms)
            })
        });
        let mut latencies_ms = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            latencies_ms.extend(asked.await??);
        }
        let requests_per_second = latencies_ms.len() as f64 / begin.elapsed().as_secs_f64();
        Ok(Load { requests_per_second, latencies_ms: Samples(latencies_ms) })
    }

    /// All connections together ask so many times a second. A request that had to wait for the answer before it is
    /// late from when it was due, so a stall is not hidden by the questions that it prevented.
    pub(crate) async fn ask_at_rate(&self, requests_per_second: f64) -> Result<Load, BoxError> {
        let connections = self.connect().await?;
        let begin = Instant::now();
        let deadline = begin + self.duration;
        let period = Duration::from_secs_f64(self.connections as f64 / requests_per_second);
        let asking = connections.into_iter().enumerate().map(|(number, mut connection)| {
            let mut due = begin + period.mul_f64(number as f64 / self.connections as f64);
            tokio::task::spawn_local(async move {
                let mut latencies_ms = Vec::new();
                while due < deadline {
                    let was_free = Instant::now() < due;
                    sleep_until(due.into()).await;
                    let since = if was_free { Instant::now() } else { due };
                    connection.ask().await?;
                    latencies_ms.push(since.elapsed().as_secs_f64() * 1e3);
                    due += period;
                }
                Ok::<_, BoxError>(latencies_ms)
            })
        });
        let mut latencies_ms = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            latencies_ms.extend(asked.await??);
        }
        let requests_per_second = latencies_ms.len() as f64 / begin.elapsed().as_secs_f64();
        Ok(Load { requests_per_second, latencies_ms: Samples(latencies_ms) })
    }

    async fn connect(&self) -> Result<Vec<Connection>, BoxError> {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            let tcp = self.target.dial(None).await?;
            let tls = self.target.tls.clone().ok_or("manifests are asked for over TLS")?;
            let stream = TlsConnector::from(tls).connect(self.target.server_name()?, tcp).await?;
            let mut connection = Connection {
                stream,
                request: self.target.request(&self.path),
                buffer: vec![0; BUFFER_BYTES],
                expected: self.answer.piece(0, self.answer.size_bytes),
            };
            connection.ask().await?;
            connections.push(connection);
        }
        Ok(connections)
    }
}

impl Connection {
    async fn ask(&mut self) -> Result<(), BoxError> {
        self.stream.write_all(&self.request).await?;
        self.stream.flush().await?;
        let mut have = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[have..]).await?;
            if read == 0 {
                return Err("a kept connection was closed".into());
            }
            have += read;
            let Some((head, body)) = parse_head(&self.buffer[..have])? else { continue };
            head.expect(self.expected.len() as u64)?;
            if have < body + self.expected.len() {
                continue;
            }
            if self.buffer[body..have] != self.expected[..] {
                return Err("an answer is not the manifest".into());
            }
            return Ok(());
        }
    }
}
