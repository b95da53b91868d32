//! The appliance in the path: connections that are routed through it come to its door, without changes at the clients
//! (`entrepot redirect gateway`).

use std::process::Command;
use std::time::Duration;

use entrepot_tests::agent::Agent;
use entrepot_tests::clients::Client;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::names;
use entrepot_tests::process::finish;
use entrepot_tests::serve::{Server, full, http};
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::{World, address_of};
use http::Response;

const GATEWAY: &[&str] = &["gateway", "--interface", "down0"];
/// The internet's IPv6 address.
const V6: &str = "fd90:2::11";

fn in_proxy(world: &World, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(&world.proxy, command, Duration::from_secs(10)).expect_success(program).stdout
}

#[test]
fn skopeo_behind_the_router_pulls_from_its_cache() {
    let world = World::new();
    world.route_clients();
    let ghcr = Upstream::start(&world, GHCR);
    let image = images::random(420, 3, 40_000);
    let name = ghcr.publish(&image, "team/app", "1");
    let entrepot = Entrepot::start(&world, Settings::new());
    let direct = Client::without_proxy(&world, &world.client, world.internet_ca());
    direct.skopeo_pull(&name, None).expect_success("directly, before there is an agent");
    ghcr.ledger.reset();
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), GATEWAY);
    let client = Client::without_proxy(&world, &world.client, entrepot.ca());
    agent.wait_status("the registry's address", |status| {
        status["addresses"].to_string().contains(address_of(GHCR.host))
    });
    client.skopeo_pull(&name, None).expect_success("skopeo, cold");
    assert_eq!(ghcr.ledger.blob_bytes(), image.blob_bytes(), "each blob once");
    ghcr.ledger.reset();
    client.skopeo_pull(&name, None).expect_success("skopeo, warm");
    assert_eq!(ghcr.ledger.blob_bytes(), 0, "from the cache");
    assert!(agent.count("redirected") >= 2);
    let log = entrepot.wait_access("HIT");
    assert_eq!(log["client"], "10.90.1.2", "the client is known by its own address");
    assert!(in_proxy(&world, "ip", &["rule"]).contains("3129"));
    assert!(agent.terminate().success());
    assert!(!in_proxy(&world, "ip", &["rule"]).contains("3129"), "the rule is gone");
    assert!(!in_proxy(&world, "ip", &["-6", "rule"]).contains("3129"), "the IPv6 rule is gone");
    assert_eq!(in_proxy(&world, "ip", &["route", "show", "table", "all"]).matches("table 3129").count(), 0);
    assert!(!in_proxy(&world, "tc", &["qdisc", "show", "dev", "down0"]).contains("clsact"));
    direct.skopeo_pull(&name, None).expect_success("directly, once the agent is gone");
}

#[test]
fn ipv6_comes_to_the_door_and_strangers_keep_their_certificate() {
    let world = World::new();
    world.route_clients();
    let _ghcr = Upstream::start(&world, GHCR);
    // A CDN: a registry and a shop share its address.
    let shops: Vec<Server> = [format!("[{V6}]:443"), format!("{}:443", address_of("eu.pkg.dev"))]
        .iter()
        .map(|address| {
            let tls = world.authority.server(&["shop.test"], &["http/1.1"]);
            let answer = http(|_| async { Response::new(full("from the shop")) });
            Server::start(&world.internet, address.parse().expect("an address"), Some(tls), answer)
        })
        .collect();
    let entrepot = Entrepot::start(&world, Settings::new());
    let arguments = [GATEWAY, &["--prefix", "fd90:2::/64", "--prefix", "10.90.2.22/32"]].concat();
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    let trusting = Client::without_proxy(&world, &world.client, entrepot.ca());
    let at = |host: &str, address: &str| format!("{host}:443:{address}:443");
    let to_v6 = at("ghcr.io", &format!("[{V6}]"));
    let answer =
        trusting.curl(&["-w", "%{http_code}", "-o", "/dev/null", "--connect-to", &to_v6, "https://ghcr.io/v2/"]);
    assert_eq!(answer.expect_success("ghcr.io by IPv6").stdout, "401");
    let stranger = Client::without_proxy(&world, &world.client, world.internet_ca());
    for address in [format!("[{V6}]"), address_of("eu.pkg.dev").to_owned()] {
        let to_shop = at("shop.test", &address);
        let page = stranger.curl(&["--connect-to", &to_shop, "https://shop.test/"]);
        assert_eq!(page.expect_success("the shop's own certificate").stdout, "from the shop", "{address}");
    }
    assert_eq!(agent.count("redirected"), 3, "all of them came to the door");
    drop(shops);
}

#[test]
fn an_answer_of_dns_on_its_way_through_is_learned() {
    let world = World::new();
    world.route_clients();
    names::serve(&world.internet);
    let entrepot = Entrepot::start(&world, Settings::new());
    let arguments = [GATEWAY, super::RESOLVER].concat();
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    let redirected = world.client.run(|| (0..500u16).filter(|number| super::ask_and_connect(*number)).count());
    assert_eq!(redirected, 500, "every first connection came to the door");
    assert_eq!((agent.count("redirected"), agent.count("learned")), (500, 500));
    drop(entrepot);
}

#[test]
fn a_router_that_does_not_forward_is_told_so() {
    let world = World::new();
    let agent = Agent::attach(&world, &world.proxy, &Settings::new(), GATEWAY);
    agent.process().wait_line("IPv4 forwarding is off", Duration::from_secs(5));
    let refused = agent.command(&["gateway", "--interface", "nowhere0"]);
    assert!(!refused.status.success());
}
