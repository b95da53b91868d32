//! Decides from a request's head whether it may be answered and whether it may change something. No I/O.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use entrepot_core::host::RegistryHost;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode, Uri};

use entrepot_core::secret::Secret;
use entrepot_net::http::fields::only;

/// The way by which a request came in.
#[derive(Clone)]
pub(super) enum Entrance {
    /// The unix socket. Its mode decides which processes may open it, so nothing else is checked here.
    Unix,
    /// A TCP connection that arrived at `local`.
    Tcp {
        /// The address on our side.
        local: IpAddr,
        /// The token that allows changes. `None` if the configuration has none: then TCP allows no changes.
        token: Option<Secret>,
    },
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
         Bearer"
    )]
    NoToken,
    #[error("changes over TCP need the admin token: send Authorization: Bearer TOKEN, or use the admin unix socket")]
    Token,
}

impl GateError {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::NoToken | Self::Token => StatusCode::FORBIDDEN,
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
pub(super) fn check_change(headers: &HeaderMap, entrance: &Entrance) -> Result<(), GateError> {
    if headers.contains_key(ORIGIN) {
        let host = only(headers, &HOST).ok_or(GateError::Origin)?;
        let origin = only(headers, &ORIGIN).ok_or(GateError::Origin)?;
        let same = ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host));
        if !same {
            return Err(GateError::Origin);
        }
    }
    let Entrance::Tcp { token, .. } = entrance else { return Ok(()) };
    let token = token.as_ref().ok_or(GateError::NoToken)?;
    let given = only(headers, &AUTHORIZATION).and_then(|value| value.split_once(' '));
    match given {
        Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") && equal(given.trim(), token.expose()) => Ok(()),
        _ => Err(GateError::Token),
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
        Entrance::Tcp { local: "::ffff:192.0.2.7".parse().expect("an address"), token: token.map(Secret::new) }
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
            (Some("Bearer canary-2"), Err(GateError::Token)),
            (Some("Bearer canary-"), Err(GateError::Token)),
            (Some("Bearer"), Err(GateError::Token)),
            (Some("Basic canary-1"), Err(GateError::Token)),
            (None, Err(GateError::Token)),
        ] {
            let sent: Vec<_> = given.map(|given| (AUTHORIZATION, given)).into_iter().collect();
            assert_eq!(check_change(&headers(&sent), &tcp(Some("canary-1"))), result, "{given:?}");
            assert_eq!(check_change(&headers(&sent), &tcp(None)), Err(GateError::NoToken));
            assert_eq!(check_change(&headers(&sent), &Entrance::Unix), Ok(()));
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
                assert_eq!(check_change(&headers(&sent), &entrance).is_ok(), ok, "{origin}");
            }
        }
    }
}
