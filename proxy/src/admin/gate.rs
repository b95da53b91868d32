//! Decides from a request's head whether it may be answered and whether it may change something. No I/O.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use entrepot_core::host::RegistryHost;
use http::header::{AUTHORIZATION, FORWARDED, HOST, ORIGIN, VIA};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};

use entrepot_core::secret::Secret;
use entrepot_net::http::fields::only;

/// The way by which a request came in.
#[derive(Clone)]
pub(super) enum Entrance {
    /// The unix socket. Its mode decides which processes may open it, so nothing else is checked here.
    Unix,
    /// A TCP connection.
    Tcp {
        /// The address on our side.
        local: IpAddr,
        /// The address of the client.
        peer: IpAddr,
        rights: TcpRights,
    },
}

/// The changes that TCP allows.
#[derive(Clone, Default)]
pub struct TcpRights {
    /// The token that allows every change. `None` if the configuration has none.
    pub token: Option<Secret>,
    /// Whether programs of this machine may clear the cache without the token (`admin.loopback_changes`).
    pub loopback_changes: bool,
}

/// The part that `admin.loopback_changes` has in the refusal of a change without a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LoopbackChanges {
    /// The setting is about another change.
    Elsewhere,
    /// The setting would allow this.
    Off,
    /// The setting is on, and this request does not meet its conditions.
    NotFromHere,
}

/// The reason why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum GateError {
    #[error(
        "the Host header does not name this machine; use localhost, the address it listens on, or docker-registry.local"
    )]
    Host,
    #[error("changes are not taken from pages of another origin")]
    Origin,
    #[error(
        "changes need the admin unix socket, or admin.token_file in the configuration and its token as Authorization: \
         Bearer{0}"
    )]
    NoToken(LoopbackChanges),
    #[error("changes over TCP need the admin token: send Authorization: Bearer TOKEN, or use the admin unix socket{0}")]
    Token(LoopbackChanges),
}

impl GateError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::NoToken(_) | Self::Token(_) => StatusCode::FORBIDDEN,
        }
    }
}

/// The names of this machine, whichever addresses it has.
const OWN_NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", "docker-registry.local"];

/// Whether the request is meant for this machine. A browser that was led here by DNS rebinding still sends the name
/// that the page used. The port is not compared, because forwarded ports are common.
pub(super) fn check_host(uri: &Uri, headers: &HeaderMap, entrance: &Entrance) -> Result<(), GateError> {
    let Entrance::Tcp { local, .. } = entrance else { return Ok(()) };
    let named = only(headers, &HOST).ok_or(GateError::Host)?;
    let target = uri.authority().map(|authority| authority.as_str());
    let ours = |text: &str| {
        let host = RegistryHost::parse(text, 80);
        host.is_ok_and(|host| OWN_NAMES.contains(&host.name()) || host.address() == Some(local.to_canonical()))
    };
    if ours(named) && target.is_none_or(ours) { Ok(()) } else { Err(GateError::Host) }
}

/// Whether the request may change something.
pub(super) fn check_change(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    entrance: &Entrance,
) -> Result<(), GateError> {
    if headers.contains_key(ORIGIN) {
        let host = only(headers, &HOST).ok_or(GateError::Origin)?;
        let origin = only(headers, &ORIGIN).ok_or(GateError::Origin)?;
        let same = ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host));
        if !same {
            return Err(GateError::Origin);
        }
    }
    let Entrance::Tcp { peer, rights, .. } = entrance else { return Ok(()) };
    let by_loopback = match (clears_the_cache(method, uri), rights.loopback_changes) {
        (false, _) => LoopbackChanges::Elsewhere,
        (true, false) => LoopbackChanges::Off,
        (true, true) if is_from_here(uri, headers, *peer) => return Ok(()),
        (true, true) => LoopbackChanges::NotFromHere,
    };
    let token = rights.token.as_ref().ok_or(GateError::NoToken(by_loopback))?;
    let given = only(headers, &AUTHORIZATION).and_then(|value| value.split_once(' '));
    match given {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") && equal(given.trim(), token.expose()) => Ok(()),
        _ => Err(GateError::Token(by_loopback)),
    }
}

/// The one change that `admin.loopback_changes` is about. Pushed content is never cleared.
fn clears_the_cache(method: &Method, uri: &Uri) -> bool {
    *method == Method::DELETE && uri.path() == "/api/cache"
}

/// Headers of a client that is not the one at the other end of the connection, and of one that has its own proof.
const NOT_OF_A_LOCAL_PROGRAM: [HeaderName; 6] = [
    ORIGIN,
    AUTHORIZATION,
    VIA,
    FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
];

/// Whether a program of this machine speaks for itself. A browser sends `Origin` with every change, and a page that was
/// led here by DNS rebinding has another Host. A reverse proxy on this machine speaks for others.
fn is_from_here(uri: &Uri, headers: &HeaderMap, peer: IpAddr) -> bool {
    let is_loopback = |text: &str| {
        let host = RegistryHost::parse(text, 80);
        host.is_ok_and(|host| {
            host.name() == "localhost" || host.address().is_some_and(|address| address.to_canonical().is_loopback())
        })
    };
    let named = only(headers, &HOST).is_some_and(is_loopback);
    let targeted = uri.authority().is_none_or(|authority| is_loopback(authority.as_str()));
    let own = !NOT_OF_A_LOCAL_PROGRAM.iter().any(|name| headers.contains_key(name));
    peer.to_canonical().is_loopback() && named && targeted && own
}

impl fmt::Display for LoopbackChanges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Elsewhere => "",
            Self::Off => {
                "; with admin.loopback_changes = true, DELETE http://localhost/api/cache clears the cache without a token"
            }
            Self::NotFromHere => {
                "; admin.loopback_changes lets only programs of this machine clear the cache: from a loopback address, \
                 with localhost in the Host header, and without Origin, Authorization and the headers of a proxy"
            }
        })
    }
}

/// Compares digests in constant time, so that the time reveals nothing about the token or its length.
fn equal(given: &str, expected: &str) -> bool {
    let [given, expected] = [given, expected].map(|text| digest(&SHA256, text.as_bytes()));
    verify_slices_are_equal(given.as_ref(), expected.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn tcp(token: Option<&str>) -> Entrance {
        let rights = TcpRights { token: token.map(Secret::new), loopback_changes: false };
        let [local, peer] = ["::ffff:192.0.2.7", "192.0.2.8"].map(|text| text.parse().expect("an address"));
        Entrance::Tcp { local, peer, rights }
    }

    /// A change that no setting but the token is about.
    fn may_reload(headers: &HeaderMap, entrance: &Entrance) -> Result<(), GateError> {
        check_change(&Method::POST, &Uri::from_static("/api/reload"), headers, entrance)
    }

    fn headers(pairs: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn only_our_own_names_are_answered() {
        let uri = Uri::from_static("/metrics");
        for (host, ok) in [
            ("localhost", true),
            ("LOCALHOST:3130", true),
            ("127.0.0.1:9999", true),
            ("[::1]:3130", true),
            ("192.0.2.7:3130", true),
            ("docker-registry.local", true),
            ("192.0.2.8", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.nip.io:3130", false),
            ("", false),
        ] {
            let result = check_host(&uri, &headers(&[(HOST, host)]), &tcp(None));
            assert_eq!(result.is_ok(), ok, "{host}");
        }
        let twice = headers(&[(HOST, "localhost"), (HOST, "localhost")]);
        for bad in [HeaderMap::new(), twice] {
            assert_eq!(check_host(&uri, &bad, &tcp(None)), Err(GateError::Host));
        }
        let absolute = Uri::from_static("http://evil.example/metrics");
        assert_eq!(check_host(&absolute, &headers(&[(HOST, "localhost")]), &tcp(None)), Err(GateError::Host));
        assert_eq!(check_host(&uri, &HeaderMap::new(), &Entrance::Unix), Ok(()));
    }

    #[test]
    fn changes_need_the_token_over_tcp() {
        for (given, result) in [
            (Some("Bearer canary-1"), Ok(())),
            (Some("bearer  canary-1"), Ok(())),
            (Some("Bearer canary-2"), Err(GateError::Token(LoopbackChanges::Elsewhere))),
            (Some("Bearer canary-"), Err(GateError::Token(LoopbackChanges::Elsewhere))),
            (Some("Bearer"), Err(GateError::Token(LoopbackChanges::Elsewhere))),
            (Some("Basic canary-1"), Err(GateError::Token(LoopbackChanges::Elsewhere))),
            (None, Err(GateError::Token(LoopbackChanges::Elsewhere))),
        ] {
            let sent: Vec<_> = given.map(|given| (AUTHORIZATION, given)).into_iter().collect();
            assert_eq!(may_reload(&headers(&sent), &tcp(Some("canary-1"))), result, "{given:?}");
            let no_token = Err(GateError::NoToken(LoopbackChanges::Elsewhere));
            assert_eq!(may_reload(&headers(&sent), &tcp(None)), no_token);
            assert_eq!(may_reload(&headers(&sent), &Entrance::Unix), Ok(()));
        }
    }

    #[test]
    fn other_origins_change_nothing_even_with_the_token() {
        for (origin, ok) in [
            ("http://localhost:3130", true),
            ("https://localhost:3130", true),
            ("http://localhost:8080", false),
            ("http://evil.example", false),
            ("null", false),
        ] {
            let sent = [(HOST, "localhost:3130"), (ORIGIN, origin), (AUTHORIZATION, "Bearer canary-1")];
            for entrance in [tcp(Some("canary-1")), Entrance::Unix] {
                assert_eq!(may_reload(&headers(&sent), &entrance).is_ok(), ok, "{origin}");
            }
        }
    }

    const LOCAL: &[(HeaderName, &str)] = &[(HOST, "localhost:3130")];
    const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

    #[rustfmt::skip]
    #[test]
    fn loopback_changes_are_for_programs_of_this_machine_and_for_the_cache() {
        for (line, peer, sent, ok) in [
            ("DELETE /api/cache", "127.0.0.1", LOCAL, true),
            ("DELETE /api/cache", "::1", LOCAL, true),
            ("DELETE /api/cache", "::ffff:127.0.0.2", &[(HOST, "127.0.0.1:3130")], true),
            ("DELETE /api/cache?x=y", "127.0.0.1", &[(HOST, "[::1]:3130")], true),
            ("DELETE http://localhost/api/cache", "127.0.0.1", LOCAL, true),
            // Not from this machine, or not for itself.
            ("DELETE /api/cache", "192.0.2.8", LOCAL, false),
            ("DELETE /api/cache", "127.0.0.1", &[], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "docker-registry.local")], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "192.0.2.7:3130")], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "localhost.evil.example")], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "localhost"), (HOST, "localhost")], false),
            ("DELETE http://rebound.example/api/cache", "127.0.0.1", LOCAL, false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "localhost:3130"), (ORIGIN, "http://localhost:3130")], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "localhost"), (FORWARDED_FOR, "192.0.2.8")], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "localhost"), (FORWARDED, "for=192.0.2.8")], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "localhost"), (VIA, "1.1 front")], false),
            ("DELETE /api/cache", "127.0.0.1", &[(HOST, "localhost"), (AUTHORIZATION, "Bearer wrong")], false),
            // Another change.
            ("POST /api/cache", "127.0.0.1", LOCAL, false),
            ("DELETE /api/cache/", "127.0.0.1", LOCAL, false),
            ("DELETE /api/cache/blobs/sha256:00", "127.0.0.1", LOCAL, false),
            ("DELETE /api/cache/tags", "127.0.0.1", LOCAL, false),
            ("DELETE /api/registry/repositories", "127.0.0.1", LOCAL, false),
            ("POST /api/reload", "127.0.0.1", LOCAL, false),
        ] {
            let (method, target) = line.split_once(' ').expect("a line");
            let (method, uri): (Method, Uri) = (method.parse().expect("a method"), target.parse().expect("a target"));
            for token in [None, Some(Secret::new("canary-1"))] {
                let rights = TcpRights { token, loopback_changes: true };
                let here = "127.0.0.1".parse().expect("an address");
                let entrance = Entrance::Tcp { local: here, peer: peer.parse().expect("an address"), rights };
                let checked = check_change(&method, &uri, &headers(sent), &entrance);
                assert_eq!(checked.is_ok(), ok, "{line} from {peer} with {sent:?}: {checked:?}");
                let Entrance::Tcp { rights, .. } = &entrance else { panic!("it is TCP") };
                let off = TcpRights { loopback_changes: false, ..rights.clone() };
                let off = Entrance::Tcp { local: here, peer: here, rights: off };
                let refused = check_change(&method, &uri, &headers(sent), &off).expect_err("it is off by default");
                let is_named = refused.to_string().contains("admin.loopback_changes = true");
                let is_origin = refused == GateError::Origin;
                assert_eq!(is_named, clears_the_cache(&method, &uri) && !is_origin, "{line}: {refused}");
            }
        }
    }
}
