//! Our own registry as it is delivered: the rights of a stranger, of an account beside it, and of the administrator.

use std::time::Duration;

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::process::Stream;
use entrepot_tests::pushes::htpasswd;
use entrepot_tests::world::{PROXY_ADDRESS, World};

const ALICE: (&str, &str) = ("alice", "canary-alice");

fn plain(name: &str) -> String {
    format!("{PROXY_ADDRESS}:5000/{name}")
}

/// The status of a request by curl.
fn status(client: &Client<'_>, arguments: &[&str], path: &str) -> String {
    let url = format!("http://{PROXY_ADDRESS}:5000{path}");
    let all = [&["-o", "/dev/null", "-w", "%{http_code}"][..], arguments, &[&url]].concat();
    client.curl(&all).expect_success("curl").stdout
}

#[test]
fn as_delivered_a_stranger_pulls_and_pushes_nothing_and_the_start_says_so() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new().without("registry"));
    for (door, part) in [
        ("  proxy ", "all clients that reach it may pull; tunnels to any other host, any port"),
        ("  transparent ", "all clients that reach it may pull"),
        ("  registry ", "everyone may pull without a login"),
    ] {
        let line = entrepot.process().wait_line_on(Stream::Stderr, door, Duration::from_secs(10));
        assert!(line.contains(part), "{line}");
    }
    let client = entrepot.neighbour().insecure(&format!("{PROXY_ADDRESS}:5000"));
    let refused = client.skopeo_push(&images::random(1, 1, 5000), &plain("team/app:v1"), None);
    let refused = refused.expect_failure("a push");
    assert!(refused.stderr.contains("denied"), "{}", refused.stderr);
    assert_eq!(status(&client, &[], "/v2/"), "200");
}

#[test]
fn an_appliance_takes_pushes_without_a_login_and_keeps_what_accounts_pushed() {
    let world = World::new();
    let accounts = htpasswd(&world, &[ALICE]);
    let settings =
        Settings::new().set("registry", &format!("htpasswd = {accounts:?}")).set("registry", "anonymous = \"push\"");
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.neighbour().insecure(&format!("{PROXY_ADDRESS}:5000"));
    let docker = Dockerd::start(&client);
    let push = |seed: u64, name: &str| {
        let layer = client.layer_file(&images::random(seed, 1, 20_000));
        docker.docker(&["import", layer.to_str().expect("text"), &plain(name)]).expect_success("docker import");
        docker.docker(&["push", "-q", &plain(name)])
    };
    push(1, "team/app:v1").expect_success("docker push without a login");
    push(2, "team/app:v1").expect_success("the tag moves without a login");
    let delete = ["-X", "DELETE"];
    assert_eq!(status(&client, &delete, "/v2/team/app/manifests/v1"), "401", "and goes with a login only");
    docker.docker(&["login", "-u", ALICE.0, "-p", ALICE.1, &plain("")]).expect_success("docker login");
    push(3, "team/app:v2").expect_success("docker push with a login");
    docker.docker(&["logout", &plain("")]).expect_success("docker logout");
    let refused = push(4, "team/app:v2").expect_failure("docker push over an account's tag");
    assert!(refused.stderr.contains("v2 was pushed with a login"), "{}", refused.stderr);
    push(4, "team/app:v1").expect_success("the other tag still moves");
    let login = format!("{}:{}", ALICE.0, ALICE.1);
    assert_eq!(status(&client, &["-X", "DELETE", "-u", &login], "/v2/team/app/manifests/v1"), "202");
    entrepot.command(&["registry", "rm", "team/app:v2"]).expect_success("the administrator needs no account");
    assert_eq!(status(&client, &[], "/v2/team/app/manifests/v2"), "404");
}

#[test]
fn a_page_of_another_site_changes_nothing_and_names_can_be_added() {
    let world = World::new();
    let settings = Settings::new().set("registry", "names = [\"images.example\"]");
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.neighbour();
    let begin = "/v2/team/app/blobs/uploads/";
    // The name of a page of another site leads here: DNS rebinding.
    let asked = |host: &str, headers: &[&str]| {
        let resolve = format!("{host}:5000:{PROXY_ADDRESS}");
        let headers: Vec<&str> = headers.iter().flat_map(|header| ["-H", header]).collect();
        let url = format!("http://{host}:5000{begin}");
        let all =
            [&["-o", "/dev/null", "-w", "%{http_code}", "-X", "POST", "--resolve", &resolve][..], &headers, &[&url]];
        client.curl(&all.concat()).expect_success("curl").stdout
    };
    for (host, headers, expected) in [
        ("evil.example", &["Origin: http://evil.example:5000", "Sec-Fetch-Site: same-origin"][..], "403"),
        ("evil.example", &["Sec-Fetch-Site: same-origin"], "403"),
        ("docker-registry.local", &["Origin: http://evil.example:5000"], "403"),
        ("docker-registry.local", &["Sec-Fetch-Site: cross-site"], "403"),
        ("evil.example", &[], "202"),
        ("docker-registry.local", &["Origin: http://docker-registry.local:5000"], "202"),
        ("images.example", &["Origin: http://images.example:5000", "Sec-Fetch-Site: same-origin"], "202"),
        (PROXY_ADDRESS, &[&*format!("Origin: http://{PROXY_ADDRESS}:5000")], "202"),
    ] {
        assert_eq!(asked(host, headers), expected, "{host} {headers:?}");
    }
    let by_tls = format!("images.example:5443:{PROXY_ADDRESS}");
    client.curl(&["-f", "--resolve", &by_tls, "https://images.example:5443/v2/"]).expect_success("in the certificate");
}
