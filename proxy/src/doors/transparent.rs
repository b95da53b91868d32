//! The door on 3129: connections that were led here without the client's knowledge, raw TLS or HTTP.
//!
//! A little is read (`entrepot_core::sniff`), `introduction.rs` says what the connection is for, and it goes the way of
//! a CONNECT: answered by the same pipeline, or carried on sealed. The bytes that were read are replayed either way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use entrepot_core::door_rights::{self, DoorRights};
use entrepot_core::host::RegistryHost;
use entrepot_core::proxy_header::{self, HEADER_MAX_BYTES, Header, Relayed};
use entrepot_core::sniff::{SNIFF_MAX_BYTES, Sniffed, sniff};
use entrepot_core::unplaced;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};

use crate::doors::client::adopt;
use crate::doors::intercept::intercept;
use crate::doors::introduction::{RouteDecision, has_name, route};
use crate::doors::original::{Outgoing, canonical, original_destination};
use crate::doors::proxy::carry;
use crate::doors::state::AppState;
use crate::doors::unplaced::UnplacedConnections;
use entrepot_config::ready::LiveConfig;
use entrepot_core::origin::Scheme;
use entrepot_net::connection::{ConnectionContext, Destination, RegistryDestination};
use entrepot_net::drain::Watch;
use entrepot_net::places::{ConnectionSlot, Standing};
use entrepot_net::stream::client_socket::ClientSocket;
use entrepot_net::workers::load::Connected;
use entrepot_observe::labels::{ConnectionRefusal, Door, Rejection};
use entrepot_upstream::dial::can_mark;

/// The door on 3129.
pub struct TransparentDoor {
    state: Arc<AppState>,
    /// The ports that it listens on.
    ports: Vec<u16>,
    outgoing: Outgoing,
    unplaced: UnplacedConnections,
}

/// One connection to the door.
struct Introduced {
    peer: SocketAddr,
    standing: Standing,
    client: ClientSocket,
    original: Option<SocketAddr>,
    read: BytesMut,
}

/// After this long without a byte, the client is taken for one that waits for the server to speak first.
const SILENCE: Duration = Duration::from_secs(3);
const HEALTHY: &str = "HTTP/1.1 204 No Content\r\nServer: entrepot\r\nConnection: close\r\n";

/// Why there is nothing to serve.
enum Gone {
    /// The client left, or broke the connection.
    Left,
    /// It said too little for too long.
    Silent,
    /// It has a PROXY header that is broken, or that it may not send.
    Header,
}

impl TransparentDoor {
    /// A door on `ports` to what `proxy` serves.
    pub fn new(state: Arc<AppState>, ports: Vec<u16>) -> Self {
        Self { state, ports, outgoing: Outgoing::default(), unplaced: UnplacedConnections::default() }
    }

    /// Serves one connection on this thread until it ends. Its place at the door and its weight on this thread are kept
    /// as long.
    pub async fn serve(
        self: Arc<Self>,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        place: (ConnectionSlot, Connected),
        drain: Watch,
    ) {
        let Some(client) = adopt(stream, &self.state) else { return };
        let original = original_destination(client.tcp(), &self.ports);
        let snapshot = self.state.snapshot();
        let standing = place.0.standing().clone();
        let mut introduced = Introduced { peer: canonical(peer), standing, client, original, read: BytesMut::new() };
        let metrics = &self.state.pull.metrics;
        let mut draining = drain.clone();
        let opening = tokio::select! {
            opening = introduced.introduce(&snapshot.config) => opening,
            () = draining.draining() => return,
        };
        match opening {
            Ok(opening) => {
                let is_own = |host: &RegistryHost| self.is_own(&snapshot.config, host, introduced.original);
                let route = route(&snapshot.config, &opening, introduced.original, is_own);
                drop(snapshot);
                if !has_name(&opening) {
                    self.unplaced.note(introduced.peer, introduced.original);
                }
                introduced.client.replay(introduced.read.split().freeze());
                self.run(introduced, route, drain).await;
            }
            Err(Gone::Left) => {}
            Err(Gone::Silent) => metrics.connections_refused.inc(ConnectionRefusal::Timeout),
            Err(Gone::Header) => {
                tracing::info!(client = %introduced.peer, "a PROXY header is broken, or not in transparent.proxy_protocol_from");
                metrics.connections_refused.inc(ConnectionRefusal::Protocol);
            }
        }
        drop(place);
    }

    /// Whether a client means our registry: by the name, and by the address if the original destination is known.
    /// Another appliance of the same name is another registry.
    fn is_own(&self, config: &LiveConfig, host: &RegistryHost, original: Option<SocketAddr>) -> bool {
        let registry = &self.state.registry.local;
        let is_here = |original: SocketAddr| {
            let address = original.ip().to_string();
            registry.names().iter().any(|name| **name == *address)
        };
        registry.is_named(&config.registry, host) && original.is_none_or(is_here)
    }

    async fn run(&self, introduced: Introduced, route: RouteDecision, drain: Watch) {
        let metrics = &self.state.pull.metrics;
        match route {
            RouteDecision::Answer(host) => {
                self.lead_to(Destination::Registry(RegistryDestination { host, listed: true }), introduced, drain)
                    .await;
            }
            RouteDecision::Own => self.lead_to(Destination::Own, introduced, drain).await,
            RouteDecision::Tunnel(target) => {
                // A tunnel that rests looks like any other.
                let _busy = introduced.standing.busy();
                self.tunnel(introduced, target, drain).await;
            }
            RouteDecision::Health => {
                let mut client = introduced.client;
                let local = client.tcp().local_addr().map(|local| canonical(local).ip());
                let told = local.map(|local| self.unplaced.told_to(introduced.peer.ip(), local)).unwrap_or_default();
                // A connection has this from its listener.
                let is_transparent = SockRef::from(client.tcp()).ip_transparent_v4().unwrap_or(false);
                let rights = DoorRights { is_transparent, can_mark: can_mark() };
                let answer = format!("{HEALTHY}{}{}\r\n", door_rights::line(rights), unplaced::line(&told));
                // The agent that asks finds out by itself when it gets no answer.
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
            }
            RouteDecision::Refuse(host, refusal) => {
                tracing::info!(%host, client = %introduced.peer, "refused: {}", refusal.message());
                metrics.rejected_requests.inc(Rejection::Policy);
            }
            RouteDecision::Nowhere => {
                tracing::info!(client = %introduced.peer, "closed: no name, and where it meant to go is not known here");
                metrics.connections_refused.inc(ConnectionRefusal::Protocol);
            }
        }
    }

    async fn lead_to(&self, destination: Destination, introduced: Introduced, drain: Watch) {
        let connection = ConnectionContext {
            client: introduced.peer.ip(),
            door: Door::Transparent,
            scheme: Scheme::Http,
            destination,
            standing: introduced.standing,
        };
        intercept(&self.state, connection, introduced.client, drain).await;
    }

    async fn tunnel(&self, introduced: Introduced, target: RegistryHost, drain: Watch) {
        let metrics = &self.state.pull.metrics;
        // Our own end of a connection is remembered before its first byte is sent.
        if self.outgoing.contains(introduced.peer) {
            tracing::warn!(host = %target, "entrepot's own connection was redirected to itself and is closed; run the \
                agent with this process's control group in redirect.exempt_cgroups");
            metrics.rejected_requests.inc(Rejection::Loop);
            return;
        }
        let snapshot = self.state.snapshot();
        let upstream = &snapshot.config.upstream;
        let (timeout, idle) = (upstream.tunnel_connect_timeout, upstream.tunnel_idle_timeout);
        let client = introduced.peer.ip().into();
        let opened = snapshot.upstream.reach().open_tunnel(&target, client, &[], timeout).await;
        match opened {
            Ok(opened) => {
                drop(snapshot);
                let _known = self.outgoing.remember(&opened.stream);
                let ends = (introduced.client, opened.stream);
                carry(&self.state, ends, idle, drain, (&target, introduced.peer.ip())).await;
            }
            Err(error) => {
                tracing::info!(host = %target, client = %introduced.peer, "no tunnel: {error}");
                if error.is_ours() {
                    metrics.rejected_requests.inc(Rejection::Address);
                }
            }
        }
    }
}

impl Introduced {
    /// Reads until it is clear what the connection begins with.
    async fn introduce(&mut self, config: &LiveConfig) -> Result<Sniffed, Gone> {
        let deadline = Instant::now() + config.client.header_timeout;
        self.take_header(config, deadline).await?;
        loop {
            let opening = sniff(&self.read);
            if opening != Sniffed::NeedMore {
                return Ok(opening);
            }
            let patience = match (self.read.is_empty(), self.original) {
                (true, Some(_)) => deadline.min(Instant::now() + SILENCE),
                _ => deadline,
            };
            match self.read_more(SNIFF_MAX_BYTES, patience).await {
                Ok(()) => {}
                // A client that sent half a head is tunnelled to the address it meant. One that sent nothing is
                // dropped.
                Err(Gone::Left) if self.original.is_some() && !self.read.is_empty() => return Ok(Sniffed::Other),
                Err(Gone::Silent) if self.original.is_some() => return Ok(Sniffed::Other),
                Err(gone) => return Err(gone),
            }
        }
    }

    /// Takes a relay's header off the front, where one of these networks sends it.
    async fn take_header(&mut self, config: &LiveConfig, deadline: Instant) -> Result<(), Gone> {
        let networks = &config.transparent.proxy_protocol_from;
        let is_relay = networks.iter().any(|network| network.contains(&self.peer.ip()));
        if !is_relay {
            // Only these networks may name another client. From others the signature is no opening, and the connection
            // ends.
            return Ok(());
        }
        loop {
            match proxy_header::read(&self.read) {
                Header::NeedMore => self.read_more(HEADER_MAX_BYTES, deadline).await?,
                Header::Absent => return Ok(()),
                Header::Broken => return Err(Gone::Header),
                Header::Present(length, relayed) => {
                    drop(self.read.split_to(length));
                    if let Some(Relayed { client, destination }) = relayed {
                        self.peer = canonical(client);
                        self.original = Some(canonical(destination));
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn read_more(&mut self, room_bytes: usize, deadline: Instant) -> Result<(), Gone> {
        self.read.reserve(room_bytes.saturating_sub(self.read.len()).max(1));
        match timeout_at(deadline, self.client.read_buf(&mut self.read)).await {
            Err(_) => Err(Gone::Silent),
            Ok(Ok(count)) if count > 0 => Ok(()),
            Ok(_) => Err(Gone::Left),
        }
    }
}
