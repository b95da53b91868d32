//! Connections at the level of bytes: a real ClientHello, cut as a test says, and a steady stream of new connections
//! that measures how long none succeeded.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::ServerName;

use crate::authority::provider;
use crate::namespace::Namespace;

/// The first byte of a TLS handshake record.
const HANDSHAKE: u8 = 22;

/// The first bytes of a TLS client for `host`.
pub fn client_hello(host: &str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let mut client = ClientConnection::new(config.into(), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("memory");
    hello
}

/// Sends `pieces` one by one. Returns whether a TLS server answers. Blocks: for a thread of a namespace.
pub fn tls_answers(address: SocketAddr, pieces: &[&[u8]], timeout: Duration) -> bool {
    let talking = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        for piece in pieces {
            stream.write_all(piece)?;
        }
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first[0] == HANDSHAKE)
    };
    talking().unwrap_or(false)
}

/// Starts a connection every 10 ms for `window`, and runs `disturb` meanwhile. Returns how long no new connection
/// succeeded after it. None if the last ones still failed. The first connections must succeed.
pub fn outage(
    namespace: &Namespace,
    address: SocketAddr,
    host: &str,
    window: Duration,
    disturb: impl FnOnce(),
) -> Option<Duration> {
    const INTERVAL: Duration = Duration::from_millis(10);
    const PATIENCE: Duration = Duration::from_secs(1);
    let hello = client_hello(host);
    let (sender, results) = channel();
    let handle = namespace.handle().clone();
    let prober = namespace.handle().spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        let began = Instant::now();
        while began.elapsed() < window {
            ticks.tick().await;
            let (hello, sender, started) = (hello.clone(), sender.clone(), Instant::now());
            handle.spawn_blocking(move || {
                let _ = sender.send((started, tls_answers(address, &[&hello], PATIENCE)));
            });
        }
    });
    let (_, first) = results.recv().expect("the first connection");
    assert!(first, "connections succeed before anything is disturbed");
    let disturbed = Instant::now();
    disturb();
    namespace.wait(async move { prober.await.expect("the prober does not panic") });
    let mut seen: Vec<(Instant, bool)> = results.iter().collect();
    seen.sort_unstable();
    let last_failure = seen.iter().rposition(|(started, good)| *started >= disturbed && !good);
    match last_failure {
        None => Some(Duration::ZERO),
        Some(index) => seen.get(index + 1).map(|(started, _)| started.duration_since(disturbed)),
    }
}
