//! The ready files for mirror mode, as served, used by the real clients. The clients have no other way to the registry.

use entrepot_tests::clients::Client;
use entrepot_tests::daemons::{Containerd, Dockerd};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images::{self, ARCHITECTURE};
use entrepot_tests::pushes::Podman;
use entrepot_tests::upstream::{GHCR, HUB, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, World};

/// Saves a page of the proxy's door as a file of the client.
fn fetched(world: &World, client: &Client<'_>, page: &str, file: &str) -> String {
    let text = client.curl(&["-f", &format!("http://{PROXY_ADDRESS}:3128{page}")]).expect_success(page).stdout;
    let path = world.path(file);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

#[test]
fn containerd_pulls_through_hosts_toml() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let name = ghcr.publish(&images::random(1, 2, 50_000), "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour();
    let platform = format!("linux/{ARCHITECTURE}");
    for (page, file) in [
        ("/setup/containerd/hosts.toml", "all/_default/hosts.toml"),
        ("/setup/containerd/certs.d/ghcr.io/hosts.toml", "one/ghcr.io/hosts.toml"),
    ] {
        fetched(&world, &client, page, file);
        let folder = world.path(file.split('/').next().unwrap_or_default()).display().to_string();
        let containerd = Containerd::start(&client);
        let pull = ["images", "pull", "--hosts-dir", &folder, "--platform", &platform, &name];
        containerd.ctr(&pull).expect_success(page);
    }
}

#[test]
fn podman_pulls_through_registries_conf() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let name = ghcr.publish(&images::random(2, 2, 50_000), "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.neighbour();
    let file = fetched(&world, &client, "/setup/podman/registries.conf", "registries.conf");
    let podman = Podman::new(&client);
    podman.run(&["pull", "-q", &name]).expect_failure("without the file");
    podman.configured(&file).run(&["pull", "-q", &name]).expect_success("podman pull");
}

#[test]
fn docker_pulls_docker_hub_through_daemon_json() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let name = hub.publish(&images::random(3, 2, 50_000), "library/app", "1");
    let settings = Settings::new().set("registry", "mirror_listen = [\"0.0.0.0:5001\"]");
    let entrepot = Entrepot::start(&world, settings);
    let client = entrepot.neighbour();
    let file = fetched(&world, &client, "/setup/docker-mirror", "daemon.json");
    assert!(std::fs::read_to_string(&file).expect("the file").contains(":5001"), "the listener of its own");
    let docker = Dockerd::start_with(&client, &[&format!("--config-file={file}")]);
    docker.pull(&name).expect_success("docker pull");
}
