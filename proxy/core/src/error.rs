//! The one table of errors on the wire: code, status and message (OCI Distribution 1.1, "Error Codes").
//!
//! Every error that a client sees is a row of this table; the rows below the specification's own are the
//! conditions of a proxy, in the same JSON form, because registry clients print nothing else.

use http::StatusCode;
use serde::Serialize;

macro_rules! table {
    ($($(#[$doc:meta])* $variant:ident $word:literal $status:ident $message:literal;)*) => {
        /// A condition that a client is told about.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code, for tables of metrics.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as clients compare it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The status that goes with the code unless a route knows better.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// What people read when there is nothing more precise to say.
            pub fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }
        }
    };
}

table! {
    /// No such blob in this repository.
    BlobUnknown "BLOB_UNKNOWN" NOT_FOUND "blob unknown to registry";
    /// An upload that breaks the rules of uploads.
    BlobUploadInvalid "BLOB_UPLOAD_INVALID" BAD_REQUEST "blob upload invalid";
    /// No such upload session.
    BlobUploadUnknown "BLOB_UPLOAD_UNKNOWN" NOT_FOUND "blob upload unknown to registry";
    /// A digest that is none, or that the content does not have.
    DigestInvalid "DIGEST_INVALID" BAD_REQUEST "the digest is malformed or does not match the content";
    /// A pushed manifest names content that was not pushed before it.
    ManifestBlobUnknown "MANIFEST_BLOB_UNKNOWN" BAD_REQUEST "manifest references a manifest or blob unknown to registry";
    /// A manifest that is none.
    ManifestInvalid "MANIFEST_INVALID" BAD_REQUEST "manifest invalid";
    /// No such tag or manifest in this repository.
    ManifestUnknown "MANIFEST_UNKNOWN" NOT_FOUND "manifest unknown to registry";
    /// A repository name, tag or path outside the grammar.
    NameInvalid "NAME_INVALID" BAD_REQUEST "invalid repository name, tag or path";
    /// No such repository.
    NameUnknown "NAME_UNKNOWN" NOT_FOUND "repository name not known to registry";
    /// A body of another length than announced.
    SizeInvalid "SIZE_INVALID" BAD_REQUEST "the content has not the length that was given";
    /// Credentials are missing or wrong.
    Unauthorized "UNAUTHORIZED" UNAUTHORIZED "authentication required";
    /// The credentials do not reach this far, or a policy forbids it to everybody.
    Denied "DENIED" FORBIDDEN "requested access to the resource is denied";
    /// A method that the path does not have.
    Unsupported "UNSUPPORTED" METHOD_NOT_ALLOWED "the operation is unsupported";
    /// Quota used up, here or upstream.
    TooManyRequests "TOOMANYREQUESTS" TOO_MANY_REQUESTS "too many requests, try again later";
    /// This proxy cannot answer now.
    Unavailable "UNAVAILABLE" SERVICE_UNAVAILABLE "temporarily unavailable, try again later";
    /// Upstream answered nothing usable.
    BadGateway "BAD_GATEWAY" BAD_GATEWAY "the upstream registry failed";
    /// Upstream answered nothing in time.
    GatewayTimeout "GATEWAY_TIMEOUT" GATEWAY_TIMEOUT "the upstream registry did not answer in time";
    /// No byte of the range asked for exists.
    RangeInvalid "RANGE_INVALID" RANGE_NOT_SATISFIABLE "the range is outside the content";
    /// The Host of the request is not the name of the connection.
    Misdirected "MISDIRECTED" MISDIRECTED_REQUEST "the request is for another host than the connection";
    /// A request head beyond the limits.
    HeadTooLarge "HEAD_TOO_LARGE" REQUEST_HEADER_FIELDS_TOO_LARGE "the request head is too large";
    /// A request that is not HTTP as it is specified.
    BadRequest "BAD_REQUEST" BAD_REQUEST "malformed request";
    /// The request has been through this proxy before.
    Loop "LOOP" LOOP_DETECTED "the request came back to this proxy";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.word())
    }
}

/// The JSON body of an error answer: `{"errors":[{"code":…,"message":…,"detail":…}]}`.
pub fn body(code: ErrorCode, message: &str, detail: Option<&str>) -> Vec<u8> {
    let errors = Errors { errors: [Entry { code: code.word(), message, detail }] };
    // Strings serialise without fail; an empty body is still an honest error beside its status.
    serde_json::to_vec(&errors).unwrap_or_default()
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_status() {
        for (code, word, status) in [
            (ErrorCode::BlobUnknown, "BLOB_UNKNOWN", 404),
            (ErrorCode::DigestInvalid, "DIGEST_INVALID", 400),
            (ErrorCode::ManifestUnknown, "MANIFEST_UNKNOWN", 404),
            (ErrorCode::Unauthorized, "UNAUTHORIZED", 401),
            (ErrorCode::Denied, "DENIED", 403),
            (ErrorCode::Unsupported, "UNSUPPORTED", 405),
            (ErrorCode::TooManyRequests, "TOOMANYREQUESTS", 429),
            (ErrorCode::Unavailable, "UNAVAILABLE", 503),
            (ErrorCode::BadGateway, "BAD_GATEWAY", 502),
            (ErrorCode::GatewayTimeout, "GATEWAY_TIMEOUT", 504),
            (ErrorCode::RangeInvalid, "RANGE_INVALID", 416),
            (ErrorCode::Misdirected, "MISDIRECTED", 421),
            (ErrorCode::HeadTooLarge, "HEAD_TOO_LARGE", 431),
            (ErrorCode::Loop, "LOOP", 508),
        ] {
            assert_eq!((code.word(), code.status().as_u16()), (word, status));
        }
    }

    #[test]
    fn words_are_unique_and_in_the_specifications_form() {
        let mut words: Vec<_> = ErrorCode::ALL.iter().map(|code| code.word()).collect();
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn bodies_are_escaped_json() {
        assert_eq!(body(ErrorCode::Denied, "no", None), br#"{"errors":[{"code":"DENIED","message":"no"}]}"#);
        assert_eq!(
            body(ErrorCode::NameInvalid, "a \"quote\"\n", Some("x/é")),
            "{\"errors\":[{\"code\":\"NAME_INVALID\",\"message\":\"a \\\"quote\\\"\\n\",\"detail\":\"x/é\"}]}"
                .as_bytes()
        );
    }
}
