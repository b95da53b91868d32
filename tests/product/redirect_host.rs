//! Clients without any proxy setting: the agent on a host redirects its connections to the door, on the same machine or
//! on an appliance, and leaves all other connections alone (`entrepot redirect host`).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use entrepot_tests::agent::{Agent, ControlGroup};
use entrepot_tests::clients::Client;
use entrepot_tests::daemons::Dockerd;
use entrepot_tests::entrepot::{Entrepot, Settings, binary};
use entrepot_tests::process::{Process, finish};
use entrepot_tests::serve::{Handler, Server, full, http};
use entrepot_tests::upstream::{GHCR, HUB, Upstream};
use entrepot_tests::world::{PROXY_ADDRESS, World, address_of};
use entrepot_tests::{images, names, probe};
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An address of the internet.
const V6: &str = "fd90:2::11";

/// A host that no other test uses. The agent counts entrepot's own connections in every network namespace of the
/// machine. So a test that compares this count needs an address to which no other entrepot connects.
const UNSHARED: &str = "unshared.test";

#[test]
fn skopeo_and_dockerd_pull_from_the_cache_of_their_own_machine() {
    let world = World::new();
    let (ghcr, hub) = (Upstream::start(&world, GHCR), Upstream::start(&world, HUB));
    let image = images::random(410, 3, 40_000);
    let (from_ghcr, from_hub) = (ghcr.publish(&image, "team/app", "1"), hub.publish(&image, "team/app", "1"));
    let entrepot = Entrepot::start(&world, Settings::new());
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &["host"]);
    learned(&agent, GHCR.host);
    learned(&agent, HUB.host);
    let client = Client::without_proxy(&world, &world.proxy, entrepot.ca());
    client.skopeo_pull(&from_ghcr, None).expect_success("skopeo, cold");
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "each blob once");
    ghcr.ledger.reset();
    client.skopeo_pull(&from_ghcr, None).expect_success("skopeo, warm");
    assert_eq!(ghcr.ledger.blob_bytes(), 0, "from the cache");
    let redirected = agent.count("redirected");
    assert!(redirected >= 2, "{redirected}");
    let docker = Dockerd::start(&client);
    docker.pull(&from_hub).expect_success("docker");
    assert_eq!(hub.ledger.blob_bytes(), 0, "the blobs are those of the other registry");
    assert!(agent.count("redirected") > redirected);
    let (before, metrics, after) = (agent.count("redirected"), agent.metrics(), agent.count("redirected"));
    let told =
        metrics.lines().find_map(|line| line.strip_prefix("entrepot_redirect_outcomes_total{outcome=\"redirected\"} "));
    let told: u64 = told.and_then(|number| number.parse().ok()).expect("a metric of redirected connections");
    assert!((before..=after).contains(&told), "{before} <= {told} <= {after}");
    assert!(agent.terminate().success());
    let distrustful = Client::without_proxy(&world, &world.proxy, world.internet_ca());
    distrustful.skopeo_pull(&from_ghcr, None).expect_success("directly, once the agent is gone");
}

#[test]
fn a_host_pulls_from_an_appliance_on_its_network() {
    let world = World::new();
    world.route_clients();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(411, 2, 30_000);
    let name = ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let agent = Agent::start(&world, &world.client, &Settings::new(), &["host", "--appliance", PROXY_ADDRESS]);
    agent.process().wait_line("5000", Duration::from_secs(5));
    learned(&agent, GHCR.host);
    let client = Client::without_proxy(&world, &world.client, entrepot.ca());
    client.skopeo_pull(&name, None).expect_success("skopeo, cold");
    ghcr.ledger.reset();
    client.skopeo_pull(&name, None).expect_success("skopeo, warm");
    assert_eq!(ghcr.ledger.blob_bytes(), 0, "from the appliance's cache");
    assert!(agent.count("redirected") >= 2);
    let _shop = shop(&world, "outside.test");
    let stranger = Client::without_proxy(&world, &world.client, world.internet_ca());
    let page = stranger.curl(&["https://outside.test/"]).expect_success("a host that is no registry");
    assert_eq!(page.stdout, "from the shop");
}

#[test]
fn an_appliance_is_found_by_its_name_on_the_network() {
    let world = World::new();
    world.route_clients();
    let _ghcr = Upstream::start(&world, GHCR);
    let entrepot = Entrepot::start(&world, Settings::new());
    let arguments = ["host", "--appliance", "docker-registry.local"];
    let agent = Agent::start(&world, &world.client, &Settings::new(), &arguments);
    learned(&agent, GHCR.host);
    let client = Client::without_proxy(&world, &world.client, entrepot.ca());
    client.curl(&["-o", "/dev/null", "https://ghcr.io/v2/"]).expect_success("redirected to the appliance");
    assert_eq!(agent.count("redirected"), 1);
}

#[test]
fn what_shares_an_address_with_a_registry_goes_on_sealed() {
    let world = World::new();
    let _shop = shop(&world, "outside.test");
    let entrepot = Entrepot::start(&world, Settings::new());
    let network = format!("{}/32", address_of("outside.test"));
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &["host", "--prefix", &network, "--port", "80"]);
    let trust = |ca| Client::without_proxy(&world, &world.proxy, ca);
    let page = trust(world.internet_ca()).curl(&["https://outside.test/"]).expect_success("its own certificate");
    assert_eq!(page.stdout, "from the shop");
    trust(entrepot.ca()).curl(&["https://outside.test/"]).expect_failure("a certificate of ours would be wrong there");
    let registry = format!("ghcr.io:443:{}:443", address_of("outside.test"));
    let named = trust(entrepot.ca()).curl(&["--connect-to", &registry, "-o", "/dev/null", "https://ghcr.io/v2/"]);
    named.expect_success("a registry's name is answered here, whatever the address");
    // The last, because the next connection would go there directly.
    let unnamed = format!("https://{}/", address_of("outside.test"));
    let page = trust(world.internet_ca()).curl(&["-k", &unnamed]).expect_success("a client that sends no name");
    assert_eq!(page.stdout, "from the shop");
    assert_eq!(agent.count("redirected"), 4);
    let sealed = entrepot.metric("entrepot_tunnels_total");
    assert_eq!(sealed, 3.0, "the others were carried on sealed");
}

#[test]
fn a_server_that_speaks_first_is_reached_in_every_family_and_clients_see_whom_they_dialled() {
    let world = World::new();
    // Each address once: after a connection without a name, the next ones go there directly.
    let addresses = [address_of("outside.test"), address_of("cdn2.test"), V6].map(|text| {
        let address: IpAddr = text.parse().expect("an address");
        SocketAddr::new(address, 443)
    });
    let servers: Vec<Server> =
        addresses.iter().map(|address| Server::start(&world.internet, *address, None, greeting())).collect();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let prefixes = [format!("{}/32", addresses[0].ip()), format!("{}/32", addresses[1].ip()), format!("{V6}/128")];
    let arguments = ["host", "--prefix", &prefixes[0], "--prefix", &prefixes[1], "--prefix", &prefixes[2]];
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    // An IPv4 server, dialled as by programs that use only IPv6 sockets.
    let IpAddr::V4(v4) = addresses[1].ip() else { panic!("the second is of IPv4") };
    let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), 443);
    for (number, address) in [addresses[0], mapped, addresses[2]].into_iter().enumerate() {
        let heard = world.proxy.run(move || {
            let mut stream = TcpStream::connect(address).expect("connected");
            assert_eq!(stream.peer_addr().expect("a peer"), address, "the client sees whom it dialled");
            let mut heard = [0; 11];
            stream.read_exact(&mut heard).expect("the greeting");
            stream.write_all(b"QUIT\n").expect("sent");
            let mut echo = [0; 5];
            stream.read_exact(&mut echo).expect("the echo");
            (heard.to_vec(), echo.to_vec())
        });
        assert_eq!(heard, (b"220 hello\r\n".to_vec(), b"QUIT\n".to_vec()), "{address}");
        assert_eq!(agent.count("redirected"), number as u64 + 1, "{address}");
    }
    drop(servers);
}

/// A server that sends first, and does not speak TLS.
fn greeting() -> Handler {
    Arc::new(|mut conn| {
        Box::pin(async move {
            let _ = conn.write_all(b"220 hello\r\n").await;
            let mut said = [0; 5];
            let _ = conn.read_exact(&mut said).await;
            let _ = conn.write_all(&said).await;
        })
    })
}

#[test]
fn ten_thousand_answers_of_dns_and_ten_thousand_connections() {
    let world = World::new();
    names::serve(&world.internet);
    let _entrepot = Entrepot::start(&world, Settings::new().set("proxy", "max_connections_per_client = 100000"));
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &[&["host"], super::RESOLVER].concat());
    let redirected = world.proxy.run(|| (0..10_000u16).filter(|number| super::ask_and_connect(*number)).count());
    assert_eq!(redirected, 10_000, "every first connection came to the door");
    assert_eq!(agent.count("redirected"), 10_000);
    // The agent learns from every answer that a process of the machine gets, so other tests may add to this count.
    assert!(agent.count("learned") >= 10_000);
}

#[test]
fn a_hello_may_come_in_any_pieces() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let _entrepot = Entrepot::start(&world, Settings::new());
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &["host"]);
    learned(&agent, GHCR.host);
    let address: SocketAddr = format!("{}:443", address_of(GHCR.host)).parse().expect("an address");
    let failed = world.proxy.run(move || {
        let hello = probe::client_hello("ghcr.io");
        let answers = |pieces: &[&[u8]]| probe::tls_answers(address, pieces, Duration::from_secs(10));
        let single: Vec<&[u8]> = hello.chunks(1).collect();
        assert!(answers(&single), "byte by byte");
        (1..hello.len()).filter(|at| !answers(&[&hello[..*at], &hello[*at..]])).collect::<Vec<_>>()
    });
    assert!(failed.is_empty(), "cut at {failed:?}");
}

#[test]
fn only_the_named_control_groups_are_redirected() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let entrepot = Entrepot::start(&world, Settings::new());
    let group = ControlGroup::new("scope");
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &["host", "--cgroup", group.name()]);
    learned(&agent, GHCR.host);
    let url = "https://ghcr.io/v2/";
    Client::without_proxy(&world, &world.proxy, world.internet_ca()).curl(&[url]).expect_success("outside the group");
    assert_eq!(agent.count("redirected"), 0);
    let inside = Client::without_proxy(&world, &world.proxy, entrepot.ca());
    let mut command = inside.command("sh");
    command.args(["-c", &format!("echo $$ >{} && exec curl -sS --max-time 20 {url}", group.processes())]);
    finish(&world.proxy, command, Duration::from_secs(30)).expect_success("inside the group");
    assert_eq!(agent.count("redirected"), 1);
}

#[test]
fn without_the_right_to_mark_nothing_is_redirected_and_an_exemption_helps() {
    let world = World::new();
    let _shop = shop(&world, UNSHARED);
    let group = ControlGroup::new("exempt");
    let network = format!("{}/32", address_of(UNSHARED));
    let settings = Settings::new();
    std::fs::write(world.path("unmarked.toml"), settings.toml(&world)).expect("the configuration");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw", "--"]);
    command.arg(binary()).args(["serve", "--config"]).arg(world.path("unmarked.toml"));
    command.env("SSL_CERT_FILE", world.internet_ca());
    let entrepot = Entrepot::adopt(&world, Process::start(&world.proxy, command));
    let agent = Agent::attach(&world, &world.proxy, &Settings::new(), &["host", "--prefix", &network]);
    agent.process().wait_line("cannot mark its own connections", Duration::from_secs(20));
    let client = Client::without_proxy(&world, &world.proxy, world.internet_ca());
    let url = format!("https://{UNSHARED}/");
    assert_eq!(client.curl(&[&url]).expect_success("directly").stdout, "from the shop");
    assert_eq!(agent.count("redirected"), 0);
    drop(agent);
    std::fs::write(group.processes(), entrepot.process().pid().to_string()).expect("a move");
    let exempt = ["host", "--prefix", &network, "--exempt-cgroup", group.name()];
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &exempt);
    let page = client.curl(&[&url]).expect_success("exempt");
    assert_eq!((page.stdout.as_str(), agent.count("own")), ("from the shop", 1));
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    let world = World::new();
    let agent = Agent::attach(&world, &world.proxy, &Settings::new(), &["host"]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all", "--"]).arg(binary());
    command.args(["redirect", "host", "--config"]).arg(world.path("agent-proxy.toml"));
    let finished = finish(&world.proxy, command, Duration::from_secs(20));
    assert_eq!(finished.status.code(), Some(77), "{}", finished.stderr);
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| line.starts_with("entrepot: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("CAP_BPF"), "{}", finished.stderr);
    let missing = agent.command(&["host", "--cgroup", "no/such/group"]);
    assert!(!missing.status.success());
}

/// A web server that is not a registry.
fn shop(world: &World, host: &str) -> Server {
    let address = format!("{}:443", address_of(host)).parse().expect("an address");
    let tls = world.authority.server(&[host], &["http/1.1"]);
    Server::start(&world.internet, address, Some(tls), http(|_| async { Response::new(full("from the shop")) }))
}

/// Returns when the agent knows the address of `host`.
fn learned(agent: &Agent<'_>, host: &str) {
    agent.wait_status(host, |status| status["addresses"].to_string().contains(&format!("\"{}\"", address_of(host))));
}
