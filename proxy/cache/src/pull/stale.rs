//! Why an answer is not upstream's own of this moment, in the words of its `Warning` (OCI Distribution 1.1, "Warnings").
//! Everything that is served stale, or in place of an answer, is marked here.

use std::time::{Duration, SystemTime};

use entrepot_core::docker_hub;
use entrepot_core::host::RegistryHost;
use entrepot_upstream::budget::{Limit, Quota, TooMany};
use http::header::WARNING;
use http::{HeaderValue, StatusCode};

use crate::pull::RequestContext;
use crate::pull::error::PullError;
use entrepot_net::http::reply::Reply;

/// Why upstream's own answer is not given.
#[derive(Clone, Copy)]
pub(super) enum Why<'a> {
    /// It failed.
    Failed(&'a PullError),
    /// So few pulls are left that upstream is not asked about what is known.
    LowQuota(Quota),
}

impl Why<'_> {
    /// Marks a reply that comes from the store.
    pub(super) fn marked(self, request: &RequestContext, reply: Reply) -> Reply {
        self.warned(request, reply, "served stale")
    }

    /// Marks an empty reply, which stands in for one that is not known.
    pub(super) fn marked_empty(self, request: &RequestContext, reply: Reply) -> Reply {
        self.warned(request, reply, "nothing is known here")
    }

    fn warned(self, request: &RequestContext, mut reply: Reply, what: &str) -> Reply {
        let text = format!("{what}: {}", self.text(request.registry.host(), SystemTime::now()));
        if let Ok(value) = HeaderValue::from_str(&warning(&text)) {
            reply.headers.insert(WARNING, value);
        }
        reply
    }

    fn text(self, host: &RegistryHost, now: SystemTime) -> String {
        let registry = name_of(host);
        match self {
            Self::LowQuota(quota) => format!(
                "{registry} leaves {} of {} pulls, so it is not asked about what is known here",
                quota.remaining, quota.limit
            ),
            Self::Failed(PullError::Answered(refusal)) if refusal.status == StatusCode::TOO_MANY_REQUESTS => {
                let told = TooMany::read(&refusal.headers, &refusal.body, now);
                let until = told.pause.map(|pause| time_of_day(now, pause));
                match (told.limit, until) {
                    (Limit::PullQuota, Some(until)) => {
                        format!("{registry}'s pull quota is used up, it resets at {until}")
                    }
                    (Limit::PullQuota, None) => format!("{registry}'s pull quota is used up"),
                    (Limit::RequestRate, Some(until)) => {
                        format!("{registry} limits the rate of requests, it is asked again at {until}")
                    }
                    (Limit::RequestRate, None) => format!("{registry} limits the rate of requests"),
                }
            }
            Self::Failed(PullError::Unreachable(error)) if error.is_timeout() => {
                format!("{registry} takes too long to answer")
            }
            Self::Failed(PullError::Unreachable(_)) => format!("{registry} cannot be reached"),
            Self::Failed(PullError::RedirectTarget { host, status }) => {
                format!("{host}, where {registry} led to, answers {}", status.as_u16())
            }
            Self::Failed(error @ (PullError::Answered(_) | PullError::AccountRefused { .. })) => {
                format!("{registry} answers {}", error.status().as_u16())
            }
            Self::Failed(_) => format!("{registry} answers with something else than was asked for"),
        }
    }
}

/// The registry as people call it.
fn name_of(host: &RegistryHost) -> String {
    if docker_hub::is_meant(host) { "Docker Hub".to_owned() } else { host.to_string() }
}

/// The header's value: warn-code 299, no agent, and the text as a quoted string.
fn warning(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let text: String = text.chars().map(plain).collect();
    format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `14:20 UTC`, with the date in front if it is not within a day.
fn time_of_day(now: SystemTime, after: Duration) -> String {
    let date = httpdate::fmt_http_date(now + after);
    // `Tue, 01 Dec 2026 14:20:00 GMT`
    let (day, time) = (date.get(5..11).unwrap_or_default(), date.get(17..22).unwrap_or_default());
    if after < Duration::from_secs(24 * 3600) { format!("{time} UTC") } else { format!("{day} {time} UTC") }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use bytes::Bytes;
    use http::HeaderMap;
    use http::header::RETRY_AFTER;

    use super::*;
    use crate::fetch::source::UpstreamRefusal;

    fn answered(status: u16, retry_after: Option<&str>, body: &'static str) -> PullError {
        let value = retry_after.map(|value| (RETRY_AFTER, HeaderValue::from_str(value).expect("a value")));
        let headers = HeaderMap::from_iter(value);
        let status = StatusCode::from_u16(status).expect("a status");
        PullError::answered(UpstreamRefusal { status, headers, body: Bytes::from_static(body.as_bytes()) })
    }

    #[test]
    fn each_reason_is_said_in_a_sentence() {
        // 14:00 UTC
        let now = UNIX_EPOCH + Duration::from_secs(1_800_021_600);
        let (hub, other) = ("registry-1.docker.io", "ghcr.io");
        let quota = "You have reached your pull rate limit.";
        let led = PullError::RedirectTarget { host: "cdn.example".parse().expect("a host"), status: StatusCode::GONE };
        let cases = [
            (hub, answered(429, Some("1200"), quota), "Docker Hub's pull quota is used up, it resets at 14:20 UTC"),
            (
                hub,
                answered(429, Some("86400"), quota),
                "Docker Hub's pull quota is used up, it resets at 16 Jan 14:00 UTC",
            ),
            (hub, answered(429, None, quota), "Docker Hub's pull quota is used up"),
            (
                hub,
                answered(429, Some("60"), ""),
                "Docker Hub limits the rate of requests, it is asked again at 14:01 UTC",
            ),
            (other, answered(429, None, ""), "ghcr.io limits the rate of requests"),
            (other, answered(503, Some("60"), ""), "ghcr.io answers 503"),
            (other, led, "cdn.example, where ghcr.io led to, answers 410"),
            (other, PullError::ManifestForm, "ghcr.io answers with something else than was asked for"),
        ];
        for (host, error, text) in cases {
            assert_eq!(Why::Failed(&error).text(&host.parse().expect("a host"), now), text);
        }
        let low = Why::LowQuota(Quota { limit: 100, remaining: 3, window_s: None });
        let text = "Docker Hub leaves 3 of 100 pulls, so it is not asked about what is known here";
        assert_eq!(low.text(&hub.parse().expect("a host"), now), text);
    }

    #[test]
    fn the_header_is_as_oci_specifies_whatever_the_text_is() {
        for (text, value) in [
            ("served stale: x answers 503", r#"299 - "served stale: x answers 503""#),
            (r#"a "b" \c"#, r#"299 - "a \"b\" \\c""#),
            ("line\r\nbreak\u{e9}", r#"299 - "line??break?""#),
        ] {
            assert_eq!(warning(text), value);
        }
    }
}
