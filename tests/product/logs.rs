//! The access log and the headers that docker-registry-proxy's users read. Neither contains a secret.

use std::process::Command;
use std::time::Duration;

use entrepot_tests::entrepot::{CANARY, Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::process::{Stream, finish};
use entrepot_tests::tokens::basic;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;

use crate::ACCEPT;

/// docker-registry-proxy's fields, in its order.
const FIELDS: [&str; 11] = [
    "access_time",
    "upstream_cache_status",
    "method",
    "uri",
    "request_type",
    "status",
    "bytes_sent",
    "upstream_response_time",
    "host",
    "proxy_host",
    "upstream",
];

/// The raw log lines about two GETs of a blob and two of a manifest by tag.
fn logged(world: &World, settings: Settings) -> Vec<String> {
    let ghcr = Upstream::start(world, GHCR);
    let image = images::random(1, 1, 5000);
    ghcr.publish(&image, "team/app", "stable");
    let entrepot = Entrepot::start(world, settings);
    let door = entrepot.door();
    let token = door.authorization(&GHCR, "team/app", None).expect("an anonymous token");
    let headers = [ACCEPT, ("authorization", token.as_str())];
    let blob = format!("/v2/team/app/blobs/{}", image.layers()[0].digest);
    for path in [&blob, "/v2/team/app/manifests/stable"] {
        assert!(door.get(&ghcr.url(path), &headers).complete().is_some());
    }
    entrepot.wait_stored(1);
    for path in [&blob, "/v2/team/app/manifests/stable"] {
        assert!(door.get(&ghcr.url(path), &headers).complete().is_some());
    }
    assert_eq!(door.get(&ghcr.url("/v2/team/app/tags/list"), &headers).status, 200);
    // A line is written when the last byte is taken, and the lines of two connections have no order.
    let patience = Duration::from_secs(5);
    for (path, count) in [(blob.as_str(), 2), ("/manifests/stable", 2), ("/tags/list", 1)] {
        entrepot.process().wait_lines_on(Stream::Stdout, path, count, patience);
    }
    entrepot.process().lines(Stream::Stdout)
}

#[test]
fn a_line_a_request_with_the_eleven_fields_first() {
    let world = World::new();
    let lines = logged(&world, Settings::new());
    let blobs: Vec<&String> = lines.iter().filter(|line| line.contains("/blobs/sha256:")).collect();
    assert_eq!(blobs.len(), 2, "{lines:#?}");
    for line in &blobs {
        let places: Vec<_> = FIELDS.iter().map(|name| line.find(&format!("\"{name}\":"))).collect();
        assert!(places[0] == Some(1) && places.is_sorted() && !places.contains(&None), "order of fields in {line}");
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(value.as_object().expect("an object").values().all(serde_json::Value::is_string), "strings: {line}");
        assert_eq!((value["method"].as_str(), value["status"].as_str()), (Some("GET"), Some("200")), "{line}");
        assert_eq!(value["request_type"], "blob-by-digest", "{line}");
        assert_eq!(value["host"], "ghcr.io", "{line}");
        let time = value["access_time"].as_str().unwrap_or_default();
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert!(shape.starts_with("99/") && shape.ends_with("/9999:99:99:99 +9999"), "{time}");
    }
    let status =
        |line: &String| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["upstream_cache_status"].clone();
    assert_eq!((status(blobs[0]), status(blobs[1])), ("MISS".into(), "HIT".into()));
}

#[test]
fn the_users_pipelines_work() {
    let world = World::new();
    let lines = logged(&world, Settings::new());
    let file = world.path("log");
    std::fs::write(&file, lines.join("\n") + "\n").expect("the log");
    let pipeline = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-euc", script, "sh"]).arg(&file);
        finish(&world.proxy, command, Duration::from_secs(10)).expect_success(script).stdout
    };
    assert!(pipeline("grep HIT <\"$1\"").contains("/blobs/"));
    let counts = pipeline("jq -r .upstream_cache_status <\"$1\" | sort | uniq -c");
    assert!(counts.contains("MISS") && counts.contains("HIT"), "{counts}");
}

#[test]
fn a_file_and_text_are_a_switch_away() {
    let world = World::new();
    let file = world.path("access.log");
    let settings = Settings::new().set("logging", &format!("format = \"text\"\nfile = {file:?}"));
    let ghcr = Upstream::start(&world, GHCR);
    let entrepot = Entrepot::start(&world, settings);
    assert_eq!(entrepot.door().get(&ghcr.url("/v2/"), &[]).status, 401);
    let mut entrepot = entrepot;
    entrepot.terminate();
    let log = std::fs::read_to_string(&file).expect("the log file");
    assert!(log.contains("/v2/") && log.contains("ghcr.io") && !log.contains("{\""), "{log}");
}

#[test]
fn hits_and_misses_show_in_headers() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(2, 1, 5000);
    ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let token = door.authorization(&GHCR, "team/app", None).expect("an anonymous token");
    let url = ghcr.url(&format!("/v2/team/app/blobs/{}", image.layers()[0].digest));
    for expected in ["MISS", "HIT"] {
        let reply = door.get(&url, &[("authorization", &token)]);
        assert_eq!(reply.header("x-docker-registry-proxy-cache-upstream-status"), expected);
        assert_eq!(reply.header("x-docker-registry-proxy-cache-type"), "blob-by-digest");
        assert_eq!(reply.header("x-cache"), expected);
        assert_eq!(reply.header("x-cache-date").is_empty(), expected == "MISS");
        entrepot.wait_stored(1);
    }
}

#[test]
fn an_id_joins_the_reply_the_access_line_and_the_events() {
    for format in ["json", "text"] {
        let world = World::new();
        let ghcr = Upstream::start(&world, GHCR);
        let entrepot = Entrepot::start(&world, Settings::new().set("logging", &format!("format = \"{format}\"")));
        ghcr.off();
        let path = format!("/v2/team/app/blobs/sha256:{}", "7".repeat(64));
        let reply = entrepot.door().get(&ghcr.url(&path), &[]);
        assert_eq!(reply.status, 502);
        let id = reply.header("x-request-id");
        assert_eq!(id.len(), 16, "{id}");
        let patience = Duration::from_secs(5);
        let line_with_id = |stream| entrepot.process().wait_line_on(stream, id, patience);
        let access = line_with_id(Stream::Stdout);
        assert!(access.contains(&path) && access.contains("upstream_unreachable"), "{access}");
        let event = line_with_id(Stream::Stderr);
        assert!(event.contains("WARN") && event.contains("ghcr.io"), "{event}");
    }
}

#[test]
fn no_secret_is_in_any_output_at_the_loudest() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    ghcr.rights().allow("user", "canary-given", "team/secret");
    ghcr.rights().allow("own", "canary-own", "team/other");
    let name = ghcr.publish(&images::random(3, 1, 5000), "team/secret", "1");
    let other = ghcr.publish(&images::random(4, 1, 5000), "team/other", "1");
    let account = "registry = \"ghcr.io\"\nusername = \"user\"\npassword = \"canary-given\"";
    let settings = Settings::new()
        .set("[[credentials]]", account)
        .set(r#"registries."ghcr.io".headers"#, "X-Key = \"canary-header\"")
        .set("logging", "level = \"trace\"");
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.client();
    client.skopeo_pull(&name, None).expect_success("with the given account");
    client.skopeo_pull(&other, Some(("own", "canary-own"))).expect_success("with the client's own");
    client.skopeo_pull(&other, Some(("own", "canary-wrong"))).expect_failure("with a wrong password");
    let door = entrepot.door();
    let seen = ghcr.ledger.all();
    assert!(seen.iter().any(|one| one.headers.contains_key("x-key")), "the header was sent upstream");
    let wrong = basic("own", "canary-wrong");
    door.get(&ghcr.url("/v2/team/other/manifests/1?token=canary-query"), &[("authorization", &wrong)]);
    ghcr.off();
    door.get(&ghcr.url("/v2/team/none/manifests/1"), &[("authorization", &wrong), ("cookie", "canary-cookie")]);
    entrepot.process().wait_line_on(Stream::Stdout, "/v2/team/none/manifests/1", Duration::from_secs(5));

    let check = entrepot.command(&["check"]).expect_success("entrepot check");
    let (_, metrics) = entrepot.admin_tcp(http::Method::GET, "/metrics");
    let (_, shown) = entrepot.admin(http::Method::GET, "/api/config");
    let mut output = vec![check.stdout, check.stderr, metrics, shown, entrepot.stats().to_string()];
    output.extend(entrepot.process().lines(Stream::Stdout));
    output.extend(entrepot.process().lines(Stream::Stderr));
    let tokens = seen.iter().filter_map(|one| one.headers.get("authorization")?.to_str().ok()?.split_once(' '));
    let mut secrets: Vec<String> = tokens.map(|(_, secret)| secret.to_owned()).collect();
    secrets.push(CANARY.to_owned());
    for secret in secrets {
        let leak = output.iter().find(|line| line.contains(&secret));
        assert!(leak.is_none(), "{secret} in {}", leak.map_or("", |line| line));
    }
}
