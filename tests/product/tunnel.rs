//! Hosts that are not registries: their TLS is tunnelled unopened, or refused by policy. No tunnel leads to ourselves,
//! loopback or link-local addresses (T5, T6, T19 of docs/threats.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use entrepot_tests::door::Door;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::images::sha256;
use entrepot_tests::serve::{Handler, Server, full, http};
use entrepot_tests::upstream::{GHCR, QUAY, Upstream};
use entrepot_tests::world::{World, address_of};
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A web server that is not a registry.
fn outside(world: &World) -> Server {
    let address = format!("{}:443", address_of("outside.test")).parse().expect("an address");
    let tls = world.authority.server(&["outside.test"], &["http/1.1"]);
    Server::start(&world.internet, address, Some(tls), http(|_| async { Response::new(full("from outside")) }))
}

/// Listeners of the server's machine that count the connections to them.
struct Sentinels {
    touched: Arc<AtomicUsize>,
    _servers: Vec<Server>,
}

impl Sentinels {
    fn start(world: &World, addresses: &[&str]) -> Self {
        let touched = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&touched);
        let handler: Handler = Arc::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Box::pin(async {})
        });
        let address = |text: &&str| text.parse().expect("an address");
        let servers = addresses.iter().map(|at| Server::start(&world.proxy, address(at), None, Arc::clone(&handler)));
        Self { touched, _servers: servers.collect() }
    }

    fn assert_untouched(&self) {
        assert_eq!(self.touched.load(Ordering::SeqCst), 0, "connections that arrived where none may");
    }
}

/// A door whose client trusts the internet's own certificates, not ours.
fn sealed_door(world: &World) -> Door {
    Door::new(&world.client, "10.90.1.1:3128".parse().expect("an address"), &world.internet_ca())
}

#[test]
fn a_host_that_is_no_registry_shows_its_own_certificate() {
    let world = World::new();
    let _outside = outside(&world);
    let ghcr = Upstream::start(&world, GHCR);
    let entrepot = Entrepot::start(&world, Settings::new());
    let reply = sealed_door(&world).get("https://outside.test/page", &[]);
    assert_eq!(reply.content(), sha256(b"from outside"));
    let registry = ghcr.url("/v2/").parse().expect("an address");
    let sealed = sealed_door(&world);
    let intercepted = sealed.clone().wait(async move { sealed.intercepted(&registry).await.is_err() });
    assert!(intercepted, "a registry shows our certificate, not its own");
    entrepot.client().curl(&["https://outside.test/"]).expect_failure("curl that trusts only our CA");
}

#[test]
fn policies_and_lists_decide_who_may_be_reached() {
    let world = World::new();
    let _outside = outside(&world);
    let (_ghcr, _quay) = (Upstream::start(&world, GHCR), Upstream::start(&world, QUAY));
    let cases: [(&str, Settings, &[&str], &[&str]); 4] = [
        ("any", Settings::new().set("proxy", "tunnel = \"any\""), &["outside.test:443", "ghcr.io:443"], &[]),
        ("none", Settings::new().set("proxy", "tunnel = \"none\""), &["ghcr.io:443"], &["outside.test:443"]),
        (
            "registries",
            Settings::new().set("proxy", "tunnel = \"registries\""),
            &["ghcr.io:443"],
            &["outside.test:443"],
        ),
        (
            "a whitelist",
            Settings::new().env("REGISTRY_WHITELIST", "ghcr.io,*.docker.io"),
            &["ghcr.io:443"],
            &["quay.io:443", "outside.test:443", "ghcr.io.evil.test:443"],
        ),
    ];
    for (what, settings, open, closed) in cases {
        let entrepot = Entrepot::start(&world, settings);
        for host in open {
            assert_eq!(entrepot.door().connect(host), Ok(()), "{what}: {host}");
        }
        for host in closed {
            let refusal = entrepot.door().connect(host).expect_err(&format!("{what}: {host} is refused"));
            assert!(refusal.contains(" 403"), "{what}: {host}: {refusal}");
        }
    }
}

#[test]
fn nobody_is_led_to_ourselves_loopback_or_link_local() {
    let world = World::new();
    let sentinels =
        Sentinels::start(&world, &["127.0.0.1:443", "10.90.2.1:443", "[::1]:443", "127.0.0.1:80", "10.90.2.1:80"]);
    let entrepot = Entrepot::start(&world, Settings::new());
    let targets = [
        "self.test:3128",
        "self.test:443",
        "10.90.1.1:3128",
        "10.90.2.1:3128",
        "10.90.2.1:443",
        "127.0.0.1:443",
        "127.0.0.1:3130",
        "127.1:443",
        "2130706433:443",
        "0x7f000001:443",
        "0.0.0.0:443",
        "localhost:443",
        "loopback.test:443",
        "linklocal.test:443",
        "169.254.169.254:80",
        "[::1]:443",
        "[::]:443",
        "[::ffff:127.0.0.1]:443",
        "[fe80::1]:443",
    ];
    for target in targets {
        assert!(entrepot.door().connect(target).is_err(), "CONNECT {target} was let through");
    }
    let urls =
        ["127.0.0.1/v2/", "loopback.test/v2/", "self.test:3128/", "[::1]/", "10.90.2.1/server-status", "self.test/"];
    for url in urls.map(|place| format!("http://{place}")) {
        let url = url.as_str();
        let status = entrepot.door().get(url, &[]).status;
        assert!(status.is_client_error() || status.is_server_error(), "GET {url}: {status}");
    }
    sentinels.assert_untouched();
}

#[test]
fn no_registry_leads_to_any_port_of_this_machine() {
    let world = World::new();
    let sentinels = Sentinels::start(&world, &["10.90.2.1:443", "10.90.1.1:9443", "[fd90:2::1]:9443"]);
    let fake = Fake::start(&world, "fake.test");
    let entrepot = Entrepot::start(&world, Settings::new().env("REGISTRIES", "self.test"));
    let door = entrepot.door();
    let targets = ["self.test", "10.90.2.1", "10.90.1.1:9443", "self.test:5443", "[fd90:2::1]:9443", "10.90.1.1:5443"];
    for (seed, target) in (700..).zip(targets) {
        let blob = crate::blob(seed, 30_000);
        let path = format!("/v2/team/app/blobs/{}", blob.digest);
        let location = format!("https://{target}/v2/team/app/blobs/{}", blob.digest);
        fake.put(&path, "text/html", bytes::Bytes::new(), &[Answer::Redirect(307, location)]);
        assert_eq!(door.get(&fake.url(&path), &[]).status, 502, "a redirect to {target}");
    }
    assert_eq!(door.get("https://self.test/v2/team/app/manifests/1", &[]).status, 403, "a registry that is listed");
    sentinels.assert_untouched();
}

#[test]
fn any_port_is_tunnelled_unless_the_ports_are_configured() {
    let world = World::new();
    let _outside = outside(&world);
    let address = format!("{}:8443", address_of("outside.test")).parse().expect("an address");
    let tls = world.authority.server(&["outside.test"], &["http/1.1"]);
    let _another = Server::start(&world.internet, address, Some(tls), http(|_| async { Response::new(full("")) }));
    let entrepot = Entrepot::start(&world, Settings::new());
    for (port, is_open) in [(443, true), (8443, true), (22, false)] {
        let answer = entrepot.door().connect(&format!("outside.test:{port}"));
        assert!(
            answer.is_ok() == is_open && answer.err().is_none_or(|refusal| refusal.contains(" 502")),
            "port {port}"
        );
    }
    drop(entrepot);
    let entrepot = Entrepot::start(&world, Settings::new().set("proxy", "tunnel_ports = [443]"));
    let door = entrepot.door();
    assert_eq!(door.connect("outside.test:443"), Ok(()));
    for port in [22, 25, 3306, 8443] {
        let refusal = door.connect(&format!("outside.test:{port}")).expect_err("a refusal");
        assert!(refusal.contains(" 403"), "port {port}: {refusal}");
    }
    let gone = door.connect("10.90.2.99:443").expect_err("nobody is there");
    assert!(gone.contains(" 502") || gone.contains(" 504"), "{gone}");
    let unknown = door.connect("no-such-name.test:443").expect_err("no such name");
    assert!(unknown.contains(" 502") || unknown.contains(" 504"), "{unknown}");
}

#[test]
fn a_half_closed_tunnel_still_carries_the_answer() {
    let world = World::new();
    let address = format!("{}:443", address_of("outside.test")).parse().expect("an address");
    let backwards: Handler = Arc::new(|mut conn| {
        Box::pin(async move {
            let mut all = Vec::new();
            let _ = conn.read_to_end(&mut all).await;
            all.reverse();
            let _ = conn.write_all(&all).await;
            let _ = conn.shutdown().await;
        })
    });
    let _server = Server::start(&world.internet, address, None, backwards);
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    let answer = door.clone().wait(async move {
        let mut tunnel = door.tunnel("outside.test:443").await.expect("a tunnel");
        tunnel.write_all(b"abc").await.expect("sent");
        tunnel.shutdown().await.expect("half closed");
        let mut answer = String::new();
        tunnel.read_to_string(&mut answer).await.expect("the answer");
        answer
    });
    assert_eq!(answer, "cba");
}

#[test]
fn names_are_taken_however_they_are_written() {
    let world = World::new();
    let ghcr = Upstream::start(&world, GHCR);
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    for url in ["https://GHCR.IO/v2/", "https://Ghcr.io:443/v2/"] {
        assert_eq!(door.get(url, &[]).status, 401, "{url}: the registry's own challenge");
    }
    assert!(!ghcr.ledger.all().is_empty());
}
