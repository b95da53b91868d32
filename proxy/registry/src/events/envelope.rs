//! The JSON of an event, in the format of Docker's registry ("Work with notifications" in its documentation). Pure.

use std::time::SystemTime;

use aws_lc_rs::rand;
use entrepot_core::media::ManifestType;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Deed, Event};
use entrepot_core::origin::Scheme;

/// The media type of an envelope.
pub(super) const MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v1+json";

/// The registry that sends the events.
#[derive(Clone, Debug)]
pub struct EventSource {
    /// The name and port of the registry.
    pub address: String,
    /// Identifies this process.
    pub instance: String,
}

#[derive(Serialize)]
struct Envelope<'a> {
    events: [Told<'a>; 1],
}

#[derive(Serialize)]
struct Told<'a> {
    id: String,
    timestamp: String,
    action: &'static str,
    target: Target<'a>,
    request: Request<'a>,
    actor: Actor<'a>,
    source: Teller<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// The size under its older name.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    repository: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_repository: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    useragent: Option<&'a str>,
}

#[derive(Serialize)]
struct Actor<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct Teller<'a> {
    addr: &'a str,
    #[serde(rename = "instanceID")]
    instance_id: &'a str,
}

impl Deed {
    fn word(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Mount => "mount",
            Self::Delete => "delete",
        }
    }
}

/// The body of a POST. `id` identifies the event and is the same in every try.
pub(super) fn body(event: &Event, id: &str, source: &EventSource) -> Vec<u8> {
    let request = event.request.as_ref().map(|request| Request {
        addr: Some(request.client.to_canonical().to_string()),
        host: Some(&request.host),
        method: Some(request.method.as_str()),
        useragent: Some(&request.user_agent),
    });
    let told = Told {
        id: id.to_owned(),
        timestamp: timestamp(event.at),
        action: event.deed.word(),
        target: Target {
            media_type: event.media_type.as_deref(),
            digest: event.digest.map(|digest| digest.to_string()),
            size: event.size_bytes,
            length: event.size_bytes,
            repository: event.repository.as_str(),
            from_repository: event.from.as_ref().map(|name| name.as_str()),
            url: url(event),
            tag: event.tag.as_ref().map(|tag| tag.as_str()),
        },
        request: request.unwrap_or_default(),
        actor: Actor { name: event.actor.user() },
        source: Teller { addr: &source.address, instance_id: &source.instance },
    };
    // Serialising texts and numbers cannot fail.
    serde_json::to_vec(&Envelope { events: [told] }).unwrap_or_default()
}

/// The URL of the content at the address that the client used; None after a deletion.
fn url(event: &Event) -> Option<String> {
    if event.deed == Deed::Delete {
        return None;
    }
    let (request, digest) = (event.request.as_ref()?, event.digest?);
    let scheme = match request.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let is_manifest = event.media_type.as_deref().is_some_and(|name| ManifestType::of(name).is_some());
    let kind = if is_manifest { "manifests" } else { "blobs" };
    Some(format!("{scheme}://{}/v2/{}/{kind}/{digest}", request.host, event.repository))
}

/// A random UUID (RFC 9562, version 4).
pub(super) fn id() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness the id is less unique, but the event is sent all the same.
    let _ = rand::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn timestamp(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::access::Principal;
    use crate::events::EventRequest;
    use entrepot_core::digest::{Algorithm, Digest};
    use http::Method;
    use std::time::{Duration, UNIX_EPOCH};

    pub(crate) fn event(tag: &str) -> Event {
        Event {
            deed: Deed::Push,
            at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_125),
            repository: "team/app".parse().unwrap(),
            digest: Some(Digest::of(Algorithm::Sha256, b"")),
            size_bytes: Some(708),
            media_type: Some("application/vnd.oci.image.manifest.v1+json".into()),
            tag: Some(tag.parse().unwrap()),
            from: None,
            actor: Principal::User("alice".into()),
            request: Some(EventRequest {
                client: "::ffff:192.0.2.7".parse().unwrap(),
                scheme: Scheme::Https,
                host: "docker-registry.local".into(),
                method: Method::PUT,
                user_agent: "docker/28.5".into(),
            }),
        }
    }

    pub(crate) fn source() -> EventSource {
        EventSource { address: "docker-registry.local:5000".into(), instance: "0123".into() }
    }

    #[test]
    fn a_push_is_written_as_dockers_registry_writes_it() {
        let text = String::from_utf8(body(&event("v1"), "1-2", &source())).unwrap();
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let expected = [
            r#"{"events":[{"id":"1-2","timestamp":"2023-11-14T22:13:20.125Z","action":"push","target":{"#,
            r#""mediaType":"application/vnd.oci.image.manifest.v1+json","digest":""#,
            digest,
            r#"","size":708,"length":708,"repository":"team/app","#,
            r#""url":"https://docker-registry.local/v2/team/app/manifests/"#,
            digest,
            r#"","tag":"v1"},"#,
            r#""request":{"addr":"192.0.2.7","host":"docker-registry.local","method":"PUT","useragent":"docker/28.5"},"#,
            r#""actor":{"name":"alice"},"source":{"addr":"docker-registry.local:5000","instanceID":"0123"}}]}"#,
        ];
        assert_eq!(text, expected.concat());
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let deleted = Event {
            deed: Deed::Delete,
            digest: None,
            size_bytes: None,
            media_type: None,
            tag: None,
            actor: Principal::Anonymous,
            request: None,
            ..event("v1")
        };
        let text = String::from_utf8(body(&deleted, "1", &source())).unwrap();
        assert!(
            text.contains(r#""action":"delete","target":{"repository":"team/app"},"request":{},"actor":{},"#),
            "{text}"
        );
        let mounted = Event { deed: Deed::Mount, from: Some("a".parse().unwrap()), ..event("v1") };
        let text = String::from_utf8(body(&mounted, "1", &source())).unwrap();
        assert!(text.contains(r#""action":"mount""#) && text.contains(r#""fromRepository":"a""#), "{text}");
    }

    #[test]
    fn ids_are_uuids() {
        let uuid = regex::Regex::new("^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$").unwrap();
        let (first, second) = (id(), id());
        assert!(uuid.is_match(&first) && first != second, "{first}");
    }
}
