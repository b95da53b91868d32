//! The reasons why a page is not shown or a form is refused, as text for a person. The statuses are the API's.

use http::StatusCode;
use http::header::{ALLOW, WWW_AUTHENTICATE};

use super::pages;
use crate::access::AccessRefusal;
use crate::access::token::SERVICE;
use crate::forgery::Forgery;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_store::StoreError;

/// The reason.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Forged(#[from] Forgery),
    #[error("{0}.")]
    Refused(#[from] AccessRefusal),
    #[error("There is no such page, repository or tag; it may have been deleted meanwhile.")]
    Unknown,
    #[error("The tag points to another image since the question was asked. Look at it again.")]
    Moved,
    #[error("This page has no such method.")]
    Method,
    #[error("The form or the address has a field missing, or one that is not understood.")]
    Form,
    #[error("The form stopped in its middle. Send it again.")]
    Stalled,
    #[error("The registry's disk failed, or has no room. Try again; the server's log says more.")]
    Failed(#[from] StoreError),
}

impl Problem {
    pub(super) fn reply(&self) -> Reply {
        if let Self::Failed(error) = self {
            tracing::error!("a page of the registry failed: {error}");
        }
        let (status, reason) = self.row();
        let reply = pages::problem(status, &self.to_string()).because(reason);
        match self {
            // Browsers know no tokens. So they are asked for a name and a password, whatever other clients are asked
            // for.
            Self::Refused(_) if status == StatusCode::UNAUTHORIZED => {
                reply.with(WWW_AUTHENTICATE, &format!("Basic realm=\"{SERVICE}\", charset=\"UTF-8\""))
            }
            Self::Method => reply.with(ALLOW, "GET, HEAD, POST"),
            _ => reply,
        }
    }

    fn row(&self) -> (StatusCode, Refused) {
        let of = |reply: Reply| (reply.status, reply.refused.unwrap_or(Refused::NotHere));
        match self {
            Self::Forged(Forgery::Host) => (StatusCode::MISDIRECTED_REQUEST, Refused::Host),
            Self::Forged(_) => (StatusCode::FORBIDDEN, Refused::ForgedForm),
            Self::Refused(refusal) => of(refusal.plain()),
            Self::Unknown => (StatusCode::NOT_FOUND, Refused::NotHere),
            Self::Moved => (StatusCode::CONFLICT, Refused::Moved),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, Refused::Method),
            Self::Form => (StatusCode::BAD_REQUEST, Refused::Form),
            Self::Stalled => (StatusCode::REQUEST_TIMEOUT, Refused::ClientStalled),
            Self::Failed(StoreError::NoSpace { .. }) => (StatusCode::INSUFFICIENT_STORAGE, Refused::DiskFull),
            Self::Failed(_) => (StatusCode::SERVICE_UNAVAILABLE, Refused::IoError),
        }
    }
}
