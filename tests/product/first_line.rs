//! The line that joins a host to an appliance for the first time: as it is shown, with the real curl, it runs what this
//! appliance serves, and nothing else.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use entrepot_tests::client_host::ClientHost;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::process::{Finished, finish};
use entrepot_tests::serve::{Server, full, http};
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, World};
use http::Response;

/// The line in the greeting.
fn shown(entrepot: &Entrepot<'_>) -> String {
    let line = entrepot.process().wait_line("curl -k --pinnedpubkey", Duration::from_secs(5));
    let line = line.trim().to_owned();
    let parts: Vec<&str> = line.split(' ').collect();
    let url = format!("https://{PROXY_ADDRESS}:3128/setup/docker");
    assert!(matches!(parts[..], ["curl", "-k", "--pinnedpubkey", _, at, "|", "sudo", "sh"] if at == url), "{line}");
    assert!(parts[3].starts_with("sha256//") && parts[3].len() == 8 + 44, "{line}");
    line
}

/// Runs the line in the client's place, with `shell` for `sudo sh`.
fn run_in_client(world: &World, line: &str, shell: &str) -> Finished {
    let mut command = Command::new("bash");
    let line = line.replace("sudo sh", shell);
    command.args(["-c", &format!("set -o pipefail; {line}")]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    finish(&world.client, command, Duration::from_secs(20))
}

#[test]
fn the_shown_line_sets_docker_up() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let upstream = Upstream::start(&world, GHCR);
    let image = upstream.publish(&images::random(95, 2, 40_000), "team/app", "1.0");
    let machine = ClientHost::new(&world);
    let script = r#"
prepare
settle_trust
printf '#!/bin/sh\nexec "$@"\n' >/out/bin/sudo
chmod +x /out/bin/sudo
start_dockerd
docker pull -q "$IMAGE" && fail "there is a way without the appliance"
sh -c "$LINE"
docker pull -q "$IMAGE" || fail "no pull through the appliance"
"#;
    machine.run(script, &[("IMAGE", &image), ("LINE", &shown(&entrepot))]).expect_success("the shown line");
}

#[test]
fn the_key_stays_while_certificates_are_renewed_and_is_the_same_at_every_door() {
    let world = World::new();
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let line = shown(&entrepot);
    let pin = line.split(' ').nth(3).expect("a pin").to_owned();
    let script = run_in_client(&world, &line, "cat").expect_success("the line").stdout;
    assert!(script.starts_with("#!/bin/sh") && script.contains(&entrepot.fingerprint()), "{script}");
    assert!(script.contains("proxy=\"http://10.90.1.1:3128/\""), "{script}");
    let registry = format!("curl -fsSk --pinnedpubkey {pin} https://docker-registry.local:5443/v2/");
    run_in_client(&world, &registry, "").expect_success("the registry's door has the same key");
    let through = format!(
        "curl -fsSk --pinnedpubkey {pin} --proxy http://{PROXY_ADDRESS}:3128 https://docker-registry.local/v2/"
    );
    run_in_client(&world, &through, "").expect_success("our registry behind a CONNECT too");
    let page = format!("curl -fsS -H 'accept: text/html' http://{PROXY_ADDRESS}:3128/");
    let page = run_in_client(&world, &page, "").expect_success("the page").stdout;
    assert!(page.contains(&line) && page.contains(&entrepot.fingerprint()), "{page}");
    let facts = format!("curl -fsS http://{PROXY_ADDRESS}:3128/setup/appliance");
    let facts = run_in_client(&world, &facts, "").expect_success("the facts of the console").stdout;
    assert!(facts.contains(&pin), "{facts}");
    let ca = entrepot.command(&["ca", "show"]).expect_success("entrepot ca show").stdout;
    assert!(ca.contains(&entrepot.fingerprint()), "one spelling: {ca}");
    // Certificates are kept in memory, so these are new ones; the second has another issuer.
    assert!(entrepot.terminate().success());
    entrepot.command(&["ca", "rotate", "--yes"]).expect_success("entrepot ca rotate");
    entrepot.restart();
    assert_eq!(shown(&entrepot), line, "after a restart");
    run_in_client(&world, &line, "cat").expect_success("the same line");
}

#[test]
fn a_middleman_gets_nothing_run() {
    let world = World::new();
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let line = shown(&entrepot);
    assert!(entrepot.terminate().success());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let answer = http(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Response::new(full("echo owned\n")) }
    });
    let address = format!("{PROXY_ADDRESS}:3128").parse().expect("an address");
    let tls = world.authority.server(&[PROXY_ADDRESS], &["http/1.1"]);
    let _middleman = Server::start(&world.proxy, address, Some(tls), answer);
    let tricked = run_in_client(&world, &line, "sh").expect_failure("another key");
    assert_eq!(tricked.status.code(), Some(90), "curl says that the key is another: {}", tricked.stderr);
    assert_eq!((tricked.stdout.as_str(), asked.load(Ordering::SeqCst)), ("", 0));
    let unpinned = format!("curl -fsSk https://{PROXY_ADDRESS}:3128/setup/docker | sudo sh");
    let tricked = run_in_client(&world, &unpinned, "sh").expect_success("without the key in the line");
    assert_eq!(tricked.stdout, "owned\n", "the middleman is in the way");
}
