//! Why a pull fails: whose fault it is, what was being done, and what to do. The one place where that becomes HTTP.

use std::sync::Arc;

use entrepot_core::digest::Digest;
use entrepot_core::error::{ErrorCode, body};
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_core::origin::Origin;
use entrepot_core::range::ContentRange;
use http::header::{CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use crate::fetch::FetchError;
use crate::fetch::source::UpstreamRefusal;
use crate::pull::{RequestContext, replies};
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::{FetchFailure, Refused};
use entrepot_upstream::credential::Credential;
use entrepot_upstream::error::{ClientFault, UpstreamError};

/// Why there is no content for the client.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Upstream's registry said no, or was not in a state to answer. The client gets its words.
    #[error("upstream answered {}", .0.status)]
    Answered(Box<UpstreamRefusal>),
    /// Upstream refused an anonymous request, after it refused the administrator's account.
    #[error(
        "upstream refuses the account that is configured here for {registry}, and gives this to nobody without one; the \
         administrator of entrepot has to renew the account"
    )]
    AccountRefused {
        /// The registry.
        registry: Origin,
        /// The answer to the anonymous request.
        refusal: Box<UpstreamRefusal>,
    },
    /// Upstream could not be asked.
    #[error("{0}")]
    Unreachable(Arc<UpstreamError>),
    /// Upstream's bytes are not the blob.
    #[error("{0}")]
    Broken(FetchError),
    /// A redirect led to another host, and that host refused. Its word is not the registry's.
    #[error("{host}, where the registry led to, answered {status}")]
    RedirectTarget {
        /// The host that refused.
        host: RegistryHost,
        /// Its status.
        status: StatusCode,
    },
    /// Upstream sent a manifest compressed, or as a part.
    #[error("upstream answered a manifest in a form that was not asked for")]
    ManifestForm,
    /// Upstream sent something else, with a status that says that it is the content.
    #[error(
        "{host} sent {what} instead of {wanted}, as a page that asks for a login and the page of a captive network are"
    )]
    NoContent {
        /// The host that sent it.
        host: RegistryHost,
        /// What came: its type and length.
        what: String,
        /// What should have come.
        wanted: &'static str,
    },
    /// Upstream's manifest is not the one that was named.
    #[error("upstream's manifest has the digest {got}, not the one it is named by")]
    WrongManifest {
        /// The digest of what came.
        got: Digest,
    },
    /// The client asks for bytes behind the end of the content.
    #[error("the content has {size_bytes} bytes, and the range begins behind them")]
    Range {
        /// The whole content.
        size_bytes: u64,
    },
}

/// The party that has to mend a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The registry, or what is between it and us.
    Upstream,
    /// The request.
    Client,
    /// Our configuration or our disk.
    Ours,
}

impl PullError {
    /// Upstream's own refusal or failure.
    pub fn answered(refusal: UpstreamRefusal) -> Self {
        Self::Answered(Box::new(refusal))
    }

    /// The party that has to mend it.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Range { .. } => Fault::Client,
            Self::Answered(refusal) if refusal.status.is_client_error() => Fault::Client,
            Self::AccountRefused { .. } => Fault::Ours,
            Self::Unreachable(error) if error.client_fault().is_some() => Fault::Client,
            Self::Unreachable(error) if error.is_ours() => Fault::Ours,
            Self::Broken(error) if error.is_ours() => Fault::Ours,
            Self::Answered(_)
            | Self::Unreachable(_)
            | Self::Broken(_)
            | Self::RedirectTarget { .. }
            | Self::ManifestForm
            | Self::NoContent { .. }
            | Self::WrongManifest { .. } => Fault::Upstream,
        }
    }

    /// The status that the client gets.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Answered(refusal) | Self::AccountRefused { refusal, .. } => refusal.status,
            _ => self.code().status(),
        }
    }

    /// Whether the failure says nothing about the content and may pass: what is stored may stand in.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(error) => error.client_fault().is_none(),
            _ => is_transient(self.status()),
        }
    }

    /// Whether upstream did not answer in the time that was given to it. It may answer a request with more patience.
    pub fn is_impatient(&self) -> bool {
        matches!(self, Self::Unreachable(error) if error.is_timeout())
    }

    /// Whether the registry said no to this credential, as opposed to a request that no credential could have.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Answered(refusal) if is_refusal(refusal.status))
    }

    /// A refusal of a client that sent no login, with the reason that it cannot see: upstream does not take the
    /// administrator's account.
    pub(super) fn explained(self, request: &RequestContext, repository: Option<&RepositoryName>) -> Self {
        let registry = &request.registry.origin;
        match self {
            Self::Answered(refusal)
                if is_denial(refusal.status)
                    && !matches!(request.credential, Credential::Header(_))
                    && request.snapshot.is_account_refused(registry, repository) =>
            {
                Self::AccountRefused { registry: registry.clone(), refusal }
            }
            error => error,
        }
    }

    /// The reply to the client.
    pub fn into_reply(self) -> Reply {
        let message = format!("entrepot: {self}");
        let code = self.code();
        match self {
            // The trail has upstream's answer already.
            Self::Answered(refusal) => replies::refused(*refusal),
            Self::AccountRefused { mut refusal, .. } => {
                refusal.body = body(code, &message, None).into();
                refusal.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                replies::refused(*refusal).because(Refused::AccountRefused)
            }
            Self::Range { size_bytes } => {
                let range = ContentRange::Unsatisfied { size: size_bytes }.to_string();
                Reply::error(code, "").with(CONTENT_RANGE, &range).because(Refused::Range)
            }
            Self::Unreachable(error) => {
                let refused = match error.client_fault() {
                    Some(ClientFault::Stalled(_)) => Refused::ClientStalled,
                    Some(ClientFault::BrokeOff(_)) => Refused::ClientLeft,
                    None if error.of_token_server().is_some() => Refused::TokenServer,
                    None => Refused::Unreachable,
                };
                Reply::error(code, &message).because(refused)
            }
            Self::Broken(error) => Reply::error(code, &message).because(refused(error.reason())),
            Self::RedirectTarget { .. } => Reply::error(code, &message).because(Refused::RedirectTarget),
            Self::ManifestForm => Reply::error(code, &message).because(Refused::Encoded),
            Self::NoContent { .. } => Reply::error(code, &message).because(Refused::NoContent),
            Self::WrongManifest { .. } => Reply::error(code, &message).because(Refused::WrongDigest),
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Range { .. } => ErrorCode::RangeInvalid,
            Self::AccountRefused { .. } => ErrorCode::Denied,
            Self::Unreachable(error) => match error.client_fault() {
                Some(ClientFault::Stalled(_)) => ErrorCode::RequestTimeout,
                Some(ClientFault::BrokeOff(_)) => ErrorCode::BadRequest,
                None if error.is_ours() => ErrorCode::Denied,
                None if error.is_timeout() => ErrorCode::GatewayTimeout,
                None if error.of_token_server() == Some(StatusCode::TOO_MANY_REQUESTS) => ErrorCode::TooManyRequests,
                None => ErrorCode::BadGateway,
            },
            Self::Answered(_)
            | Self::Broken(_)
            | Self::RedirectTarget { .. }
            | Self::ManifestForm
            | Self::NoContent { .. }
            | Self::WrongManifest { .. } => ErrorCode::BadGateway,
        }
    }
}

/// Answers that say nothing about the content.
pub(crate) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// The registry's no to a credential, in so many words.
pub(crate) fn is_denial(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// The registry's no to a credential. Some registries hide content by answering that it does not exist.
pub(crate) fn is_refusal(status: StatusCode) -> bool {
    is_denial(status) || status == StatusCode::NOT_FOUND
}

fn refused(failure: FetchFailure) -> Refused {
    match failure {
        FetchFailure::Refused => Refused::Status,
        FetchFailure::Broken => Refused::Broken,
        FetchFailure::Timeout => Refused::Timeout,
        FetchFailure::WrongDigest => Refused::WrongDigest,
        FetchFailure::WrongLength => Refused::WrongLength,
        FetchFailure::Encoded => Refused::Encoded,
        FetchFailure::IoError => Refused::IoError,
        FetchFailure::Interrupted => Refused::Interrupted,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use entrepot_core::digest::Algorithm;
    use http::HeaderMap;

    use super::*;

    fn answered(status: u16) -> PullError {
        let status = StatusCode::from_u16(status).expect("a status");
        PullError::answered(UpstreamRefusal { status, headers: HeaderMap::new(), body: Bytes::new() })
    }

    #[test]
    fn each_failure_has_a_status_a_fault_and_a_reason() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let cases = [
            (answered(404), 404, Fault::Client, None, false),
            (answered(503), 503, Fault::Upstream, None, true),
            (answered(429), 429, Fault::Client, None, true),
            (PullError::Range { size_bytes: 7 }, 416, Fault::Client, Some(Refused::Range), false),
            (PullError::ManifestForm, 502, Fault::Upstream, Some(Refused::Encoded), true),
            (PullError::WrongManifest { got: digest }, 502, Fault::Upstream, Some(Refused::WrongDigest), true),
            (
                PullError::Broken(FetchError::Interrupted { content: digest.into() }),
                502,
                Fault::Ours,
                Some(Refused::Interrupted),
                true,
            ),
        ];
        for (error, status, fault, refused, is_transient) in cases {
            assert_eq!((error.status().as_u16(), error.fault(), error.is_transient()), (status, fault, is_transient));
            let reply = error.into_reply();
            assert_eq!((reply.status.as_u16(), reply.refused), (status, refused));
        }
    }

    #[test]
    fn a_range_that_cannot_be_satisfied_tells_the_length() {
        let reply = PullError::Range { size_bytes: 7 }.into_reply();
        assert_eq!(reply.headers[CONTENT_RANGE], "bytes */7");
    }
}
