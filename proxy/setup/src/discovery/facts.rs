//! The facts that an appliance gives about itself, as a TXT record and as JSON at `/setup/appliance`: the one list of
//! keys.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Everything that a client has to know of an appliance to be set up with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Facts {
    pub version: String,
    /// The port of the explicit proxy.
    pub proxy_port: u16,
    /// The registry's port for HTTP; None if that is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_http_port: Option<u16>,
    /// The registry's port for HTTPS; None if that is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_https_port: Option<u16>,
    /// The port for Docker's `registry-mirrors`, plain and TLS; None if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_mirror_port: Option<u16>,
    /// SHA-256 of the CA certificate, lower-case hex without colons.
    pub ca_sha256: String,
    /// The pin of the key of the appliance's own name, as curl takes it. It is for the appliance's own console: a pin
    /// that comes over the network proves nothing, so the TXT record has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_key: Option<String>,
}

/// The JSON. It has the name, which a TXT record need not have because it belongs to that name.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

const HOST: &str = "host";
const VERSION: &str = "version";
const PROXY: &str = "proxy";
const REGISTRY_HTTP: &str = "registry-http";
const REGISTRY_HTTPS: &str = "registry-https";
const DOCKER_MIRROR: &str = "docker-mirror";
const CA_SHA256: &str = "ca-sha256";

impl Facts {
    /// The facts of this program, without a registry and without a key.
    pub fn new(proxy_port: u16, ca_sha256: &str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            proxy_port,
            registry_http_port: None,
            registry_https_port: None,
            docker_mirror_port: None,
            ca_sha256: ca_sha256.to_owned(),
            own_key: None,
        }
    }

    /// The pairs of the TXT record.
    pub(crate) fn txt(&self) -> Vec<(&'static str, String)> {
        let ports = [
            (REGISTRY_HTTP, self.registry_http_port),
            (REGISTRY_HTTPS, self.registry_https_port),
            (DOCKER_MIRROR, self.docker_mirror_port),
        ];
        let ports = ports.into_iter().filter_map(|(key, port)| Some((key, port?.to_string())));
        let first = [(VERSION, self.version.clone()), (PROXY, self.proxy_port.to_string())];
        first.into_iter().chain(ports).chain([(CA_SHA256, self.ca_sha256.clone())]).collect()
    }

    /// Reads a TXT record; None if it is not one of ours.
    pub(crate) fn from_txt<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let port = |key| value(key).and_then(|text| text.parse::<u16>().ok()).filter(|port| *port != 0);
        Some(Self {
            version: value(VERSION).filter(|text| is_plain(text))?.to_owned(),
            proxy_port: port(PROXY)?,
            registry_http_port: port(REGISTRY_HTTP),
            registry_https_port: port(REGISTRY_HTTPS),
            docker_mirror_port: port(DOCKER_MIRROR),
            ca_sha256: normal_fingerprint(value(CA_SHA256)?)?,
            own_key: None,
        })
    }

    /// The JSON, with the announced name if there is one.
    pub(crate) fn to_json(&self, host: Option<&str>) -> Vec<u8> {
        // Strings and numbers cannot fail.
        serde_json::to_vec(&Json { facts: self, host }).unwrap_or_default()
    }

    /// The announced name in the JSON of an appliance.
    pub(crate) fn host_in_json(text: &[u8]) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(text).ok()?;
        json.get(HOST)?.as_str().filter(|host| is_plain(host)).map(str::to_owned)
    }

    /// Reads the JSON of another appliance; None if it is not usable.
    pub(crate) fn from_json(text: &[u8]) -> Option<Self> {
        let facts: Self = serde_json::from_slice(text).ok()?;
        let ca_sha256 = normal_fingerprint(&facts.ca_sha256)?;
        let own_key = facts.own_key.filter(|pin| is_pin(pin));
        (is_plain(&facts.version) && facts.proxy_port != 0).then_some(Self { ca_sha256, own_key, ..facts })
    }

    /// The port for browsers: that of the registry's web page, else that of the proxy's own page.
    pub(crate) fn web_port(&self) -> u16 {
        self.registry_http_port.unwrap_or(self.proxy_port)
    }
}

/// A SHA-256 fingerprint in lower-case hex without colons; None if the text is not a fingerprint.
pub fn normal_fingerprint(text: &str) -> Option<String> {
    let hex: String = text.trim().chars().filter(|character| *character != ':').collect();
    (hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| hex.to_ascii_lowercase())
}

/// Whether the text is `sha256//` and the base64 of 32 bytes: it goes into a line for a shell.
fn is_pin(text: &str) -> bool {
    let decoded = text.strip_prefix("sha256//").map(|base64| STANDARD.decode(base64));
    decoded.is_some_and(|bytes| bytes.is_ok_and(|bytes| bytes.len() == 32))
}

/// Whether the text is short and printable. It comes from the network and goes to a terminal.
fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(registry_http_port: Option<u16>) -> Facts {
        Facts { registry_http_port, ..Facts::new(3128, &"ab".repeat(32)) }
    }

    #[test]
    fn both_forms_come_back() {
        let with_mirror = Facts { docker_mirror_port: Some(5001), ..facts(Some(80)) };
        for sent in [facts(None), facts(Some(80)), with_mirror] {
            let txt = sent.txt();
            let value = |key: &str| txt.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str());
            assert_eq!(Facts::from_txt(value), Some(sent.clone()));
            let json = sent.to_json(Some("docker-registry-2.local"));
            assert_eq!(Facts::host_in_json(&json).as_deref(), Some("docker-registry-2.local"));
            assert_eq!(Facts::from_json(&json), Some(sent.clone()));
            assert_eq!(Facts::host_in_json(&sent.to_json(None)), None);
        }
        assert_eq!((facts(None).web_port(), facts(Some(80)).web_port()), (3128, 80));
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        let bad = |key: &'static str, bad: &'static str| {
            let txt = facts(None).txt();
            Facts::from_txt(|asked: &str| match asked == key {
                true => (!bad.is_empty()).then_some(bad),
                false => txt.iter().find(|(known, _)| *known == asked).map(|(_, value)| value.as_str()).map(|v| {
                    // The closure's answers live as long as the test.
                    Box::leak(v.to_owned().into_boxed_str()) as &str
                }),
            })
        };
        for (key, text) in
            [("version", ""), ("version", "\u{1b}[2J"), ("proxy", "0"), ("proxy", "x"), ("ca-sha256", "abc")]
        {
            assert_eq!(bad(key, text), None, "{key}={text}");
        }
        assert_eq!(Facts::from_json(b"{}"), None);
    }

    #[test]
    fn a_pin_comes_back_from_json_and_nothing_else_in_its_place() {
        let pin = format!("sha256//{}", STANDARD.encode([7; 32]));
        for (sent, expected) in [(pin.as_str(), true), ("sha256//$(reboot)", false), ("sha256//QUJD", false)] {
            let facts = Facts { own_key: Some(sent.to_owned()), ..facts(None) };
            let read = Facts::from_json(&facts.to_json(None)).expect("facts");
            assert_eq!(read.own_key.as_deref(), expected.then_some(sent), "{sent}");
        }
    }

    #[test]
    fn fingerprints_are_read_as_people_copy_them() {
        let colons = vec!["AB"; 32].join(":");
        assert_eq!(normal_fingerprint(&format!(" {colons}\n")), Some("ab".repeat(32)));
        for bad in ["", "ab", &"gg".repeat(32), &"ab".repeat(33)] {
            assert_eq!(normal_fingerprint(bad), None);
        }
    }
}
