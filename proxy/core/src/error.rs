//! The table of all errors on the wire: code, status and message (OCI Distribution 1.1, "Error Codes").
//!
//! Each error that a client sees is a row of this table. The specification's own rows come first. The rows below them
//! are conditions of a proxy, in the same JSON form, because registry clients print nothing else.

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
            /// All codes, for the labels of metrics.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as clients compare it, in upper case.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The status that goes with the code, unless a route has a more precise one.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// The text for people, unless the caller has a more precise one.
            pub fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }
        }
    };
}

table! {
    /// The repository has no such blob.
    BlobUnknown "BLOB_UNKNOWN" NOT_FOUND "blob unknown to registry";
    /// A part of an upload is out of order or malformed.
    BlobUploadInvalid "BLOB_UPLOAD_INVALID" BAD_REQUEST "blob upload invalid";
    /// There is no such upload session.
    BlobUploadUnknown "BLOB_UPLOAD_UNKNOWN" NOT_FOUND "blob upload unknown to registry";
    /// The digest is malformed, or it is not the content's.
    DigestInvalid "DIGEST_INVALID" BAD_REQUEST "the digest is malformed or does not match the content";
    /// A pushed manifest names content that was not pushed before.
    ManifestBlobUnknown "MANIFEST_BLOB_UNKNOWN" BAD_REQUEST "manifest references a manifest or blob unknown to registry";
    /// The body is not a manifest.
    ManifestInvalid "MANIFEST_INVALID" BAD_REQUEST "manifest invalid";
    /// The repository has no such tag or manifest.
    ManifestUnknown "MANIFEST_UNKNOWN" NOT_FOUND "manifest unknown to registry";
    /// A repository name, a tag or the path is outside the grammar.
    NameInvalid "NAME_INVALID" BAD_REQUEST "invalid repository name, tag or path";
    /// There is no such repository.
    NameUnknown "NAME_UNKNOWN" NOT_FOUND "repository name not known to registry";
    /// The body has another length than announced.
    SizeInvalid "SIZE_INVALID" BAD_REQUEST "the content does not have the announced length";
    /// The request has no valid credentials.
    Unauthorized "UNAUTHORIZED" UNAUTHORIZED "authentication required";
    /// The credentials do not allow the request, or a policy refuses it for everybody.
    Denied "DENIED" FORBIDDEN "requested access to the resource is denied";
    /// The path does not have this method.
    Unsupported "UNSUPPORTED" METHOD_NOT_ALLOWED "the operation is unsupported";
    /// A quota is used up, here or upstream.
    TooManyRequests "TOOMANYREQUESTS" TOO_MANY_REQUESTS "too many requests, try again later";
    /// This proxy cannot answer at the moment.
    Unavailable "UNAVAILABLE" SERVICE_UNAVAILABLE "temporarily unavailable, try again later";
    /// Upstream's answer is unusable.
    BadGateway "BAD_GATEWAY" BAD_GATEWAY "the upstream registry failed";
    /// Upstream did not answer in time.
    GatewayTimeout "GATEWAY_TIMEOUT" GATEWAY_TIMEOUT "the upstream registry did not answer in time";
    /// The content has no byte of the requested range.
    RangeInvalid "RANGE_INVALID" RANGE_NOT_SATISFIABLE "the range is outside the content";
    /// The Host of the request differs from the connection's TLS name.
    Misdirected "MISDIRECTED" MISDIRECTED_REQUEST "the request is for another host than the connection";
    /// The request head exceeds a limit.
    HeadTooLarge "HEAD_TOO_LARGE" REQUEST_HEADER_FIELDS_TOO_LARGE "the request head is too large";
    /// The request breaks HTTP's rules.
    BadRequest "BAD_REQUEST" BAD_REQUEST "malformed request";
    /// The client stopped in the middle of its request.
    RequestTimeout "REQUEST_TIMEOUT" REQUEST_TIMEOUT "the client stopped sending in the middle of its request";
    /// The request passed this proxy before.
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
    // Serialising strings does not fail. If it did, the status would still tell the client.
    serde_json::to_vec(&errors).unwrap_or_default()
}

/// The longest text of another server that is repeated to people, in characters.
const SAID_MAX: usize = 300;

/// What the body of an error says to people, in one line: the message of a registry, a token server or a proxy, or the
/// first line of a plain text. None if it says nothing, or only in HTML.
pub fn said(body: &[u8]) -> Option<String> {
    let text = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(json) => said_in_json(&json)?,
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
            if line.starts_with('<') {
                return None;
            }
            line.to_owned()
        }
    };
    let mut line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if let Some((end, _)) = line.char_indices().nth(SAID_MAX) {
        line.truncate(end);
        line.push('…');
    }
    Some(line)
}

/// OCI's `errors`, or the members that token servers and others have in their place.
fn said_in_json(json: &serde_json::Value) -> Option<String> {
    let first = json.get("errors").and_then(|errors| errors.get(0)).unwrap_or(json);
    let members = ["message", "details", "error_description", "error", "detail", "code"];
    let texts = members.iter().filter_map(|member| first.get(member)?.as_str());
    texts.map(str::trim).find(|text| !text.is_empty()).map(str::to_owned)
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
    fn the_text_of_an_error_is_found() {
        let long = "x".repeat(SAID_MAX + 1);
        for (body, expected) in [
            (r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#, Some("manifest unknown")),
            (r#"{"errors":[{"code":"DENIED"}]}"#, Some("DENIED")),
            (r#"{"details":"too many requests"}"#, Some("too many requests")),
            (r#"{"error":"slow_down","error_description":"wait"}"#, Some("wait")),
            (r#"{"message":" a\nb "}"#, Some("a b")),
            (r#"{"errors":[]}"#, None),
            (r#"{"message":7}"#, None),
            ("\r\n no such name\r\nmore", Some("no such name")),
            ("<html><body>502</body></html>", None),
            ("<!DOCTYPE html>", None),
            ("", None),
            (&long, Some(&format!("{}…", &long[1..]))),
        ] {
            assert_eq!(said(body.as_bytes()).as_deref(), expected, "{body}");
        }
        assert_eq!(said(b"\xff\x1b[31mred").as_deref(), Some("\u{fffd} [31mred"), "no terminal obeys it");
    }

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
