//! Every environment variable changes its setting, and `check` names the variable as the origin.

use std::collections::BTreeSet;

use entrepot_core::quantity::show_duration;

use super::super::environment::names;
use super::{Case, shown};
use crate::ready::{Config, Tier};
use entrepot_core::secret::Secret;

/// Variable, value, the setting to show, its text with the default and with the variable, and the key that has the
/// origin.
type Row = (&'static str, &'static str, fn(&Config) -> String, &'static str, &'static str, &'static str);

fn tier(tier: &Option<Tier>) -> String {
    tier.as_ref().map_or("off".to_owned(), |tier| format!("{} {}", tier.regex, show_duration(tier.time)))
}

fn accounts(config: &Config) -> String {
    let row = |account: &crate::ready::Account| {
        format!("{} {} {}", account.registry, account.username, account.password.expose())
    };
    config.live.credentials.iter().map(row).collect::<Vec<_>>().join(", ")
}

fn parent(config: &Config) -> String {
    let parent = config.live.upstream.proxy.as_ref();
    parent.map_or("none".to_owned(), |parent| {
        let authorization = parent.authorization.as_ref().map_or("-", Secret::expose);
        format!("{} {authorization}", parent.host.authority(0))
    })
}

fn no_proxy(config: &Config) -> String {
    let list = &config.live.upstream.no_proxy;
    format!("{} {:?} {:?}", list.everything, list.names, list.networks)
}

fn allowed(config: &Config) -> String {
    let hosts = ["ghcr.io", "quay.io", "registry-1.docker.io", "auth.docker.io", "reg:5000"];
    let allow = config.live.proxy.allow.as_ref();
    hosts.map(|host| if allow.is_none_or(|allow| allow.is_match(host)) { "+" } else { "-" }).concat()
}

fn extra_hosts(config: &Config) -> String {
    config.live.intercept[13..].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

const PRIMARY: &str = "^(?:(stable|nightly|production|test)) 10m";
const SECONDARY: &str = r"^(?:(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+) 60d";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("REGISTRIES", "a.example  *.b.example\nc.example:5000 quay.io a.example", extra_hosts, "",
        "a.example *.b.example c.example:5000", "intercept.registries"),
    ("ADDITIONAL_REGISTRIES", "a.example", extra_hosts, "", "a.example", "intercept.registries"),
    ("REGISTRY_WHITELIST", "GHCR.io, docker.io,reg", allowed, "+++++", "+-+++", "proxy.allow"),
    ("AUTH_REGISTRIES", "a.example:u:p:w b.example:v:q", accounts, "", "a.example u p:w, b.example v q", "credentials.1.registry"),
    ("AUTH_REGISTRIES_FILE", "$DIR/accounts", accounts, "", "f.example u p:w", "credentials.1.registry"),
    ("VERIFY_SSL", "false", |config| config.live.upstream.verify.to_string(), "true", "false", "upstream.verify"),
    ("ENABLE_MANIFEST_CACHE", "true", |config| format!("{:?}", config.live.tags.mode), "Revalidate", "Ttl", "cache.tags.mode"),
    ("MANIFEST_CACHE_PRIMARY_REGEX", "dev|edge", |config| tier(&config.live.tags.primary), PRIMARY, "^(?:dev|edge) 10m",
        "cache.tags.primary.regex"),
    ("MANIFEST_CACHE_PRIMARY_REGEX", "", |config| tier(&config.live.tags.primary), PRIMARY, "off", "cache.tags.primary.regex"),
    ("MANIFEST_CACHE_PRIMARY_TIME", "5m", |config| tier(&config.live.tags.primary), PRIMARY,
        "^(?:(stable|nightly|production|test)) 5m", "cache.tags.primary.time"),
    ("MANIFEST_CACHE_PRIMARY_TIME", "", |config| tier(&config.live.tags.primary), PRIMARY, "off", "cache.tags.primary.time"),
    ("MANIFEST_CACHE_SECONDARY_REGEX", "v", |config| tier(&config.live.tags.secondary), SECONDARY, "^(?:v) 60d",
        "cache.tags.secondary.regex"),
    ("MANIFEST_CACHE_SECONDARY_REGEX", "", |config| tier(&config.live.tags.secondary), SECONDARY, "off",
        "cache.tags.secondary.regex"),
    ("MANIFEST_CACHE_SECONDARY_TIME", "", |config| tier(&config.live.tags.secondary), SECONDARY, "off",
        "cache.tags.secondary.time"),
    ("MANIFEST_CACHE_SECONDARY_TIME", "1y", |config| tier(&config.live.tags.secondary), SECONDARY,
        r"^(?:(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+) 365d", "cache.tags.secondary.time"),
    ("MANIFEST_CACHE_DEFAULT_TIME", "2h", |config| show_duration(config.live.tags.default_time), "1h", "2h",
        "cache.tags.default_time"),
    ("MANIFEST_CACHE_DEFAULT_TIME", "", |config| show_duration(config.live.tags.default_time), "1h", "0ms",
        "cache.tags.default_time"),
    ("CACHE_MAX_SIZE", "64G", |config| config.live.cache.max_size.to_string(), "32g", "64g", "cache.max_size"),
    ("CACHE_INACTIVE", "7d", |config| show_duration(config.live.cache.inactive), "60d", "7d", "cache.inactive"),
    ("ALLOW_PUSH", "TRUE", |config| config.live.proxy.allow_push.to_string(), "false", "true", "proxy.allow_push"),
    ("SEND_TIMEOUT", "11s", |config| show_duration(config.live.client.send_timeout), "1m", "11s", "client.send_timeout"),
    ("CLIENT_BODY_TIMEOUT", "12s", |config| show_duration(config.live.client.body_timeout), "1m", "12s", "client.body_timeout"),
    ("CLIENT_HEADER_TIMEOUT", "13s", |config| show_duration(config.live.client.header_timeout), "1m", "13s",
        "client.header_timeout"),
    ("KEEPALIVE_TIMEOUT", "0", |config| show_duration(config.live.client.keepalive_timeout), "5m", "0ms",
        "client.keepalive_timeout"),
    ("PROXY_READ_TIMEOUT", "14s", |config| show_duration(config.live.upstream.read_timeout), "1m", "14s", "upstream.read_timeout"),
    ("PROXY_CONNECT_TIMEOUT", "15s", |config| show_duration(config.live.upstream.connect_timeout), "1m", "15s",
        "upstream.connect_timeout"),
    ("PROXY_SEND_TIMEOUT", "16s", |config| show_duration(config.live.upstream.send_timeout), "1m", "16s", "upstream.send_timeout"),
    ("PROXY_CONNECT_READ_TIMEOUT", "17s", |config| show_duration(config.live.upstream.tunnel_idle_timeout), "15m", "17s",
        "upstream.tunnel_idle_timeout"),
    ("PROXY_CONNECT_SEND_TIMEOUT", "18s", |config| show_duration(config.live.upstream.tunnel_idle_timeout), "15m", "18s",
        "upstream.tunnel_idle_timeout"),
    ("PROXY_CONNECT_CONNECT_TIMEOUT", "19s", |config| show_duration(config.live.upstream.tunnel_connect_timeout), "1m", "19s",
        "upstream.tunnel_connect_timeout"),
    ("DISABLE_IPV6", "yes", |config| config.live.upstream.ipv6.to_string(), "true", "false", "upstream.ipv6"),
    ("DEBUG", "1", |config| config.live.logging.level.clone(), "info", "debug", "logging.level"),
    ("DEBUG_HUB", "on", |config| config.live.logging.level.clone(), "info", "debug", "logging.level"),
    ("DEBUG_NGINX", "true", |config| config.live.logging.level.clone(), "info", "trace", "logging.level"),
    ("UPSTREAM_PROXY", "http://proxy:8080", parent, "none", "proxy:8080 -", "upstream.proxy"),
    ("UPSTREAM_PROXY_FILE", "$DIR/parent", parent, "none", "proxy:81 Basic dTpw", "upstream.proxy"),
    ("upstream_proxy", "http://proxy:8080", parent, "none", "proxy:8080 -", "upstream.proxy"),
    ("HTTPS_PROXY", "http://u:p@proxy:8080", parent, "none", "proxy:8080 Basic dTpw", "upstream.proxy"),
    ("https_proxy", "proxy:8080", parent, "none", "proxy:8080 -", "upstream.proxy"),
    ("NO_PROXY", ".a.example, 10.0.0.0/8,b:81", no_proxy, "false [] []",
        r#"false [("a.example", None), ("b", Some(81))] [10.0.0.0/8]"#, "upstream.no_proxy"),
    ("no_proxy", "*", no_proxy, "false [] []", "true [] []", "upstream.no_proxy"),
];

/// Variables that set nothing by themselves, or need files. Other tests cover them.
const ELSEWHERE: [&str; 6] = [
    "ENTREPOT_CONFIG",
    "PROXY_REQUEST_BUFFERING",
    "CA_CRT_FILE",
    "CA_KEY_FILE",
    "AUTH_REGISTRIES_DELIMITER",
    "AUTH_REGISTRY_DELIMITER",
];

#[test]
fn each_variable_sets_its_knob() {
    let defaults = Case::without_file().loaded().config;
    for (name, value, look, default, expected, key) in ROWS {
        let case = Case::without_file().set(name, value);
        case.file("accounts", "f.example:u:p:w\n");
        case.file("parent", "http://u:p@proxy:81\n");
        let loaded = case.loaded();
        assert_eq!((look(&defaults).as_str(), look(&loaded.config).as_str()), (*default, *expected), "{name}={value}");
        let origin = format!("# environment variable {name}");
        assert!(shown(&loaded, key).ends_with(&origin), "{name}: {}", shown(&loaded, key));
    }
}

#[test]
fn no_variable_is_untested() {
    let tested: BTreeSet<&str> = ROWS.iter().map(|row| row.0).chain(ELSEWHERE).collect();
    assert_eq!(names().collect::<BTreeSet<_>>(), tested);
}

#[test]
fn switches_are_read_in_any_case_and_empty_is_unset() {
    for (text, expected) in [("true", true), ("1", true), ("Yes", true), ("ON", true), ("false", false), ("0", false)] {
        let file = Case::new(&format!("[proxy]\nallow_push = {}\n", !expected));
        assert_eq!(file.set("ALLOW_PUSH", text).loaded().config.live.proxy.allow_push, expected, "{text}");
    }
    assert!(Case::new("[proxy]\nallow_push = true\n").set("ALLOW_PUSH", "").loaded().config.live.proxy.allow_push);
}

#[test]
fn delimiters_are_free() {
    let case = Case::without_file()
        .set("AUTH_REGISTRIES", "host:5000:::user:::p:a:::ss;;;b.example:::v:::q")
        .set("AUTH_REGISTRIES_DELIMITER", ";;;")
        .set("AUTH_REGISTRY_DELIMITER", ":::");
    assert_eq!(accounts(&case.loaded().config), "host:5000 user p:a:::ss, b.example v q");
}

#[test]
fn what_was_meant_for_us_comes_before_what_is_meant_for_all() {
    let case = Case::new("[upstream]\nproxy = \"http://file:1\"\n").set("https_proxy", "http://lower:1");
    assert_eq!(parent(&case.loaded().config), "lower:1 -");
    let case = case.set("HTTPS_PROXY", "http://upper:1");
    assert_eq!(parent(&case.loaded().config), "upper:1 -");
    let case = case.set("UPSTREAM_PROXY", "http://ours:1");
    assert_eq!(parent(&case.loaded().config), "ours:1 -");
}

#[test]
fn a_tunnel_is_idle_when_both_directions_are() {
    for (read, send, expected) in [("10s", "20s", "20s"), ("30s", "20s", "30s")] {
        let case = Case::without_file().set("PROXY_CONNECT_READ_TIMEOUT", read).set("PROXY_CONNECT_SEND_TIMEOUT", send);
        assert_eq!(show_duration(case.loaded().config.live.upstream.tunnel_idle_timeout), expected);
    }
}

#[test]
fn variables_without_a_counterpart_are_spoken_of_once() {
    for (name, value, notices) in [
        (
            "PROXY_REQUEST_BUFFERING",
            "true",
            &["PROXY_REQUEST_BUFFERING has no effect: request bodies are always streamed"][..],
        ),
        ("DEBUG", "true", &["DEBUG starts no mitmweb here: events are logged at level debug"]),
        ("DEBUG_NGINX", "true", &["DEBUG_NGINX starts no mitmweb here: events are logged at level trace"]),
        ("DEBUG_HUB", "false", &[]),
        ("CACHE_MAXSIZE", "64g", &["environment variable CACHE_MAXSIZE is not read; did you mean CACHE_MAX_SIZE?"]),
        (
            "AUTH_REGISTRIES",
            "a.io:u:canary,b.io:v:canary",
            &[
                "AUTH_REGISTRIES: the password for \"a.io\" seems to have another entry in it; spaces separate the entries",
            ],
        ),
        ("AUTH_REGISTRIES", "a.io:u:can,ary:x:y", &[]),
        ("NO_PROXY", "10.*,a.example", &["NO_PROXY: \"10.*\" is ignored"]),
    ] {
        assert_eq!(Case::without_file().set(name, value).loaded().notices, notices, "{name}");
    }
}
