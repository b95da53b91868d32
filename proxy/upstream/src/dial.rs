//! Makes a TCP connection to a name: resolves it once, checks every address, and dials only checked ones (threat T5).
//!
//! The name is not resolved a second time, so a DNS answer that changes between check and connect has no effect. Several
//! addresses are tried as in RFC 8305 ("happy eyeballs"). One deadline covers all steps.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use entrepot_core::host::RegistryHost;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::address_policy::{AddressPolicy, AddressRefusal, Purpose};
use super::error::{ErrorKind, Stage, UpstreamError};
use super::lookups::{Asker, Lookups};

/// The settings of [`dial`]. Clones share the pools of lookups.
#[derive(Clone)]
pub(crate) struct DialSettings {
    /// Checks each resolved address.
    pub(crate) policy: AddressPolicy,
    /// Whether IPv6 addresses are dialled.
    pub(crate) ipv6: bool,
    /// For resolving and connecting together, and for a TLS handshake that follows.
    pub(crate) connect_timeout: Duration,
    lookups: Lookups,
}

/// The result of [`dial`].
#[derive(Debug)]
pub(crate) struct Dialled {
    /// The connection, with TCP_NODELAY and keep-alive.
    pub(crate) stream: TcpStream,
    /// The address that was connected to.
    pub(crate) peer: SocketAddr,
}

/// The reason why [`dial`] failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Policy refuses every address of the name. This is the first one's reason.
    #[error("refused: {0}")]
    Refused(AddressRefusal),
    /// The resolver failed, or the name has no usable address.
    #[error("{0}")]
    Dns(io::Error),
    /// No address accepted a connection. These are the first address that failed and its error.
    #[error("{0}")]
    Connect(SocketAddr, io::Error),
    /// The deadline passed during this stage.
    #[error("timed out")]
    TimedOut(Stage),
}

/// The most addresses that are tried for one connection.
const ADDRESSES_MAX: usize = 16;
/// RFC 8305, "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// The mark (SO_MARK) of entrepot's own connections to other hosts. The redirect agent leaves marked connections alone. The
/// value avoids the bits that container networks use.
pub const OWN_MARK: u32 = 0xe7;

impl DialSettings {
    /// Settings with their own pools of lookups.
    pub(crate) fn new(policy: AddressPolicy, ipv6: bool, connect_timeout: Duration) -> Self {
        Self { policy, ipv6, connect_timeout, lookups: Lookups::default() }
    }
}

impl DialError {
    /// The error of a request for `host`.
    pub(crate) fn into_upstream(self, host: impl std::fmt::Display) -> UpstreamError {
        let (stage, kind) = match self {
            Self::Refused(reason) => (Stage::Connect, ErrorKind::Refused(reason)),
            Self::Dns(error) => (Stage::Dns, ErrorKind::Unreachable(error.to_string())),
            Self::Connect(address, error) => (Stage::Connect, ErrorKind::Unreachable(format!("{address}: {error}"))),
            Self::TimedOut(stage) => (stage, ErrorKind::TimedOut),
        };
        UpstreamError::new(stage, kind, host)
    }
}

/// Connects to `target` for `purpose`. `asker` named the target. The `deadline` may also cover other steps of the caller.
pub(crate) async fn dial(
    target: &RegistryHost,
    (purpose, asker): (Purpose, Asker),
    settings: &DialSettings,
    deadline: Instant,
) -> Result<Dialled, DialError> {
    let timed_out = || DialError::TimedOut(Stage::Dns);
    let resolved = timeout_at(deadline, resolve(target, asker, settings)).await.map_err(|_| timed_out())?;
    let resolved = resolved.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => timed_out(),
        _ => DialError::Dns(error),
    })?;
    let addresses = permitted(resolved, purpose, settings)?;
    timeout_at(deadline, race(addresses)).await.map_err(|_| DialError::TimedOut(Stage::Connect))?
}

async fn resolve(target: &RegistryHost, asker: Asker, settings: &DialSettings) -> io::Result<Vec<SocketAddr>> {
    let port = target.port();
    if settings.policy.own().has_port(port) || settings.policy.own().is_stale() {
        let own = settings.policy.own().clone();
        tokio::task::spawn_blocking(move || own.refresh()).await?;
    }
    match target.address() {
        Some(ip) => Ok(vec![SocketAddr::new(ip, port)]),
        None => settings.lookups.resolve(target.name(), port, asker).await,
    }
}

/// The resolved addresses that policy permits, in the order of dialling.
fn permitted(
    resolved: Vec<SocketAddr>,
    purpose: Purpose,
    settings: &DialSettings,
) -> Result<Vec<SocketAddr>, DialError> {
    let mut refusal = None;
    let mut addresses = resolved;
    addresses.retain(|address| match settings.policy.check(purpose, *address) {
        Ok(()) => settings.ipv6 || address.is_ipv4(),
        Err(reason) => {
            refusal.get_or_insert(reason);
            false
        }
    });
    match (addresses.is_empty(), refusal) {
        (true, Some(reason)) => Err(DialError::Refused(reason)),
        (true, None) => Err(DialError::Dns(io::Error::new(io::ErrorKind::NotFound, "no usable address"))),
        (false, _) => Ok(interleave(addresses)),
    }
}

/// Alternates between the address families, beginning with the resolver's preferred one (RFC 8305 section 4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let preferred_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (preferred, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == preferred_v4);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [preferred.next(), other.next()];
        if pair == [None, None] || ordered.len() >= ADDRESSES_MAX {
            ordered.truncate(ADDRESSES_MAX);
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

/// Tries one address after the other. The next attempt begins when one fails or takes long. The first connection wins.
async fn race(addresses: Vec<SocketAddr>) -> Result<Dialled, DialError> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut first_failure = None;
    loop {
        attempts.extend(waiting.next().map(attempt));
        tokio::select! {
            outcome = attempts.next() => match outcome {
                Some(Ok(dialled)) => return Ok(dialled),
                Some(Err(failure)) => {
                    first_failure.get_or_insert(failure);
                }
                None => return Err(first_failure.unwrap_or(DialError::TimedOut(Stage::Connect))),
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

/// Whether our own connections are marked. Marking needs CAP_NET_ADMIN.
pub fn can_mark() -> bool {
    TcpSocket::new_v4().is_ok_and(|socket| SockRef::from(&socket).set_mark(OWN_MARK).is_ok())
}

async fn attempt(peer: SocketAddr) -> Result<Dialled, DialError> {
    connect(peer).await.map(|stream| Dialled { stream, peer }).map_err(|error| DialError::Connect(peer, error))
}

/// The bytes that the kernel may hold for the other side before they are sent. Bytes on the way do not count.
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

async fn connect(peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(4);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    // An upstream that takes a push slowly, or the far end of a tunnel, must not hold a whole send buffer. A socket that
    // refuses is used all the same.
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_MAX_BYTES);
    // Marking needs CAP_NET_ADMIN. Without it, the redirect agent knows our connections only if our control group is in
    // its `exempt_cgroups`.
    let _ = SockRef::from(&socket).set_mark(OWN_MARK);
    socket.connect(peer).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own::OwnSockets;
    use crate::testing::{assert_untouched, host_of, listener, loopback_settings, settings};

    async fn dial_in_time(
        target: &RegistryHost,
        purpose: Purpose,
        settings: &DialSettings,
    ) -> Result<Dialled, DialError> {
        dial(target, (purpose, Asker::of(purpose)), settings, Instant::now() + settings.connect_timeout).await
    }

    #[tokio::test]
    async fn loopback_is_refused_unless_allowed_however_it_is_spelled() {
        let (sentinel, address) = listener().await;
        let port = address.port();
        for name in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::127.0.0.1]"] {
            for purpose in [Purpose::Registry, Purpose::RedirectFromPublic, Purpose::Tunnel] {
                let target = RegistryHost::parse(name, port).expect(name);
                let error = dial_in_time(&target, purpose, &settings()).await.expect_err(name);
                assert!(matches!(error, DialError::Refused(AddressRefusal::Loopback)), "{name}: {error:?}");
            }
        }
        assert_untouched(&sentinel);
        let target = RegistryHost::parse("localhost", port).expect("a host");
        let dialled = dial_in_time(&target, Purpose::Registry, &loopback_settings()).await.expect("allowed");
        assert_eq!(dialled.peer, address);
        assert!(dialled.stream.nodelay().expect("an option"));
        assert!(SockRef::from(&dialled.stream).keepalive().expect("an option"));
        assert_eq!(SockRef::from(&dialled.stream).tcp_notsent_lowat().expect("an option"), UNSENT_MAX_BYTES);
    }

    #[tokio::test]
    async fn our_own_port_is_refused_even_when_allowed() {
        let (sentinel, address) = listener().await;
        let allow = vec!["127.0.0.0/8".parse().expect("a net")];
        let policy = AddressPolicy::new(allow, OwnSockets::new([address]));
        let settings = DialSettings::new(policy, true, Duration::from_secs(5));
        for purpose in Purpose::ALL {
            let error = dial_in_time(&host_of(address), purpose, &settings).await.expect_err("refused");
            assert!(matches!(error, DialError::Refused(AddressRefusal::Own)), "{error:?}");
        }
        assert_untouched(&sentinel);
    }

    #[tokio::test]
    async fn failures_name_their_stage() {
        let (closed, address) = listener().await;
        drop(closed);
        let error = dial_in_time(&host_of(address), Purpose::Registry, &loopback_settings()).await.expect_err("closed");
        assert!(matches!(&error, DialError::Connect(at, _) if *at == address), "{error:?}");
        let nowhere: RegistryHost = "nowhere.invalid".parse().expect("a host");
        let error = dial_in_time(&nowhere, Purpose::Registry, &settings()).await.expect_err("no such name");
        // The lookup times out on a machine without a resolver.
        assert!(matches!(error, DialError::Dns(_) | DialError::TimedOut(Stage::Dns)), "{error:?}");
        let v6: RegistryHost = "[2606:4700::1]".parse().expect("a host");
        let only_v4 = DialSettings { ipv6: false, ..settings() };
        let error = dial_in_time(&v6, Purpose::Registry, &only_v4).await.expect_err("switched off");
        assert!(matches!(error, DialError::Dns(_)), "{error:?}");
    }

    /// A listener whose full queue makes the kernel drop further SYNs, and the connections that fill it.
    async fn black_hole() -> (tokio::net::TcpListener, Vec<Dialled>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let full = socket.listen(0).expect("listening");
        let address = full.local_addr().expect("an address");
        let mut held = Vec::new();
        while let Ok(dialled) = tokio::time::timeout(Duration::from_millis(300), attempt(address)).await {
            held.push(dialled.expect("connected"));
            assert!(held.len() < 8, "the queue never fills");
        }
        (full, held)
    }

    #[tokio::test]
    async fn a_connect_that_hangs_ends_at_the_deadline() {
        let (full, _held) = black_hole().await;
        let target = host_of(full.local_addr().expect("an address"));
        let settings = DialSettings { connect_timeout: Duration::from_millis(300), ..loopback_settings() };
        let error = dial_in_time(&target, Purpose::Registry, &settings).await.expect_err("no answer");
        assert!(matches!(error, DialError::TimedOut(Stage::Connect)), "{error:?}");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_is_dead_or_slow() {
        let (_alive, address) = listener().await;
        let (closed, dead) = listener().await;
        drop(closed);
        assert_eq!(race(vec![dead, address]).await.expect("the second").peer, address);
        let (full, _held) = black_hole().await;
        let slow = full.local_addr().expect("an address");
        let began = Instant::now();
        assert_eq!(race(vec![slow, address]).await.expect("the second").peer, address);
        // The kernel would repeat the SYN after 1 s.
        assert!((ATTEMPT_DELAY..Duration::from_secs(1)).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[test]
    fn families_alternate_and_are_bounded() {
        let address = |text: &str| text.parse::<SocketAddr>().expect(text);
        let (a, b, c) = (address("[2606::1]:1"), address("[2606::2]:1"), address("9.9.9.9:1"));
        assert_eq!(interleave(vec![a, b, c]), [a, c, b]);
        assert_eq!(interleave(vec![c, a, b]), [c, a, b]);
        assert_eq!(interleave(vec![a; 40]).len(), ADDRESSES_MAX);
    }
}
