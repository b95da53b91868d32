//! An HTTP/1.0 body ends by its length, or by the connection's end. A body that broke off ends the connection too. So
//! an HTTP/1.0 client gets no body of unknown length: a small one is read to its end first, a larger one is refused.

use std::pin::Pin;

use entrepot_core::error::ErrorCode;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::http::body::ReplyBody;
use crate::http::reply::Reply;
use entrepot_observe::labels::Refused;

/// A longer body is not kept to be counted. Lists and tokens are shorter, and clients ask for longer blobs by HTTP/1.1.
const COUNTED_MAX_BYTES: usize = 256 * 1024;

const UNKNOWN: &str = "entrepot: the upstream registry does not say how long this is, and HTTP/1.0 could not tell the end \
                       of it from a broken connection; ask by HTTP/1.1 (nginx: proxy_http_version 1.1)";

/// Whether a client of this version may get the reply as it is. If not, [`counted`] makes one that it may get.
pub(crate) fn is_fit(version: Version, reply: &Reply) -> bool {
    version >= Version::HTTP_11
        || reply.headers.contains_key(CONTENT_LENGTH)
        || reply.body.size_hint().exact().is_some()
        || reply.body.is_end_stream()
}

/// The reply with its length. The future is on the heap: otherwise every connection would reserve memory for it, and
/// few need it.
pub(crate) fn counted(reply: Reply) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
    Box::pin(count(reply))
}

async fn count(reply: Reply) -> Reply {
    let Reply { status, mut headers, body, refused } = reply;
    match Limited::new(body, COUNTED_MAX_BYTES).collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len() as u64));
            Reply { status, headers, body: ReplyBody::Full(bytes), refused }
        }
        Err(error) if error.is::<LengthLimitError>() => {
            let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            Reply::error_with_status(status, ErrorCode::Unsupported, UNKNOWN).because(Refused::Http10)
        }
        Err(error) => Reply::error(ErrorCode::BadGateway, &format!("entrepot: {error}")).because(Refused::Broken),
    }
}
