//! Opens tunnels through a parent proxy by CONNECT, for plain http as well, and tells which hosts bypass it.
//!
//! The parent resolves names, so the address policy can check only literal addresses; `connector` does that. This module
//! reads the head of the parent's answer and no byte beyond it. The bytes behind it belong to the tunnel's user.
//!
//! hyper-util 0.1.21 has both parts, as `client::legacy::connect::proxy::Tunnel` and `client::proxy::matcher`. Run
//! against this module's tests, they differ in ways that users notice:
//!
//! - `Tunnel` discards the bytes behind the head that arrive with it, so a tunnel to a server that speaks first (SSH, SMTP)
//!   loses its greeting.
//! - `Tunnel` takes 200 as the only success, although RFC 9110 section 9.3.6 names every 2xx.
//! - `Tunnel` reports all other statuses and answers that are not HTTP as one error, whose type is not exported. A 403 of
//!   the parent could not be told from a 503 (worth a retry) or from a wrong address in `upstream.proxy`.
//! - The matcher ignores entries with a port (`reg.example:5000`) and with `*.`, which Docker and Go programs accept.
//! - The matcher's `*` does not cover literal addresses, and `::ffff:10.1.2.3` is not in its `10.0.0.0/8`.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use entrepot_core::error::said;
use entrepot_core::host::RegistryHost;
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use entrepot_config::ready::{NoProxy, ParentProxy};
use entrepot_core::secret::Secret;

/// A parent proxy and our credentials for it.
pub(crate) struct Parent {
    pub(crate) host: RegistryHost,
    authorization: Option<Secret>,
    instance: Arc<str>,
}

/// The reason why the parent proxy did not open a tunnel.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ParentError {
    /// It refused our credentials, or wants some.
    #[error("it answered 407; check the user and password in upstream.proxy")]
    Unauthorized,
    /// It answered with this status, neither 2xx nor 407. `said` is the text of its answer, which only a person who set
    /// it up may read.
    #[error("it answered {status}; ask its administrator, or list the host in upstream.no_proxy")]
    Status { status: StatusCode, said: Option<Box<str>> },
    /// It closed the connection without a complete answer.
    #[error("it closed the connection without an answer; check that upstream.proxy names an http proxy")]
    Closed,
    /// Its answer is not HTTP, or the head exceeds a limit.
    #[error("its answer is not HTTP; check that upstream.proxy names an http proxy")]
    Malformed,
    /// The connection to it broke, for this reason.
    #[error("the connection to it broke ({0}); try again")]
    Broken(io::ErrorKind),
}

/// The largest head of the parent's answer.
const HEAD_MAX_BYTES: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// The most of a refusal's body that is read, and the time that it may take.
const TEXT_MAX_BYTES: u64 = 4096;
const TEXT_DEADLINE: Duration = Duration::from_millis(500);

impl ParentError {
    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Status { status, .. } => status.is_server_error(),
            Self::Closed | Self::Broken(_) => true,
            Self::Unauthorized | Self::Malformed => false,
        }
    }
}

impl From<io::Error> for ParentError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.kind())
    }
}

impl Parent {
    /// `instance` is our name in `Via`.
    pub(crate) fn new(configured: &ParentProxy, instance: Arc<str>) -> Self {
        Self { host: configured.host.clone(), authorization: configured.authorization.clone(), instance }
    }

    /// Asks for a tunnel to `target`, over a fresh connection to the parent. `heard_via` are the `Via` values of the request
    /// for which the tunnel is.
    pub(crate) async fn tunnel(
        &self,
        stream: &mut TcpStream,
        target: &RegistryHost,
        heard_via: &[HeaderValue],
    ) -> Result<(), ParentError> {
        stream.write_all(self.request(target, heard_via).as_bytes()).await?;
        match read_status(stream).await? {
            status if status.is_success() => Ok(()),
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Err(ParentError::Unauthorized),
            status => Err(ParentError::Status { status, said: read_text(stream).await }),
        }
    }

    fn request(&self, target: &RegistryHost, heard_via: &[HeaderValue]) -> String {
        // CONNECT requires a port. No host has port 0, so the authority always includes its own.
        let authority = target.authority(0);
        let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        for hop in heard_via.iter().filter_map(|hop| hop.to_str().ok()) {
            let _ = write!(head, "Via: {hop}\r\n");
        }
        // Writing to a String does not fail.
        let _ = write!(head, "Via: 1.1 entrepot-{}\r\n", self.instance);
        if let Some(authorization) = &self.authorization {
            let _ = write!(head, "Proxy-Authorization: {}\r\n", authorization.expose());
        }
        head.push_str("\r\n");
        head
    }
}

/// Reads the head of the answer and nothing more: it peeks first, then reads up to the head's end.
async fn read_status(stream: &mut TcpStream) -> Result<StatusCode, ParentError> {
    let mut head = vec![0; HEAD_MAX_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        let peeked = stream.peek(&mut head[filled..]).await?;
        if peeked == 0 {
            return Err(ParentError::Closed);
        }
        // The end may begin in bytes that were read before.
        let from = filled.saturating_sub(3);
        let end =
            head[from..filled + peeked].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4);
        let until = end.unwrap_or(filled + peeked);
        stream.read_exact(&mut head[filled..until]).await?;
        filled = until;
        if end.is_some() {
            return parse_status(&head[..filled]);
        }
    }
    Err(ParentError::Malformed)
}

/// The text of a refusal. None if none comes soon.
async fn read_text(stream: &mut TcpStream) -> Option<Box<str>> {
    let mut body = Vec::new();
    // A proxy that keeps the connection open ends nothing, so what came until the deadline counts.
    let mut bounded = stream.take(TEXT_MAX_BYTES);
    let _ = tokio::time::timeout(TEXT_DEADLINE, bounded.read_to_end(&mut body)).await;
    said(&body).map(Into::into)
}

fn parse_status(head: &[u8]) -> Result<StatusCode, ParentError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).map_err(|_| ParentError::Malformed)?;
    response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(ParentError::Malformed)
}

/// Whether `host` is reached without the parent proxy. An entry covers a name and all names below it.
pub(crate) fn bypasses(no_proxy: &NoProxy, host: &RegistryHost) -> bool {
    let named = |(name, port): &(String, Option<u16>)| {
        let below = host.name().strip_suffix(name.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'));
        below && port.is_none_or(|port| port == host.port())
    };
    let address = host.address().map(|ip| ip.to_canonical());
    let within = |ip: IpAddr| no_proxy.networks.iter().any(|network| network.contains(&ip));
    no_proxy.everything || no_proxy.names.iter().any(named) || address.is_some_and(within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{host_of, listener};
    use tokio::net::TcpListener;

    fn parent(host: RegistryHost) -> Parent {
        let authorization = Some(Secret::new("Basic dTpw"));
        Parent::new(&ParentProxy { host, authorization }, "i1".into())
    }

    async fn asked(answer: &'static [u8]) -> (Result<(), ParentError>, TcpStream, String) {
        let (server, address) = listener().await;
        let answering = tokio::spawn(answer_once(server, answer));
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let target = "[2606::1]:443".parse().expect("a host");
        let outcome =
            parent(host_of(address)).tunnel(&mut stream, &target, &[HeaderValue::from_static("1.0 before")]).await;
        (outcome, stream, answering.await.expect("no panic"))
    }

    async fn answer_once(server: TcpListener, answer: &'static [u8]) -> String {
        let (mut stream, _) = server.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a byte"));
        }
        // Two writes split the end of the head.
        let (first, second) = answer.split_at(answer.len() / 2);
        stream.write_all(first).await.expect("sent");
        tokio::task::yield_now().await;
        stream.write_all(second).await.expect("sent");
        String::from_utf8(request).expect("text")
    }

    #[tokio::test]
    async fn a_tunnel_begins_right_behind_the_head() {
        let (outcome, mut stream, request) = asked(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nbanner of an ssh server").await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            request,
            "CONNECT [2606::1]:443 HTTP/1.1\r\nHost: [2606::1]:443\r\nVia: 1.0 before\r\nVia: 1.1 entrepot-i1\r\n\
             Proxy-Authorization: Basic dTpw\r\n\r\n"
        );
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.expect("the rest");
        assert_eq!(rest, "banner of an ssh server");
    }

    #[tokio::test]
    async fn every_2xx_opens_the_tunnel() {
        assert_eq!(asked(b"HTTP/1.1 204 Connected\r\n\r\n").await.0, Ok(()));
    }

    #[tokio::test]
    async fn refusals_say_what_the_parent_said() {
        for (answer, error) in [
            (&b"HTTP/1.1 407 Who are you\r\n\r\n"[..], ParentError::Unauthorized),
            (
                b"HTTP/1.0 503 No\r\nContent-Length: 2\r\n\r\nno",
                ParentError::Status { status: StatusCode::SERVICE_UNAVAILABLE, said: Some("no".into()) },
            ),
            (
                b"HTTP/1.1 502 x\r\n\r\n{\"errors\":[{\"message\":\"no such name\"}]}",
                ParentError::Status { status: StatusCode::BAD_GATEWAY, said: Some("no such name".into()) },
            ),
            (b"HTTP/1.1 403 No\r\n\r\n", ParentError::Status { status: StatusCode::FORBIDDEN, said: None }),
            (b"", ParentError::Closed),
            (b"HTTP/1.1 200 OK\r\n", ParentError::Closed),
            (b"SSH-2.0-OpenSSH\r\n\r\n", ParentError::Malformed),
        ] {
            let (outcome, ..) = asked(answer).await;
            assert_eq!(outcome, Err(error), "{}", String::from_utf8_lossy(answer));
        }
        let endless: &'static [u8] = vec![b'x'; HEAD_MAX_BYTES].leak();
        assert_eq!(asked(endless).await.0, Err(ParentError::Malformed));
    }

    #[test]
    fn no_proxy_lists() {
        let list = NoProxy {
            everything: false,
            names: vec![("corp.example".into(), None), ("reg.example".into(), Some(5000))],
            networks: vec!["10.0.0.0/8".parse().expect("a net"), "fd00::/8".parse().expect("a net")],
        };
        for (host, bypassed) in [
            ("corp.example", true),
            ("a.b.CORP.example:5000", true),
            ("evilcorp.example", false),
            ("example", false),
            ("reg.example:5000", true),
            ("x.reg.example:5000", true),
            ("reg.example", false),
            ("10.1.2.3", true),
            ("[::ffff:10.1.2.3]", true),
            ("[fd12::1]:5000", true),
            ("11.1.2.3", false),
        ] {
            let host: RegistryHost = host.parse().expect(host);
            assert_eq!(bypasses(&list, &host), bypassed, "{host}");
        }
        let everything = NoProxy { everything: true, ..NoProxy::default() };
        for host in ["ghcr.io", "192.0.2.1", "[2001:db8::1]:5000"] {
            assert!(bypasses(&everything, &host.parse().expect(host)), "{host}");
        }
        assert!(!bypasses(&NoProxy::default(), &"ghcr.io".parse().expect("a host")));
    }
}
