//! Errors on the way to another host. Each tells the stage, whose fault it is, and whether a retry may help.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use http::StatusCode;

use super::address_policy::AddressRefusal;
use super::parent_proxy::ParentError;

/// The stage in which a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stage {
    /// Resolving the name.
    Dns,
    /// Connecting, directly or through the parent proxy.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Sending the request.
    Send,
    /// Waiting for the head of the response.
    Head,
    /// Receiving the body of the response.
    Body,
}

/// The kind of an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ErrorKind {
    /// Our own policy refuses the address.
    Refused(AddressRefusal),
    /// There is no such name, no route, or nothing listens. The text is the system's reason.
    Unreachable(String),
    /// The registry's token server answered, and this status says nothing about the login. `said` is the text of its
    /// answer, which may name the account.
    TokenServer { status: StatusCode, said: Option<Box<str>> },
    /// The stage's deadline passed.
    TimedOut,
    /// It did not answer a moment ago, and nothing has changed since. Only checks of what is stored fail so.
    Remembered,
    /// The body began, and then no more bytes arrived in time.
    Stalled,
    /// The certificate is not trusted, for this reason.
    Certificate(String),
    /// The other side broke the connection.
    Reset,
    /// The other side breaks the protocol, or the request's address is invalid.
    Protocol(String),
    /// The parent proxy did not open a tunnel.
    Parent(ParentError),
    /// The source of the request's body failed. It is the client's fault, not upstream's.
    RequestBody(ClientFault),
}

/// The way in which a client failed to send its body.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientFault {
    /// It sent nothing for too long.
    #[error("nothing came for {} s (client.body_timeout)", .0.as_secs_f32())]
    Stalled(Duration),
    /// It left or broke its framing, for this reason.
    #[error("{0}")]
    BrokeOff(String),
}

/// A request or the body of its response failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamError {
    /// The stage that did not end.
    pub(crate) stage: Stage,
    /// The cause.
    pub(crate) kind: ErrorKind,
    /// The host of the request as the message names it, or `parent proxy HOST` if the parent proxy was not reached. The
    /// port 443 is left out.
    pub(crate) host: Box<str>,
}

/// The answer of a server on the way that gave no access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal<'a> {
    pub by: RefusedBy,
    pub status: StatusCode,
    /// The text of the answer, in one line.
    pub said: Option<&'a str>,
}

/// The server that gave no access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedBy {
    ParentProxy,
    TokenServer,
}

impl UpstreamError {
    /// An error on the way to `host`.
    pub(crate) fn new(stage: Stage, kind: ErrorKind, host: impl fmt::Display) -> Self {
        Self { stage, kind, host: host.to_string().into() }
    }

    /// `host` gave an invalid answer, or one that may not be followed.
    pub(crate) fn protocol(host: impl fmt::Display, why: String) -> Self {
        Self::new(Stage::Head, ErrorKind::Protocol(why), host)
    }

    /// Whether a deadline passed. The client gets 504 then.
    pub fn is_timeout(&self) -> bool {
        matches!(self.kind, ErrorKind::TimedOut | ErrorKind::Stalled | ErrorKind::Remembered)
    }

    /// The status of the registry's token server, if that is what failed.
    pub fn of_token_server(&self) -> Option<StatusCode> {
        match self.kind {
            ErrorKind::TokenServer { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The refusal of a parent proxy or of a token server, with its own text, for a person on this machine: `said` may
    /// name an account, so no client of a server gets it.
    pub fn answered(&self) -> Option<Refusal<'_>> {
        match &self.kind {
            ErrorKind::Parent(ParentError::Status { status, said }) => {
                Some(Refusal { by: RefusedBy::ParentProxy, status: *status, said: said.as_deref() })
            }
            ErrorKind::TokenServer { status, said } => {
                Some(Refusal { by: RefusedBy::TokenServer, status: *status, said: said.as_deref() })
            }
            _ => None,
        }
    }

    /// The reason why the certificate of the other side is not trusted. None if that is not the trouble.
    pub fn untrusted(&self) -> Option<&str> {
        match &self.kind {
            ErrorKind::Certificate(why) => Some(why),
            _ => None,
        }
    }

    /// Whether our own policy refused the host. The client gets 403 then, else 502 or 504.
    pub fn is_ours(&self) -> bool {
        matches!(self.kind, ErrorKind::Refused(_))
    }

    /// Whether upstream took the request and then broke the connection instead of answering.
    pub fn broke_off(&self) -> bool {
        matches!((self.stage, &self.kind), (Stage::Send | Stage::Head, ErrorKind::Reset))
    }

    /// The client's own fault, if it is one. Upstream has nothing to do with it then.
    pub fn client_fault(&self) -> Option<&ClientFault> {
        match &self.kind {
            ErrorKind::RequestBody(fault) => Some(fault),
            _ => None,
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match &self.kind {
            ErrorKind::Unreachable(_)
            | ErrorKind::TokenServer { .. }
            | ErrorKind::TimedOut
            | ErrorKind::Remembered
            | ErrorKind::Stalled
            | ErrorKind::Reset => true,
            ErrorKind::Parent(error) => error.is_retryable(),
            ErrorKind::Refused(_) | ErrorKind::Certificate(_) | ErrorKind::Protocol(_) | ErrorKind::RequestBody(_) => {
                false
            }
        }
    }

    /// Translates an error of hyper. If one of our own lies beneath it, that one is returned.
    pub(super) fn dig(error: &(dyn StdError + 'static), stage: Stage, host: &str) -> Self {
        let chain = || std::iter::successors(Some(error), |error| beneath(*error));
        if let Some(own) = chain().find_map(|error| error.downcast_ref::<Self>()) {
            return own.clone();
        }
        let hyper = chain().find_map(|error| error.downcast_ref::<hyper::Error>());
        let io = chain().find_map(|error| error.downcast_ref::<io::Error>());
        let innermost = chain().last().unwrap_or(error).to_string();
        let kind = match (hyper, io.map(io::Error::kind)) {
            (Some(hyper), _) if hyper.is_parse() => ErrorKind::Protocol(innermost),
            (Some(hyper), _) if hyper.is_timeout() => ErrorKind::TimedOut,
            (_, Some(io::ErrorKind::TimedOut)) => ErrorKind::TimedOut,
            (_, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)) => ErrorKind::Protocol(innermost),
            (None, None) => ErrorKind::Protocol(innermost),
            _ => ErrorKind::Reset,
        };
        Self { stage, kind, host: host.into() }
    }
}

/// The error beneath. `io::Error::source` skips the error that it wraps, so that one is read with `get_ref`.
fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, doing) = (&self.host, self.stage.doing());
        match &self.kind {
            ErrorKind::Refused(AddressRefusal::Own) => {
                write!(formatter, "entrepot refuses {host}: it is entrepot itself; name the registry that you mean")
            }
            ErrorKind::Refused(reason @ (AddressRefusal::Unspecified | AddressRefusal::Multicast)) => {
                write!(
                    formatter,
                    "entrepot refuses {host}: it is {reason}, which no server can have; check its DNS entry"
                )
            }
            ErrorKind::Refused(reason) => write!(
                formatter,
                "entrepot refuses {host}: it is {reason}; if you trust it, list it in upstream.allow_addresses"
            ),
            ErrorKind::Unreachable(why) => {
                write!(formatter, "upstream {host} is unreachable ({doing}): {why}; check its name, DNS and network")
            }
            ErrorKind::TokenServer { status: StatusCode::TOO_MANY_REQUESTS, .. } => write!(
                formatter,
                "the token server of {host} answered 429 Too Many Requests: it limits how often it is asked; try again \
                 later, or log in"
            ),
            ErrorKind::TokenServer { status, .. } => {
                write!(
                    formatter,
                    "the token server of {host} answered {status}: it is in trouble itself; try again later"
                )
            }
            ErrorKind::TimedOut => {
                write!(
                    formatter,
                    "upstream {host} took too long ({doing}); try again, or raise the timeouts in [upstream]"
                )
            }
            ErrorKind::Remembered => {
                write!(formatter, "upstream {host} did not answer a moment ago; it is tried again in the background")
            }
            ErrorKind::Stalled => {
                write!(formatter, "upstream {host} stopped sending ({doing}); the download can be resumed")
            }
            ErrorKind::Certificate(why) => write!(
                formatter,
                "upstream {host} has a certificate that is not trusted: {why}; \
                 add ca_file or verify = false for this registry"
            ),
            ErrorKind::Reset => write!(formatter, "upstream {host} broke the connection ({doing}); try again"),
            ErrorKind::Protocol(why) => {
                write!(
                    formatter,
                    "upstream {host} broke the protocol ({doing}): {why}; check its address, port and scheme"
                )
            }
            ErrorKind::Parent(why) => write!(formatter, "the parent proxy did not connect to {host}: {why}"),
            ErrorKind::RequestBody(fault) => {
                write!(formatter, "the client's body for {host} broke off: {fault}; the client must send it again")
            }
        }
    }
}

impl StdError for UpstreamError {}

impl Stage {
    fn doing(self) -> &'static str {
        match self {
            Stage::Dns => "resolving its name",
            Stage::Connect => "connecting",
            Stage::Tls => "in the TLS handshake",
            Stage::Send => "sending the request",
            Stage::Head => "waiting for its answer",
            Stage::Body => "receiving the body",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_whose_fault_and_what_next_in_one_line() {
        for (kind, ours, retryable, said) in [
            (ErrorKind::Refused(AddressRefusal::Own), true, false, "entrepot itself"),
            (
                ErrorKind::Refused(AddressRefusal::ThisMachine),
                true,
                false,
                "is an address of this machine; if you trust",
            ),
            (ErrorKind::Refused(AddressRefusal::Loopback), true, false, "upstream.allow_addresses"),
            (ErrorKind::Refused(AddressRefusal::Multicast), true, false, "DNS entry"),
            (ErrorKind::Unreachable("no such name".into()), false, true, "check its name"),
            (
                ErrorKind::TokenServer { status: StatusCode::TOO_MANY_REQUESTS, said: Some("for robot".into()) },
                false,
                true,
                "the token server of reg.example answered 429 Too Many Requests",
            ),
            (
                ErrorKind::TokenServer { status: StatusCode::BAD_GATEWAY, said: None },
                false,
                true,
                "answered 502 Bad Gateway",
            ),
            (ErrorKind::TimedOut, false, true, "receiving the body"),
            (ErrorKind::Remembered, false, true, "a moment ago"),
            (ErrorKind::Stalled, false, true, "resumed"),
            (ErrorKind::Certificate("expired".into()), false, false, "add ca_file or verify = false for this registry"),
            (ErrorKind::Reset, false, true, "broke"),
            (ErrorKind::Protocol("not HTTP".into()), false, false, "not HTTP"),
            (ErrorKind::Parent(ParentError::Closed), false, true, "parent proxy"),
            (ErrorKind::RequestBody(ClientFault::BrokeOff("gone".into())), false, false, "the client's body"),
            (ErrorKind::RequestBody(ClientFault::Stalled(Duration::from_secs(60))), false, false, "for 60 s"),
        ] {
            let error = UpstreamError::new(Stage::Body, kind, "reg.example");
            let text = error.to_string();
            assert!(text.contains("reg.example") && text.contains(said) && !text.contains('\n'), "{text}");
            assert!(!text.contains("robot"), "the text of another server goes to no client: {text}");
            assert_eq!((error.is_ours(), error.is_retryable()), (ours, retryable), "{text}");
            let is_of_network = matches!(error.kind, ErrorKind::Unreachable(_));
            assert_eq!(text.contains("DNS and network"), is_of_network, "{text}");
        }
    }

    #[test]
    fn our_own_error_is_found_under_others() {
        let own = UpstreamError::new(Stage::Tls, ErrorKind::TimedOut, "reg.example");
        let wrapped = io::Error::other(io::Error::other(own.clone()));
        assert_eq!(UpstreamError::dig(&wrapped, Stage::Head, "other"), own);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(UpstreamError::dig(&reset, Stage::Body, "h").kind, ErrorKind::Reset);
    }
}
