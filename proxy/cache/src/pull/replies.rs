//! Replies made of upstream's answers. What is relayed is rebuilt from the headers that clients need; failures become
//! replies in `error.rs`.

use entrepot_core::digest::{DOCKER_CONTENT_DIGEST, Digest};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fetch::source::UpstreamRefusal;
use crate::pull::RequestContext;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Served;
use entrepot_observe::trail::Decision;
use entrepot_upstream::operation::is_of_the_hop;
use entrepot_upstream::registry_client::Answer;

/// Response headers of upstream that clients need; hop-by-hop ones, cookies and a CDN's own are not among them.
const RELAYED: [&str; 22] = [
    "content-type",
    "content-length",
    "content-range",
    "content-encoding",
    "accept-ranges",
    "cache-control",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "etag",
    "last-modified",
    "link",
    "location",
    "oci-chunk-min-length",
    "oci-filters-applied",
    "oci-subject",
    "oci-tag",
    "range",
    "retry-after",
    "warning",
    "www-authenticate",
];

/// Upstream's headers that are for the client.
pub fn relayed_headers(headers: &HeaderMap) -> HeaderMap {
    let keep = |name: &HeaderName| RELAYED.contains(&name.as_str()) || name.as_str().contains("ratelimit");
    let mut relayed = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| keep(name)) {
        relayed.append(name.clone(), value.clone());
    }
    relayed
}

/// Upstream's head as the reply to HEAD.
pub(super) fn head(request: &RequestContext, digest: Option<Digest>, head: Reply) -> Reply {
    request.trail.record(Decision::Content { served: Served::Head, digest, stored_at: None });
    let head = head.without_body();
    match digest {
        Some(digest) => head.with(DOCKER_CONTENT_DIGEST, &digest.to_string()),
        None => head,
    }
}

/// Upstream's own error answer.
pub fn refused(refusal: UpstreamRefusal) -> Reply {
    let mut headers = relayed_headers(&refusal.headers);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(refusal.body.len() as u64));
    Reply { status: refusal.status, headers, body: ReplyBody::Full(refusal.body), refused: None }
}

/// Upstream's answer as it comes.
pub fn relayed(answer: Answer) -> Reply {
    let headers = relayed_headers(&answer.headers);
    Reply { status: answer.status, headers, body: ReplyBody::relayed(answer.body), refused: None }
}

/// An answer that has nothing to do with a registry: all of it but the hop's own headers.
pub fn passed(answer: Answer) -> Reply {
    let all = answer.headers.clone();
    let mut reply = relayed(answer);
    let named = all.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<_> = named.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
    for name in all.keys() {
        let of_the_hop = is_of_the_hop(name) || named.iter().any(|hop| hop == name.as_str());
        if !of_the_hop && !reply.headers.contains_key(name) {
            reply.headers.extend(all.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_clients_need_is_relayed() {
        let mut upstream = HeaderMap::new();
        for name in ["set-cookie", "connection", "transfer-encoding", "server", "x-amz-id-2", "etag", "ratelimit-limit"]
        {
            upstream.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let mut names: Vec<_> = relayed_headers(&upstream).keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["etag", "ratelimit-limit"]);
    }
}
