//! Malformed input at the door and inside intercepted TLS. The answer is 400, 421 or 431, and the connection is closed.
//! Nothing is asked upstream, nothing is kept, and the next client is served (T8, T9, T11 of docs/threats.md).

use std::time::Duration;

use entrepot_tests::door::Door;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;

/// The time for which a connection is watched for its end.
const QUIET: Duration = Duration::from_secs(3);

/// The fault, the bytes, and the statuses that are right answers.
type Case = (&'static str, String, &'static [u16]);

fn case(what: &'static str, bytes: impl Into<String>, statuses: &'static [u16]) -> Case {
    (what, bytes.into(), statuses)
}

fn outer_cases() -> Vec<Case> {
    let big = "a".repeat(70_000);
    vec![
        case("no HTTP at all", "GARBAGE\r\n\r\n", &[400]),
        case("binary", "\x00\x03\x01\x02\x00\x01\x00\r\n\r\n", &[400]),
        case("an unknown version", "GET / HTTP/9.9\r\nHost: a\r\n\r\n", &[400, 505]),
        case("no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("a header over 64 KiB", format!("GET / HTTP/1.1\r\nHost: a\r\nX: {big}\r\n\r\n"), &[431]),
        case("headers over 64 KiB", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(12_000)), &[431]),
        case("a target over 64 KiB", format!("GET /{big} HTTP/1.1\r\nHost: a\r\n\r\n"), &[400, 414, 431]),
        case("CONNECT without a port", "CONNECT ghcr.io HTTP/1.1\r\nHost: ghcr.io\r\n\r\n", &[400]),
        case("CONNECT without a host", "CONNECT :443 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("CONNECT to port 0", "CONNECT ghcr.io:0 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("CONNECT to a large port", "CONNECT ghcr.io:99999 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("CONNECT with a path", "CONNECT ghcr.io:443/x HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("CONNECT with a user", "CONNECT u@ghcr.io:443 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("CONNECT to a URL", "CONNECT https://ghcr.io/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("CONNECT to half an address", "CONNECT [::1:443 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("an empty authority", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("a user in the target", "GET http://u:p@plain.test:5001/v2/ HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        case("another scheme", "GET ftp://plain.test/x HTTP/1.1\r\nHost: plain.test\r\n\r\n", &[400]),
        case("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", &[400]),
        case("no number as length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", &[400]),
        case("no Host", "GET / HTTP/1.1\r\n\r\n", &[400]),
        case("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        case("a folded header", "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", &[400]),
        case("a space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", &[400]),
        case("a NUL in a header", "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", &[400]),
        case("a bare CR", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", &[400]),
    ]
}

fn inner_cases() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: ghcr.io\r\nConnection: close\r\n\r\n");
    let big = "a".repeat(70_000);
    let smuggle = "0\r\n\r\nGET /v2/smuggled HTTP/1.1\r\nHost: ghcr.io\r\n\r\n";
    let both = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{smuggle}", smuggle.len());
    let post = "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\nHost: ghcr.io\r\n";
    vec![
        case("a digest that is none", get("/v2/team/app/blobs/sha256:zz"), &[400]),
        case("a digest of an unknown kind", get("/v2/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e"), &[400]),
        case("an upper-case digest", get(&format!("/v2/team/app/blobs/sha256:{}", "A".repeat(64))), &[400]),
        case("a name that ends in a separator", get("/v2/Team_/App/manifests/1"), &[400]),
        case("a name that climbs", get("/v2/../../etc/blobs/x"), &[400, 404]),
        case("a name that climbs, encoded", get("/v2/%2e%2e/%2e%2e/etc/manifests/1"), &[400, 404]),
        case("an empty part", get("/v2/team//app/manifests/1"), &[400, 404]),
        case("a tag that is none", get("/v2/team/app/manifests/.bad"), &[400]),
        case("a long tag", get(&format!("/v2/team/app/manifests/{}", "a".repeat(129))), &[400]),
        case("another host", "GET /v2/ HTTP/1.1\r\nHost: quay.io\r\nConnection: close\r\n\r\n", &[421]),
        case("another host in the target", "GET https://quay.io/v2/ HTTP/1.1\r\nHost: quay.io\r\n\r\n", &[400, 421]),
        case("a length and chunks", format!("{post}{both}"), &[400]),
        case("two codings", format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n{smuggle}"), &[400, 501]),
        case("chunks last but not last", format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n"), &[400, 501]),
        case(
            "a coding and a twin",
            format!("{post}Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
            &[400, 501],
        ),
        case("headers over 64 KiB", format!("GET /v2/ HTTP/1.1\r\nHost: ghcr.io\r\nX: {big}\r\n\r\n"), &[431]),
        case("CONNECT inside", "CONNECT quay.io:443 HTTP/1.1\r\nHost: quay.io:443\r\n\r\n", &[400, 405, 421]),
    ]
}

/// Asserts that there is one answer, that its status is one of the right ones, and that the connection was closed.
fn assert_refused(what: &str, (answer, closed): (String, bool), statuses: &[u16]) {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let status = status.unwrap_or_else(|| panic!("{what}: no answer but {answer:?}"));
    assert!(statuses.contains(&status), "{what}: {status}, not {statuses:?}");
    assert!(closed, "{what}: the connection stayed open after {status}");
    let heads = answer.lines().filter(|line| line.starts_with("HTTP/1.1 ")).count();
    assert_eq!(heads, 1, "{what}: more than one answer: {answer}");
}

fn assert_still_served(door: &Door, ghcr: &Upstream<'_>, image: &images::Image) {
    let token = door.authorization(&GHCR, "team/app", None).expect("an anonymous token");
    let url = ghcr.url(&format!("/v2/team/app/blobs/{}", image.layers()[0].digest));
    let reply = door.get(&url, &[("authorization", &token)]);
    assert_eq!(reply.content(), image.layers()[0].digest, "an honest request after it all");
}

#[test]
fn malformed_requests_at_the_door() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(1, 1, 5000);
    ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for (what, bytes, statuses) in outer_cases() {
        assert_refused(what, door.raw(bytes.as_bytes(), QUIET), statuses);
    }
    assert!(ghcr.ledger.all().is_empty(), "nothing of it went upstream");
    assert_still_served(&door, &ghcr, &image);
}

#[test]
fn malformed_requests_inside_a_registrys_tls() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(2, 1, 5000);
    ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new().set("proxy", "allow_push = true"));
    let door = entrepot.door();
    for (what, bytes, statuses) in inner_cases() {
        let answer = door.raw_inside("https://ghcr.io", bytes.as_bytes(), QUIET);
        let is_oci = bytes.starts_with("GET /v2/") && !statuses.contains(&431);
        assert!(!is_oci || answer.0.contains("\"errors\""), "{what}: an OCI error body: {}", answer.0);
        assert_refused(what, answer, statuses);
    }
    let strange: Vec<_> = ghcr.ledger.all().into_iter().map(|seen| seen.path).collect();
    assert!(strange.is_empty(), "nothing of it went upstream: {strange:?}");
    assert_still_served(&door, &ghcr, &image);
}

#[test]
fn a_request_that_never_ends_is_given_up() {
    let world = World::new();
    let settings = Settings::new().set("client", "header_timeout = \"1s\"\nkeepalive_timeout = \"1s\"");
    let entrepot = Entrepot::start(&world, settings);
    let door = entrepot.door();
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\nX: "] {
        let (_, closed) = door.raw(begun.as_bytes(), Duration::from_secs(10));
        assert!(closed, "{begun:?} was waited for without end");
    }
}

#[test]
fn refusals_are_logged_once_and_the_process_lives() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let before = entrepot.process().pid();
    entrepot.door().raw(b"CONNECT only-here.test HTTP/1.1\r\nHost: only-here.test\r\n\r\n", QUIET);
    entrepot.process().wait_line("only-here.test", Duration::from_secs(5));
    let lines = [entrepot_tests::process::Stream::Stdout, entrepot_tests::process::Stream::Stderr];
    let said: Vec<_> = lines.into_iter().flat_map(|stream| entrepot.process().lines(stream)).collect();
    assert_eq!(said.iter().filter(|line| line.contains("only-here.test")).count(), 1, "logged once");
    assert!(!entrepot.process().has_ended() && entrepot.process().pid() == before);
}
