//! The product takes over docker-registry-proxy's installation: its environment, its volumes, and its CA with the
//! passphrase. It runs in a root with `/ca` and `/docker_mirror_cache`, without a configuration file and without
//! arguments.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use entrepot_tests::entrepot::{Entrepot, binary};
use entrepot_tests::images;
use entrepot_tests::ledger::Kind;
use entrepot_tests::process::{Process, finish};
use entrepot_tests::root::in_own_root;
use entrepot_tests::upstream::{GHCR, HUB, PRIVATE, QUAY, Upstream};
use entrepot_tests::world::World;

/// Makes the CA as docker-registry-proxy's script does, in the form of traditional or of newer openssl.
fn make_ca(world: &World, traditional: bool) -> PathBuf {
    let directory = world.make_directory("ca-volume");
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(&directory);
        finish(&world.proxy, command, Duration::from_secs(60)).expect_success("openssl");
    };
    let form: &[&str] = if traditional { &["-traditional"] } else { &[] };
    openssl(&[&["genrsa", "-des3"], form, &["-passout", "pass:foobar", "-out", "ca.key", "4096"]].concat());
    let subject = "/C=NL/ST=Noord Holland/L=Amsterdam/O=ME/OU=IT/CN=docker_registry_proxy";
    openssl(&[
        "req",
        "-new",
        "-x509",
        "-days",
        "3650",
        "-sha256",
        "-key",
        "ca.key",
        "-out",
        "ca.crt",
        "-passin",
        "pass:foobar",
        "-subj",
        subject,
    ]);
    std::fs::write(directory.join("ca.srl"), "1\n").expect("ca.srl");
    directory
}

fn start<'w>(world: &'w World, ca: &Path, environment: &[(&str, &str)]) -> Entrepot<'w> {
    let cache = world.make_directory("cache-volume");
    let mut command = Command::new(binary());
    command.arg("serve").env("SSL_CERT_FILE", world.internet_ca()).env("HOME", "/root");
    command.envs(environment.iter().copied());
    let binds = [(ca.to_owned(), "/ca"), (cache, "/docker_mirror_cache")];
    Entrepot::adopt(world, Process::start(&world.proxy, in_own_root(world, &command, &binds)))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn its_ca_in_both_forms_of_the_key_is_served_and_kept() {
    for traditional in [true, false] {
        let world = World::new();
        let ghcr = Upstream::start(&world, GHCR);
        let name = ghcr.publish(&images::random(1, 2, 5000), "team/app", "1");
        let ca = make_ca(&world, traditional);
        let before = (read(&ca.join("ca.crt")), read(&ca.join("ca.key")));
        let entrepot = start(&world, &ca, &[]);
        assert_eq!(read(&entrepot.ca()).trim(), before.0.trim(), "/ca.crt is the volume's");
        entrepot.client().skopeo_pull(&name, None).expect_success("skopeo that trusts the volume's CA");
        assert_eq!((read(&ca.join("ca.crt")), read(&ca.join("ca.key"))), before, "the volume is as it was");
        let cache = world.path("cache-volume");
        assert!(std::fs::read_dir(cache).expect("the volume").next().is_some(), "the cache is in its volume");
    }
}

#[test]
fn its_environment_means_what_it_meant() {
    let world = World::new();
    let (hub, quay, private) =
        (Upstream::start(&world, HUB), Upstream::start(&world, QUAY), Upstream::start(&world, PRIVATE));
    hub.rights().allow("user", "canary-with:colons:in-it", "team/secret");
    private.rights().allow("robot$a", "canary-robot", "team/secret");
    let by_token = hub.publish(&images::random(2, 2, 5000), "team/secret", "stable");
    let by_password = private.publish(&images::random(3, 2, 5000), "team/secret", "1.2.3");
    let public = quay.publish(&images::random(4, 2, 5000), "team/app", "latest");
    let environment = [
        ("REGISTRIES", "quay.io reg.private.test:5000 quay.io"),
        (
            "AUTH_REGISTRIES",
            "auth.docker.io:::user:::canary-with:colons:in-it reg.private.test:5000:::robot$a:::canary-robot",
        ),
        ("AUTH_REGISTRY_DELIMITER", ":::"),
        ("ENABLE_MANIFEST_CACHE", "true"),
        ("MANIFEST_CACHE_PRIMARY_REGEX", "(stable|nightly|production|test)"),
        ("MANIFEST_CACHE_PRIMARY_TIME", "10m"),
        ("CACHE_MAX_SIZE", "1g"),
        ("ALLOW_PUSH", "false"),
        ("VERIFY_SSL", "true"),
        ("PROXY_REQUEST_BUFFERING", "true"),
        ("DISABLE_IPV6", "true"),
        ("PROXY_CONNECT_READ_TIMEOUT", "60s"),
    ];
    let ca = make_ca(&world, true);
    let entrepot = start(&world, &ca, &environment);
    let client = entrepot.client();
    for (upstream, name, tier) in
        [(&hub, &by_token, "primary"), (&private, &by_password, "secondary"), (&quay, &public, "default")]
    {
        client.skopeo_pull(name, None).expect_success(&format!("{name}, cold"));
        upstream.ledger.reset();
        client.skopeo_pull(name, None).expect_success(&format!("{name}, warm"));
        let asked = upstream.ledger.all().into_iter().filter(|seen| seen.kind == Kind::ManifestTag).count();
        assert_eq!(asked, 0, "{tier} tier: the tag's time decides, not upstream");
    }
}

#[test]
fn a_password_keeps_its_colons() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    hub.rights().allow("user", "canary-with:colons:in-it", "team/secret");
    let name = hub.publish(&images::random(5, 2, 5000), "team/secret", "1");
    let ca = make_ca(&world, true);
    let account = ("AUTH_REGISTRIES", "auth.docker.io:user:canary-with:colons:in-it");
    let entrepot = start(&world, &ca, &[account]);
    entrepot.client().skopeo_pull(&name, None).expect_success("with the account of the environment");
}
