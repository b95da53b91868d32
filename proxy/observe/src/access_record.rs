//! One request as a line: docker-registry-proxy's JSON, whose readers exist, or a line for people.
//!
//! Values of query parameters that are not known to be harmless are masked: what a redirect, a token server or an
//! upload session puts there is often as good as a password.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use entrepot_core::digest::Digest;
use entrepot_core::outcome::{CacheStatus, RequestType};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::human;
use super::request_id::RequestId;

/// Everything that the log says about one request.
pub struct AccessRecord {
    /// When the request arrived.
    pub access_time: SystemTime,
    /// The cache's part in the answer.
    pub cache_status: CacheStatus,
    /// The method as the client wrote it.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// The kind of request.
    pub request_type: RequestType,
    /// The status answered.
    pub status: u16,
    /// Bytes of the body sent to the client.
    pub bytes_sent: u64,
    /// How long upstream took, where it was asked.
    pub upstream_response_time: Option<Duration>,
    /// The registry that the client meant.
    pub host: String,
    /// The registry that was asked, empty where none was.
    pub proxy_host: String,
    /// The address that was asked, empty where none was.
    pub upstream: String,
    /// The client's address.
    pub client: IpAddr,
    /// The content served, where it has a digest.
    pub digest: Option<Digest>,
    /// From the arrival to the last byte.
    pub duration: Duration,
    /// Why the answer is what it is, in the word of the decision that explains it most.
    pub reason: &'static str,
    /// Joins this line with the events about the request.
    pub request_id: RequestId,
}

/// Longer values are cut: a line of the log, and so its queue, has a bound.
const URI_MAX_BYTES: usize = 2048;
const FIELD_MAX_BYTES: usize = 300;

const TIME_LOCAL: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
const TIME_TEXT: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// The order of these fields is the contract: docker-registry-proxy's eleven first.
#[derive(Serialize)]
struct JsonLine<'a> {
    access_time: String,
    upstream_cache_status: &'static str,
    method: &'a str,
    uri: &'a str,
    request_type: &'static str,
    status: String,
    bytes_sent: String,
    upstream_response_time: String,
    host: &'a str,
    proxy_host: &'a str,
    upstream: &'a str,
    client: String,
    digest: String,
    duration: String,
    reason: &'static str,
    request_id: String,
}

impl AccessRecord {
    /// One line of JSON with its newline, every value a string.
    pub fn json_line(&self) -> Vec<u8> {
        let uri = mask_query(&self.uri);
        let line = JsonLine {
            access_time: self.time(TIME_LOCAL),
            upstream_cache_status: self.cache_status.word(),
            method: cut(&self.method, FIELD_MAX_BYTES),
            uri: cut(&uri, URI_MAX_BYTES),
            request_type: self.request_type.word(),
            status: self.status.to_string(),
            bytes_sent: self.bytes_sent.to_string(),
            upstream_response_time: self.upstream_response_time.map(seconds).unwrap_or_default(),
            host: cut(&self.host, FIELD_MAX_BYTES),
            proxy_host: cut(&self.proxy_host, FIELD_MAX_BYTES),
            upstream: cut(&self.upstream, FIELD_MAX_BYTES),
            client: self.client.to_canonical().to_string(),
            digest: self.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            duration: seconds(self.duration),
            reason: self.reason,
            request_id: self.request_id.to_string(),
        };
        // A struct of strings cannot fail to serialise; an empty line would be the honest remainder if it did.
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// One line for people, with its newline.
    pub fn text_line(&self) -> Vec<u8> {
        let uri = mask_query(&self.uri);
        let status = match self.cache_status.word() {
            "" => "-",
            word => word,
        };
        let line = format!(
            "{} {} {:11} {} {} {}{} {} {}s {} {}",
            self.time(TIME_TEXT),
            self.client.to_canonical(),
            status,
            self.status,
            cut(&self.method, FIELD_MAX_BYTES),
            cut(&self.host, FIELD_MAX_BYTES),
            cut(&uri, URI_MAX_BYTES),
            human::size(self.bytes_sent),
            seconds(self.duration),
            self.reason,
            self.request_id,
        );
        // Nothing a client wrote may start a line of its own or steer a terminal.
        let mut printable = line.replace(char::is_control, "?");
        printable.push('\n');
        printable.into_bytes()
    }

    fn time(&self, format: &[BorrowedFormatItem<'_>]) -> String {
        OffsetDateTime::from(self.access_time).format(format).unwrap_or_default()
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// Replaces the values of query parameters by `***`, except those known to be harmless. A parameter without `=` may
/// itself be the secret and is replaced whole.
pub fn mask_query(uri: &str) -> Cow<'_, str> {
    const HARMLESS: [&str; 14] = [
        "account",
        "artifactType",
        "client_id",
        "digest",
        "from",
        "grant_type",
        "last",
        "mount",
        "n",
        "ns",
        "offline_token",
        "scope",
        "service",
        "tag",
    ];
    let Some((path, query)) = uri.split_once('?') else { return Cow::Borrowed(uri) };
    let masked = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if HARMLESS.contains(&name) => Cow::Borrowed(parameter),
        Some((name, _)) => Cow::Owned(format!("{name}=***")),
        None if parameter.is_empty() || HARMLESS.contains(&parameter) => Cow::Borrowed(parameter),
        None => Cow::Borrowed("***"),
    });
    Cow::Owned(format!("{path}?{}", masked.collect::<Vec<_>>().join("&")))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::UNIX_EPOCH;

    use entrepot_core::digest::Algorithm;

    use super::*;

    pub(crate) fn record() -> AccessRecord {
        AccessRecord {
            access_time: UNIX_EPOCH + Duration::from_secs(1_795_252_303),
            cache_status: CacheStatus::Hit,
            method: "GET".into(),
            uri: "/v2/a/b/blobs/x?ns=ghcr.io&access_token=canary".into(),
            request_type: RequestType::BlobByDigest,
            status: 200,
            bytes_sent: 1536,
            upstream_response_time: None,
            host: "ghcr.io".into(),
            proxy_host: String::new(),
            upstream: String::new(),
            client: "::ffff:10.0.0.7".parse().expect("an address"),
            digest: Some(Digest::of(Algorithm::Sha256, b"")),
            duration: Duration::from_millis(12),
            reason: "stored",
            request_id: RequestId::fixed(0xab),
        }
    }

    #[test]
    fn json_has_the_eleven_fields_first_in_order_and_only_strings() {
        let bytes = record().json_line();
        let text = String::from_utf8(bytes).expect("UTF-8");
        let expected = concat!(
            r#"{"access_time":"21/Nov/2026:09:11:43 +0000","upstream_cache_status":"HIT","method":"GET","#,
            r#""uri":"/v2/a/b/blobs/x?ns=ghcr.io&access_token=***","request_type":"blob-by-digest","status":"200","#,
            r#""bytes_sent":"1536","upstream_response_time":"","host":"ghcr.io","proxy_host":"","upstream":"","#,
            r#""client":"10.0.0.7","#,
            r#""digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
            r#""duration":"0.012","reason":"stored","request_id":"00000000000000ab"}"#,
            "\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn upstream_fields_are_filled_where_upstream_was_asked() {
        let asked = AccessRecord {
            cache_status: CacheStatus::None,
            upstream_response_time: Some(Duration::from_micros(1_234_567)),
            proxy_host: "quay.io".into(),
            upstream: "192.0.2.1:443".into(),
            reason: "disk_full",
            digest: None,
            ..record()
        };
        let json: serde_json::Value = serde_json::from_slice(&asked.json_line()).expect("JSON");
        for (field, value) in [
            ("upstream_cache_status", ""),
            ("upstream_response_time", "1.235"),
            ("proxy_host", "quay.io"),
            ("upstream", "192.0.2.1:443"),
            ("digest", ""),
            ("reason", "disk_full"),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
    }

    #[test]
    fn text_is_one_printable_line() {
        let text = String::from_utf8(record().text_line()).expect("UTF-8");
        assert_eq!(
            text,
            "2026-11-21T09:11:43Z 10.0.0.7 HIT         200 GET ghcr.io/v2/a/b/blobs/x?ns=ghcr.io&access_token=*** \
             1.5 KiB 0.012s stored 00000000000000ab\n"
        );
        let hostile = AccessRecord { method: "GET\nHIT\x1b[2J".into(), ..record() };
        let text = String::from_utf8(hostile.text_line()).expect("UTF-8");
        assert!(text.contains("GET?HIT?[2J") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn lines_are_bounded_also_within_characters() {
        let long = AccessRecord { uri: "/é".repeat(40_000), method: "M".repeat(60_000), ..record() };
        assert!(long.json_line().len() < 4096);
        assert!(long.text_line().len() < 4096);
    }

    #[test]
    fn queries_are_masked_unless_known() {
        for (uri, masked) in [
            ("/v2/", "/v2/"),
            ("/v2/?", "/v2/?"),
            ("/t?service=a&scope=repository:x:pull", "/t?service=a&scope=repository:x:pull"),
            ("/t?scope=a&password=p&scope=b", "/t?scope=a&password=***&scope=b"),
            ("/b?X-Amz-Signature=1&X-Amz-Expires=2", "/b?X-Amz-Signature=***&X-Amz-Expires=***"),
            ("/b?sig=a=b==", "/b?sig=***"),
            ("/b?canary", "/b?***"),
            ("/b?SCOPE=x&sc%6fpe=y", "/b?SCOPE=***&sc%6fpe=***"),
            ("/b?n=5&&last=a?b", "/b?n=5&&last=a?b"),
        ] {
            assert_eq!(mask_query(uri), masked);
        }
    }
}
