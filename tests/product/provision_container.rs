//! The container image: a real podman runs it with docker-registry-proxy's volumes and variables. Also the recipes for
//! Compose, Kind, k3d and Kubernetes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, binary};
use entrepot_tests::machine::repository;
use entrepot_tests::process::{Process, finish};
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::World;
use entrepot_tests::{images, names};

use super::provision_recipes::{documents, strings};

const BUILD: Duration = Duration::from_secs(120);

/// The program without shared libraries, which tests/run links.
fn static_binary() -> PathBuf {
    let target = binary().ancestors().nth(2).expect("target/debug/entrepot").to_owned();
    let path = target.join("static/debug/entrepot");
    assert!(path.exists(), "{} is missing: tests/run makes it", path.display());
    path
}

fn build(world: &World, output: &Path) {
    let mut command = Command::new(repository().join("provision/container/build"));
    command.arg("--binary").arg(static_binary()).arg("--output").arg(output);
    finish(&world.proxy, command, BUILD).expect_success("provision/container/build");
}

/// Every file of a directory with a hash of its content.
fn hashes(world: &World, directory: &Path) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", "cd \"$1\" && find . -type f -exec sha256sum {} + | sort", "sh"]).arg(directory);
    finish(&world.proxy, command, BUILD).expect_success("sha256sum").stdout
}

#[test]
fn the_image_runs_in_the_place_of_docker_registry_proxy() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let image = ghcr.publish(&images::random(81, 2, 40_000), "team/app", "1.0");
    // The image has no /etc/nsswitch.conf, so names come only from DNS.
    names::serve(&world.internet);
    let layout = world.path("layout");
    build(&world, &layout);

    let host = Client::without_proxy(&world, &world.proxy, world.internet_ca());
    let podman = |arguments: &[&str]| {
        let mut command = host.command("podman");
        command.arg("--root").arg(world.path("podman")).arg("--runroot").arg(world.path("podman-run"));
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        // crun refuses machines that have both kinds of control groups.
        command.args(["--runtime", "runc"]);
        command.args(arguments);
        command
    };
    let storage = format!("[overlay@{}+{}]", world.path("podman").display(), world.path("podman-run").display());
    let mut copy = host.command("skopeo");
    copy.args(["copy", "--insecure-policy", &format!("oci:{}:latest", layout.display())]);
    copy.arg(format!("containers-storage:{storage}localhost/entrepot:latest"));
    finish(&world.proxy, copy, BUILD).expect_success("skopeo copy");
    let volume = |name: &str, place: &str| format!("{}:{place}", world.make_directory(name).display());
    let (cache, ca) = (volume("cache-volume", "/docker_mirror_cache"), volume("ca-volume", "/ca"));
    // The state that docker-registry-proxy leaves: its nginx's worker is user 101.
    std::os::unix::fs::chown(world.path("cache-volume"), Some(101), Some(101)).expect("nginx's volume");
    let compose = &documents("provision/container/compose.yaml")[0]["services"]["docker_registry_proxy"];
    let powers = |option: &str, list: &str| -> Vec<String> {
        strings(&compose[list]).into_iter().map(|power| format!("{option}={power}")).collect()
    };
    let powers = [powers("--cap-drop", "cap_drop"), powers("--cap-add", "cap_add")].concat();
    let powers: Vec<&str> = powers.iter().map(String::as_str).collect();
    assert_eq!(powers, ["--cap-drop=ALL", "--cap-add=DAC_OVERRIDE"]);
    let trust = format!("{}:/etc/ssl/certs/ca-certificates.crt:ro", world.internet_ca().display());
    let run = podman(
        &[
            &["run", "--rm", "--network", "host", "--no-hosts", "--dns", "10.90.2.30"][..],
            &powers,
            &["--read-only", "-v", &cache, "-v", &ca, "-v", &trust],
            &["-e", "REGISTRIES=reg.example", "-e", "ENABLE_MANIFEST_CACHE=true", "localhost/entrepot"],
        ]
        .concat(),
    );
    let entrepot = Entrepot::adopt(&world, Process::start_with_children(&world.proxy, run));
    entrepot.client().skopeo_pull(&image, None).expect_success("through the container");
    entrepot.wait_stored(3);
    ghcr.ledger.reset();
    entrepot.client().skopeo_pull(&image, None).expect_success("again");
    assert_eq!((ghcr.ledger.manifest_gets(), ghcr.ledger.blob_bytes()), (0, 0), "from the cache, by the times given");
    assert_eq!(entrepot.access_log()[0]["method"], "GET", "the log is on stdout");
    assert!(world.path("cache-volume/blobs/sha256").exists() && world.path("ca-volume/ca.crt").exists());
}

#[test]
fn the_image_is_what_it_says_and_dockerd_runs_it() {
    let world = World::new();
    let (one, two) = (world.path("one"), world.path("two"));
    build(&world, &one);
    build(&world, &two);
    assert_eq!(hashes(&world, &one), hashes(&world, &two), "the same inputs make the same image");

    let client = Client::without_proxy(&world, &world.client, world.internet_ca());
    let dockerd = Dockerd::start(&client);
    let mut copy = client.command("skopeo");
    copy.args(["copy", "--insecure-policy", &format!("oci:{}:latest", one.display()), "docker-daemon:entrepot:latest"]);
    copy.arg(format!("--dest-daemon-host=unix://{}", dockerd.socket().display()));
    finish(&world.client, copy, BUILD).expect_success("skopeo copy");
    let said = dockerd.docker(&["run", "--rm", "--network", "none", "entrepot:latest", "--version"]);
    assert_eq!(said.expect_success("docker run").stdout, format!("entrepot {}\n", env!("CARGO_PKG_VERSION")));
}
