//! Pulls by real clients: through the proxy cold, and from its cache the second time, with the usual names of the
//! images. The proof is the upstreams' counters, not the product's own.

use entrepot_tests::clients::{Account, Client};
use entrepot_tests::daemons::{Containerd, Dockerd};
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images::{self, Image};
use entrepot_tests::ledger::{Kind, Seen};
use entrepot_tests::process::Finished;
use entrepot_tests::upstream::{GHCR, HUB, PKG, PLAIN, PRIVATE, QUAY, Site, Upstream};
use entrepot_tests::world::World;
use http::Method;
use http::header::AUTHORIZATION;

use crate::heavy;

const ACCOUNT: Account<'static> = Some(("user", "canary-pulls"));
const INSECURE: &str = "plain.test:5001";

/// One upstream with one image.
struct Stock<'w> {
    upstream: Upstream<'w>,
    name: String,
    account: Account<'static>,
    /// The bytes of the blobs that a client of this machine's platform fetches.
    bytes: u64,
}

fn stock(world: &World, site: Site, seed: u64) -> Stock<'_> {
    let upstream = Upstream::start(world, site);
    let image = images::random(seed, 4, 40_000);
    let name = upstream.publish(&image, "team/app", "1.0");
    Stock { upstream, name, account: None, bytes: image.blob_bytes() }
}

fn stock_index(world: &World, site: Site) -> Stock<'_> {
    let upstream = Upstream::start(world, site);
    let index = images::index(50);
    let name = upstream.publish_index(&index, "team/multi", "1.0");
    Stock { upstream, name, account: None, bytes: index.images[0].blob_bytes() }
}

fn private_stock(world: &World, site: Site, seed: u64) -> Stock<'_> {
    let mut stock = stock(world, site, seed);
    stock.upstream.rights().allow("user", "canary-pulls", "team/app");
    stock.account = ACCOUNT;
    stock
}

fn whole_stock(world: &World) -> Vec<Stock<'_>> {
    vec![
        stock(world, HUB, 10),
        private_stock(world, GHCR, 11),
        stock_index(world, QUAY),
        private_stock(world, PRIVATE, 13),
        stock(world, PLAIN, 14),
        stock(world, PKG, 15),
    ]
}

/// Pulls everything twice with one client. The second time nothing of an image comes from upstream.
fn cold_and_warm(stocks: &[Stock<'_>], pull: impl Fn(&Stock<'_>) -> Finished, forget: impl Fn(&Stock<'_>)) {
    for stock in stocks {
        pull(stock).expect_success(&format!("{} cold", stock.name));
        assert_eq!(stock.upstream.ledger.blob_bytes(), stock.bytes, "{} cold: each blob once", stock.name);
    }
    for stock in stocks {
        forget(stock);
        stock.upstream.ledger.reset();
        pull(stock).expect_success(&format!("{} warm", stock.name));
        assert_untouched(stock);
    }
}

fn assert_untouched(stock: &Stock<'_>) {
    let ledger = &stock.upstream.ledger;
    assert_eq!(ledger.blob_bytes(), 0, "{} warm: blob bytes from upstream", stock.name);
    assert_eq!(ledger.count(&Method::GET, Kind::Blob), 0, "{} warm: GETs of blobs", stock.name);
    // A private image is refused to a client that shows no login yet, and it is a GET that decides about its GET.
    let could_be_given = |seen: &&Seen| stock.account.is_none() || seen.headers.contains_key(AUTHORIZATION);
    let is_get =
        |seen: &&Seen| seen.method == Method::GET && matches!(seen.kind, Kind::ManifestTag | Kind::ManifestDigest);
    let gets = ledger.all().iter().filter(is_get).filter(could_be_given).count();
    assert_eq!(gets, 0, "{} warm: GETs of manifests", stock.name);
}

fn nothing(_: &Stock<'_>) {}

#[test]
fn skopeo_cold_and_warm() {
    let world = World::new();
    let stocks = whole_stock(&world);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client().insecure(INSECURE);
    cold_and_warm(&stocks, |stock| client.skopeo_pull(&stock.name, stock.account), nothing);
}

#[test]
fn podman_cold_and_warm() {
    let world = World::new();
    let stocks = whole_stock(&world);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client().insecure(INSECURE);
    cold_and_warm(&stocks, |stock| client.podman_pull(&stock.name, stock.account), nothing);
}

#[test]
fn containerd_cold_and_warm() {
    let world = World::new();
    let stocks = whole_stock(&world);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client().insecure(INSECURE);
    let containerd = Containerd::start(&client);
    let pull = |stock: &Stock<'_>| containerd.pull(&stock.name, stock.account);
    cold_and_warm(&stocks, pull, |stock| containerd.forget(&stock.name));
}

#[test]
fn dockerd_cold_and_warm() {
    let world = World::new();
    let stocks = whole_stock(&world);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client().insecure(INSECURE);
    let docker = Dockerd::start(&client);
    let pull = |stock: &Stock<'_>| {
        docker.log_in(stock.name.split('/').next().unwrap_or_default(), stock.account);
        docker.pull(&stock.name)
    };
    cold_and_warm(&stocks, pull, |_| docker.forget());
}

#[test]
fn what_one_client_fetched_the_others_get() {
    let world = World::new();
    let stock = stock_index(&world, HUB);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    client.skopeo_pull(&stock.name, None).expect_success("skopeo, cold");
    stock.upstream.ledger.reset();
    client.podman_pull(&stock.name, None).expect_success("podman, warm");
    Containerd::start(&client).pull(&stock.name, None).expect_success("ctr, warm");
    let docker = Dockerd::start(&client);
    docker.pull(&stock.name).expect_success("docker, warm");
    assert_eq!(stock.upstream.ledger.blob_bytes(), 0, "blob bytes");
}

#[test]
fn a_pulled_image_runs() {
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    hub.publish(&images::busybox(), "library/busybox", "1.36");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    let docker = Dockerd::start(&client);
    docker.pull("busybox:1.36").expect_success("docker pull");
    let run = docker.docker(&["run", "--rm", "--network", "none", "busybox:1.36"]).expect_success("docker run");
    assert_eq!(run.stdout, "hello\n");
}

#[test]
fn dockerd_and_skopeo_refuse_without_our_ca() {
    let world = World::new();
    let stock = stock(&world, GHCR, 20);
    let entrepot = Entrepot::start(&world, Settings::new());
    let distrustful = Client::behind(&world, "http://10.90.1.1:3128", world.internet_ca());
    let skopeo = distrustful.skopeo_pull(&stock.name, None).expect_failure("skopeo without our CA");
    assert!(skopeo.stderr.contains("x509"), "{}", skopeo.stderr);
    let docker = Dockerd::start(&distrustful);
    let pull = docker.pull(&stock.name).expect_failure("docker without our CA");
    assert!(pull.stderr.contains("x509"), "{}", pull.stderr);
    assert_eq!(stock.upstream.ledger.blob_bytes(), 0);
    entrepot.client().skopeo_pull(&stock.name, None).expect_success("skopeo with our CA");
}

#[test]
fn without_the_proxy_the_client_reaches_nothing() {
    let world = World::new();
    let stock = stock(&world, GHCR, 21);
    let off = Client::behind(&world, "http://10.90.1.1:3999", world.internet_ca());
    off.skopeo_pull(&stock.name, None).expect_failure("skopeo with no proxy there");
    assert!(stock.upstream.ledger.all().is_empty(), "nothing came to the registry");
}

#[test]
fn a_layer_of_600_mib() {
    let _alone = heavy();
    let world = World::new();
    let hub = Upstream::start(&world, HUB);
    let image = images::large(30, 600 << 20);
    let name = hub.publish(&image, "team/large", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = entrepot.client();
    let docker = Dockerd::start(&client);
    docker.pull(&name).expect_success("docker pull, cold");
    assert_eq!(hub.ledger.blob_bytes(), image.blob_bytes());
    assert_eq!(gets_of_layers(&hub, &image), 1, "one fetch");
    docker.forget();
    hub.ledger.reset();
    docker.pull(&name).expect_success("docker pull, warm");
    assert_eq!(hub.ledger.blob_bytes(), 0);
}

fn gets_of_layers(upstream: &Upstream<'_>, image: &Image) -> usize {
    let path = |digest: &str| format!("/v2/team/large/blobs/{digest}");
    image.layers().iter().map(|layer| upstream.ledger.gets_of(&path(&layer.digest))).sum()
}
