//! Why our registry does not do what a request asks for: the rules, the request itself, or our disk. The one place
//! where that becomes HTTP, in the words of the OCI distribution specification (section "Error Codes").

use std::borrow::Cow;

use entrepot_core::digest::Digest;
use entrepot_core::error::ErrorCode;
use http::header::{LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderName, StatusCode};

use super::access::AccessRefusal;
use super::forgery::Forgery;
use super::sessions::TooMany;
use entrepot_config::ready::rights::AuthMethod;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_store::StoreError;

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Why there is no success.
pub(super) enum RegistryError {
    /// The rules or a quota refuse it, and no login would help.
    Refused(AccessRefusal),
    /// The rules refuse it. The client is told where a login can be had.
    Challenged {
        /// The refusal.
        refusal: AccessRefusal,
        /// The door as the client reached it, such as `https://host:5443`.
        door: String,
        /// How clients log in here.
        method: AuthMethod,
    },
    /// It is not here.
    Unknown {
        /// Whether the repository is.
        has_repository: bool,
        /// The code for what is missing in it.
        code: ErrorCode,
    },
    /// The manifest names content that the repository does not have.
    Missing(Digest),
    /// The request is one that no content and no repository makes right.
    Invalid {
        /// In the specification's words.
        code: ErrorCode,
        /// Another status than the code's own.
        status: Option<StatusCode>,
        /// For the person at the client. Empty for the code's own text.
        why: Cow<'static, str>,
        /// For the trail.
        refused: Refused,
    },
    /// A chunk does not begin where the upload ends. The client is told where that is.
    OutOfOrder {
        /// The path at which the upload continues, relative to the door.
        location: String,
        /// The id of the upload.
        id: String,
        /// The bytes that have arrived.
        length: u64,
    },
    /// The most uploads that may run at the same time do.
    TooManyUploads(TooMany),
    /// A condition of the request does not hold.
    Precondition,
    /// Lists take all the memory that they may have, or that this client's may.
    TooManyLists,
    /// The disk has no room.
    DiskFull,
    /// The disk or the index failed. The log has said how.
    DiskFailed,
}

impl RegistryError {
    /// A request that is wrong in itself.
    pub(super) fn invalid(code: ErrorCode, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { code, status: None, why: why.into(), refused: Refused::Invalid }
    }

    /// The client left in the middle of its body.
    pub(super) fn broke_off(code: ErrorCode) -> Self {
        Self::Invalid { code, status: None, why: "the request's body broke off".into(), refused: Refused::ClientLeft }
    }

    /// The client stopped sending in the middle of its body.
    pub(super) fn stalled() -> Self {
        let refused = Refused::ClientStalled;
        Self::Invalid { code: ErrorCode::RequestTimeout, status: None, why: "".into(), refused }
    }

    /// The route has no such method.
    pub(super) fn method() -> Self {
        Self::Invalid { code: ErrorCode::Unsupported, status: None, why: "".into(), refused: Refused::Method }
    }

    /// A name or path that the grammar does not have.
    pub(super) fn grammar(code: ErrorCode) -> Self {
        Self::Invalid { code, status: None, why: "".into(), refused: Refused::Grammar }
    }

    /// The configuration does not let it through.
    pub(super) fn policy(why: &'static str) -> Self {
        Self::Invalid { code: ErrorCode::Denied, status: None, why: why.into(), refused: Refused::Policy }
    }

    /// A change that may come from a page of another site.
    pub(super) fn forged(forgery: Forgery) -> Self {
        let refused = if forgery == Forgery::Host { Refused::Host } else { Refused::ForgedForm };
        Self::Invalid { code: ErrorCode::Denied, status: None, why: forgery.to_string().into(), refused }
    }

    /// An upload that is over, or was never begun by this client.
    pub(super) fn unknown_upload() -> Self {
        Self::Unknown { has_repository: true, code: ErrorCode::BlobUploadUnknown }
    }

    /// The reply to the client.
    pub(super) fn into_reply(self) -> Reply {
        match self {
            Self::Refused(refusal) => refusal.plain(),
            Self::Challenged { refusal, door, method } => refusal.reply(&door, method),
            Self::Unknown { has_repository, code } => {
                let code = if has_repository { code } else { ErrorCode::NameUnknown };
                Reply::error(code, "").because(Refused::Unknown)
            }
            Self::Missing(digest) => {
                let message = format!("the repository has not {digest}, which the manifest names");
                Reply::error(ErrorCode::ManifestBlobUnknown, &message).because(Refused::Invalid)
            }
            Self::Invalid { code, status, why, refused } => {
                Reply::error_with_status(status.unwrap_or(code.status()), code, &why).because(refused)
            }
            Self::OutOfOrder { location, id, length } => {
                let why = "the chunk does not begin where the upload ends";
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                let reply = Reply::error_with_status(status, ErrorCode::BlobUploadInvalid, why).because(Refused::Range);
                placed(reply, &location, &id, length)
            }
            Self::TooManyUploads(which) => {
                let message = match which {
                    TooMany::Total => "too many uploads run at the moment (registry.max_uploads)".to_owned(),
                    TooMany::OfClient(max) => format!(
                        "{max} uploads of this client run already (registry.max_uploads_per_client); finish or cancel some"
                    ),
                };
                let reply = Reply::error(ErrorCode::TooManyRequests, &message).because(Refused::TooManyUploads);
                reply.with(RETRY_AFTER, "60")
            }
            Self::Precondition => {
                let message = "a condition of the request (If-Match, If-None-Match) does not hold for what is here";
                let status = StatusCode::PRECONDITION_FAILED;
                Reply::error_with_status(status, ErrorCode::BadRequest, message).because(Refused::Precondition)
            }
            Self::TooManyLists => {
                let message = "long lists are on their way to clients already; read those first, or try again";
                let reply = Reply::error(ErrorCode::TooManyRequests, message).because(Refused::TooManyLists);
                reply.with(RETRY_AFTER, "5")
            }
            Self::DiskFull => {
                let message = "entrepot: no space left on the registry's disk";
                let status = StatusCode::INSUFFICIENT_STORAGE;
                Reply::error_with_status(status, ErrorCode::Denied, message).because(Refused::DiskFull)
            }
            Self::DiskFailed => {
                let message = "entrepot: the registry's disk failed, try again; its log says more";
                Reply::error(ErrorCode::Unavailable, message).because(Refused::IoError)
            }
        }
    }
}

/// With the place of an upload and how far it is. Without any bytes the range is the one that Docker's registry says.
pub(super) fn placed(reply: Reply, location: &str, id: &str, length: u64) -> Reply {
    reply.with(LOCATION, location).with(RANGE, &format!("0-{}", length.saturating_sub(1))).with(UPLOAD_UUID, id)
}

impl From<StoreError> for RegistryError {
    /// The store did not do it, and nothing was acknowledged.
    fn from(error: StoreError) -> Self {
        tracing::error!("a request to the registry failed: {error}");
        match error {
            StoreError::NoSpace { .. } => Self::DiskFull,
            _ => Self::DiskFailed,
        }
    }
}

impl From<AccessRefusal> for RegistryError {
    fn from(refusal: AccessRefusal) -> Self {
        Self::Refused(refusal)
    }
}
