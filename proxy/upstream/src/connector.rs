//! Makes connections for hyper's pool: directly or through the parent proxy, with TLS if the URI's scheme is https.
//!
//! Tunnels use [`Reach`] without a pool. `roots` decides which certificates TLS trusts.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use entrepot_core::client::ClientKey;
use entrepot_core::host::{HTTPS_PORT, RegistryHost};
use entrepot_core::origin::{Origin, Scheme};
use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::address_policy::{AddressPolicy, Purpose, is_public};
use super::dial::{DialSettings, dial};
use super::error::{ErrorKind, Stage, UpstreamError};
use super::lookups::Asker;
use super::origin_states::{OriginStates, ProbeId};
use super::own::Ourselves;
use super::parent_proxy::{Parent, bypasses};
use super::roots::Trust;
use entrepot_config::ready::{NoProxy, RegistryPolicy, Upstream};

/// Between two probes of an origin that cannot be reached.
const PROBE_PAUSE_FIRST: Duration = Duration::from_millis(500);
const PROBE_PAUSE_LONGEST: Duration = Duration::from_secs(2);

/// The other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// The target host, at this address.
    Address(SocketAddr),
    /// The parent proxy. Only it knows the target's address.
    Parent,
}

/// Opens connections to other hosts as the configuration says.
pub struct Reach {
    dial: DialSettings,
    parent: Option<Parent>,
    no_proxy: NoProxy,
    trust: Trust,
    states: OriginStates,
    /// The time within which a connection stands, if the origin is well.
    check_connect_timeout: Duration,
    /// Probes run on it.
    runtime: Handle,
}

/// A fresh connection to a host. Nothing was sent over it yet.
#[derive(Debug)]
pub struct Opened {
    /// A TCP connection to the host, or a tunnel through the parent proxy.
    pub stream: TcpStream,
    /// The host's address, or the parent proxy.
    pub(crate) peer: Peer,
}

/// How many requests a pooled connection has carried. It is an extra of the connection.
#[derive(Clone, Default)]
pub(crate) struct Uses(Arc<AtomicU64>);

impl Uses {
    /// Counts one more. Returns whether there were others before.
    pub(crate) fn count(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) > 0
    }
}

impl Peer {
    /// Whether the host is on the Internet. None behind a parent proxy.
    pub(crate) fn is_public(self) -> Option<bool> {
        match self {
            Self::Address(address) => Some(is_public(address.ip())),
            Self::Parent => None,
        }
    }
}

impl Reach {
    /// Reads the system's root certificates from disk, so do not call it on the event loop.
    pub(crate) fn new(upstream: &Upstream, registries: &[RegistryPolicy], ourselves: &Ourselves) -> Self {
        let policy = AddressPolicy::new(upstream.allow_addresses.clone(), ourselves.sockets.clone());
        let NoProxy { everything, names, networks } = &upstream.no_proxy;
        Self {
            dial: DialSettings::new(policy, upstream.ipv6, upstream.connect_timeout),
            parent: upstream.proxy.as_ref().map(|parent| Parent::new(parent, Arc::clone(&ourselves.instance))),
            no_proxy: NoProxy { everything: *everything, names: names.clone(), networks: networks.clone() },
            trust: Trust::new(upstream, registries, &ourselves.authorities),
            states: OriginStates::default(),
            check_connect_timeout: upstream.check_connect_timeout,
            runtime: Handle::current(),
        }
    }

    /// Opens a connection to `target` for `client` within `timeout`. `heard_via` are the `Via` values of the request for
    /// the tunnel, which the parent proxy gets as well.
    pub async fn open_tunnel(
        &self,
        target: &RegistryHost,
        client: ClientKey,
        heard_via: &[HeaderValue],
        timeout: Duration,
    ) -> Result<Opened, UpstreamError> {
        let asked = (Purpose::Tunnel, Asker::Client(client));
        self.open_until(target, asked, heard_via, Instant::now() + timeout).await
    }

    async fn open_until(
        &self,
        target: &RegistryHost,
        (purpose, asker): (Purpose, Asker),
        heard_via: &[HeaderValue],
        deadline: Instant,
    ) -> Result<Opened, UpstreamError> {
        match self.parent.as_ref().filter(|_| !bypasses(&self.no_proxy, target)) {
            Some(parent) => self.open_through(parent, target, purpose, heard_via, deadline).await,
            None => {
                let dialled = dial(target, (purpose, asker), &self.dial, deadline).await;
                let dialled = dialled.map_err(|error| error.into_upstream(target))?;
                Ok(Opened { stream: dialled.stream, peer: Peer::Address(dialled.peer) })
            }
        }
    }

    async fn open_through(
        &self,
        parent: &Parent,
        target: &RegistryHost,
        purpose: Purpose,
        heard_via: &[HeaderValue],
        deadline: Instant,
    ) -> Result<Opened, UpstreamError> {
        let failed = |kind| UpstreamError::new(Stage::Connect, kind, target);
        if let Some(address) = literal(target) {
            self.dial.policy.check(purpose, address).map_err(|reason| failed(ErrorKind::Refused(reason)))?;
        }
        let dialled = dial(&parent.host, (Purpose::Parent, Asker::Administrator), &self.dial, deadline).await;
        let mut stream =
            dialled.map_err(|error| error.into_upstream(format_args!("parent proxy {}", parent.host)))?.stream;
        timeout_at(deadline, parent.tunnel(&mut stream, target, heard_via))
            .await
            .map_err(|_| failed(ErrorKind::TimedOut))?
            .map_err(|error| failed(ErrorKind::Parent(error)))?;
        Ok(Opened { stream, peer: Peer::Parent })
    }

    /// What is remembered of origins that do not answer.
    pub(crate) fn states(&self) -> &OriginStates {
        &self.states
    }

    /// No connection to the origin stood in time. That is remembered, and a probe finds out when one does.
    pub(crate) fn unreached(self: &Arc<Self>, origin: &Origin, purpose: Purpose) {
        let Some(probe) = self.states.unreached(origin, Instant::now()) else { return };
        tracing::warn!(%origin, "upstream cannot be reached; what is stored of it is served without asking until it can");
        self.runtime.spawn(self::probe(Arc::downgrade(self), origin.clone(), purpose, probe));
    }

    /// A connection for the pool. An origin to which none stands in time is remembered, also if this one stands later.
    async fn connect(self: &Arc<Self>, uri: &Uri, purpose: Purpose) -> Result<Conduit, UpstreamError> {
        let (target, tls) = origin(uri)?;
        let origin = Origin { scheme: if tls { Scheme::Https } else { Scheme::Http }, host: target };
        let mut opening = pin!(self.open_conduit(&origin, purpose, self.dial.connect_timeout));
        let conduit = tokio::select! {
            biased;
            conduit = &mut opening => conduit?,
            () = sleep(self.check_connect_timeout) => {
                self.unreached(&origin, purpose);
                opening.await?
            }
        };
        self.reached(&origin);
        Ok(conduit)
    }

    fn reached(&self, origin: &Origin) {
        if self.states.connected(origin) {
            tracing::info!(%origin, "upstream can be reached again");
        }
    }

    async fn open_conduit(
        &self,
        origin: &Origin,
        purpose: Purpose,
        timeout: Duration,
    ) -> Result<Conduit, UpstreamError> {
        let (target, tls) = (&origin.host, origin.scheme == Scheme::Https);
        let deadline = Instant::now() + timeout;
        let Opened { stream, peer } = self.open_until(target, (purpose, Asker::of(purpose)), &[], deadline).await?;
        if !tls {
            return Ok(Conduit { io: Box::new(stream), peer, h2: false });
        }
        let failed = |kind| UpstreamError::new(Stage::Tls, kind, target);
        let name = ServerName::try_from(target.name().to_owned())
            .map_err(|error| failed(ErrorKind::Protocol(error.to_string())))?;
        let connector = TlsConnector::from(Arc::clone(self.trust.for_host(target)));
        let stream = timeout_at(deadline, connector.connect(name, stream))
            .await
            .map_err(|_| failed(ErrorKind::TimedOut))?
            .map_err(|error| failed(tls_failure(&error)))?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Conduit { io: Box::new(stream), peer, h2 })
    }
}

/// Connects until a connection stands, or fails quickly: then asking costs nothing, and checks find out themselves.
async fn probe(reach: Weak<Reach>, origin: Origin, purpose: Purpose, probe: ProbeId) {
    let mut pause = PROBE_PAUSE_FIRST;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(PROBE_PAUSE_LONGEST);
        let Some(reach) = reach.upgrade() else { return };
        if !reach.states.wants_probe(&origin, probe, Instant::now()) {
            return;
        }
        match reach.open_conduit(&origin, purpose, reach.check_connect_timeout).await {
            Err(error) if error.is_timeout() => {}
            Ok(_) | Err(_) => return reach.reached(&origin),
        }
    }
}

/// The address of a target that needs no resolver. `localhost` counts too, because the parent would resolve it to
/// itself.
fn literal(target: &RegistryHost) -> Option<SocketAddr> {
    let name = target.name();
    let local = name == "localhost" || name.ends_with(".localhost");
    let ip = if local { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { target.address() };
    ip.map(|ip| SocketAddr::new(ip, target.port()))
}

/// The host of an absolute http or https URI, and whether it wants TLS.
pub(super) fn origin(uri: &Uri) -> Result<(RegistryHost, bool), UpstreamError> {
    let unusable = |why: &str| {
        let shown = uri.host().unwrap_or("(no host)");
        UpstreamError::new(Stage::Connect, ErrorKind::Protocol(why.to_owned()), shown)
    };
    let (tls, default_port) = match uri.scheme_str() {
        Some("https") => (true, HTTPS_PORT),
        Some("http") => (false, 80),
        _ => return Err(unusable("not an http or https address")),
    };
    // `Uri::port` returns None for a number that is not a port, as if there were none.
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let target = RegistryHost::parse(host, default_port).map_err(|error| unusable(&error.to_string()))?;
    Ok((target, tls))
}

fn tls_failure(error: &io::Error) -> ErrorKind {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(reason)) => ErrorKind::Certificate(reason.to_string()),
        Some(other) => ErrorKind::Protocol(other.to_string()),
        None => ErrorKind::Reset,
    }
}

/// hyper's connector for the pool of one purpose.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) reach: Arc<Reach>,
    pub(super) purpose: Purpose,
    /// The runtime whose reactor drives the connection.
    pub(super) runtime: Handle,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Conduit>;
    type Error = UpstreamError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { reach, purpose, runtime } = self.clone();
        Box::pin(async move {
            let target = uri.host().unwrap_or_default().to_owned();
            let connecting = runtime.spawn(async move { reach.connect(&uri, purpose).await.map(TokioIo::new) });
            // The task ends early only if the runtime shuts down.
            connecting.await.unwrap_or_else(|_| Err(UpstreamError::new(Stage::Connect, ErrorKind::Reset, target)))
        })
    }
}

/// A pooled connection, plain or TLS.
pub(super) struct Conduit {
    io: Box<dyn Stream>,
    peer: Peer,
    h2: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connection for Conduit {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.peer).extra(Uses::default());
        if self.h2 { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Conduit {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Conduit {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address_policy::AddressRefusal;
    use crate::testing::{assert_untouched, host_of, listener, upstream};
    use entrepot_config::ready::ParentProxy;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn through(parent: SocketAddr) -> Upstream {
        Upstream { proxy: Some(ParentProxy { host: host_of(parent), authorization: None }), ..upstream() }
    }

    fn nobody() -> ClientKey {
        ClientKey::of([192, 0, 2, 1].into())
    }

    async fn open(settings: &Upstream, target: &str) -> Result<Opened, UpstreamError> {
        let target = target.parse().expect(target);
        let reach = Reach::new(settings, &[], &Ourselves::default());
        reach.open_tunnel(&target, nobody(), &[], settings.tunnel_connect_timeout).await
    }

    #[test]
    fn origins_come_from_absolute_uris_only() {
        for (uri, host, tls) in [
            ("https://GHCR.io/v2/", "ghcr.io", true),
            ("http://reg.example:5000/v2/", "reg.example:5000", false),
            ("http://reg.example/", "reg.example:80", false),
            ("https://user:pw@[::1]:8443/", "[::1]:8443", true),
        ] {
            let (target, wants_tls) = origin(&uri.parse().expect(uri)).expect(uri);
            assert_eq!((target.to_string().as_str(), wants_tls), (host, tls), "{uri}");
        }
        for uri in ["/v2/", "ftp://ghcr.io/", "ghcr.io:443", "http://0x7f.1/", "http://127.1/", "https://a:99999/"] {
            let error = origin(&uri.parse().expect(uri)).expect_err(uri);
            assert!(matches!(error.kind, ErrorKind::Protocol(_)), "{uri}: {error}");
        }
    }

    #[tokio::test]
    async fn a_parent_resolves_names_that_we_cannot() {
        let (server, address) = listener().await;
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.expect("a connection");
            let mut head = vec![0; 1024];
            let length = stream.read(&mut head).await.expect("a request");
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.expect("sent");
            head.truncate(length);
            String::from_utf8(head).expect("text")
        });
        let mut opened = open(&through(address), "nowhere.invalid").await.expect("tunnelled");
        assert_eq!((opened.peer, opened.peer.is_public()), (Peer::Parent, None));
        let mut rest = String::new();
        opened.stream.read_to_string(&mut rest).await.expect("the rest");
        assert_eq!(rest, "hello");
        assert!(serving.await.expect("no panic").starts_with("CONNECT nowhere.invalid:443 HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn literals_are_judged_before_the_parent_is_asked() {
        let (sentinel, address) = listener().await;
        let settings = Upstream { allow_addresses: Vec::new(), ..through(address) };
        for target in ["127.0.0.1", "localhost", "x.localhost:80", "169.254.169.254:80", "[::ffff:127.0.0.1]"] {
            let error = open(&settings, target).await.expect_err(target);
            assert!(error.is_ours(), "{target}: {error}");
        }
        assert_untouched(&sentinel);
    }

    #[tokio::test]
    async fn hosts_on_the_list_go_past_the_parent() {
        let (sentinel, parent) = listener().await;
        let (_server, address) = listener().await;
        let networks = vec!["127.0.0.0/8".parse().expect("a net")];
        let settings = Upstream { no_proxy: NoProxy { networks, ..NoProxy::default() }, ..through(parent) };
        let opened = open(&settings, &address.to_string()).await.expect("dialled");
        assert_eq!((opened.peer, opened.peer.is_public()), (Peer::Address(address), Some(false)));
        assert_untouched(&sentinel);
    }

    #[tokio::test]
    async fn a_parent_that_is_ourselves_or_silent_is_named() {
        let (sentinel, address) = listener().await;
        let ourselves = Ourselves { sockets: super::super::own::OwnSockets::new([address]), ..Ourselves::default() };
        let target = "ghcr.io".parse().expect("a host");
        let reach = Reach::new(&through(address), &[], &ourselves);
        let error = reach.open_tunnel(&target, nobody(), &[], Duration::from_secs(9)).await.expect_err("a loop");
        assert_eq!(error.kind, ErrorKind::Refused(AddressRefusal::Own));
        assert!(error.to_string().contains("parent proxy"), "{error}");
        assert_untouched(&sentinel);
        let reach = Reach::new(&through(address), &[], &Ourselves::default());
        let error = reach.open_tunnel(&target, nobody(), &[], Duration::from_millis(100)).await.expect_err("silent");
        assert_eq!((error.stage, error.kind), (Stage::Connect, ErrorKind::TimedOut));
    }
}
