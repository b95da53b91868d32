//! Refusals and failures of our registry in the protocol's words.

use entrepot_core::error::ErrorCode;
use http::StatusCode;

use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;
use entrepot_store::StoreError;

/// What the store did not do, for the client: the disk is full, or it is broken. Nothing was acknowledged.
pub(super) fn store_failed(error: &StoreError) -> Reply {
    tracing::error!("a request to the registry failed: {error}");
    match error {
        StoreError::NoSpace { .. } => no_room(),
        _ => unavailable(),
    }
}

/// 507
pub(super) fn no_room() -> Reply {
    let message = "entrepot: no space left on the registry's disk";
    Reply::error_with_status(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Denied, message).because(Refused::DiskFull)
}

/// 503
pub(super) fn unavailable() -> Reply {
    Reply::error(ErrorCode::Unavailable, "entrepot: the registry's disk failed, try again; its log says more")
        .because(Refused::IoError)
}

/// 404 for a repository, or for something in one that is there.
pub(super) fn unknown(has_repository: bool, code: ErrorCode) -> Reply {
    Reply::error(if has_repository { code } else { ErrorCode::NameUnknown }, "").because(Refused::Unknown)
}
