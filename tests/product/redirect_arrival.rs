//! A gateway redirects only what arrives: whatever another program does to the machine's routing or firewall, clients'
//! connections go to their own destination within seconds, one line names the cause, and redirection comes back by
//! itself when the cause goes.

use std::process::Command;
use std::time::{Duration, Instant};

use entrepot_tests::agent::Agent;
use entrepot_tests::clients::Client;
use entrepot_tests::entrepot::{Entrepot, Settings, binary};
use entrepot_tests::namespace::Namespace;
use entrepot_tests::process::{Process, finish};
use entrepot_tests::serve::{Server, full, http};
use entrepot_tests::world::{World, address_of};
use http::Response;

const HOST: &str = "eu.pkg.dev";
/// A client repeats its first segment after one second and after three. A connection that stands within these was let
/// pass at the latest then.
const DIRECT_WITHIN_S: &str = "3";

/// A change that another program makes, by commands on the router, and the words by which the log names it.
struct Change {
    make: &'static [&'static str],
    undo: &'static [&'static str],
    named: &'static str,
    /// Whether it is the door's answer that is lost. The kernel then holds the client's opening for the door, and no
    /// longer forwards its repetitions, so the client has to begin after the change was seen.
    loses_answers: bool,
}

const CHANGES: &[Change] = &[
    Change {
        make: &["sysctl", "-w", "net.ipv4.conf.all.src_valid_mark=1"],
        undo: &["sysctl", "-w", "net.ipv4.conf.all.src_valid_mark=0"],
        named: "net.ipv4.conf.all.src_valid_mark is 1",
        loses_answers: false,
    },
    Change {
        make: &["sysctl", "-w", "net.ipv4.conf.down0.src_valid_mark=1"],
        undo: &["sysctl", "-w", "net.ipv4.conf.down0.src_valid_mark=0"],
        named: "net.ipv4.conf.down0.src_valid_mark is 1",
        loses_answers: false,
    },
    Change {
        make: &["sysctl", "-w", "net.ipv4.tcp_fwmark_accept=1"],
        undo: &["sysctl", "-w", "net.ipv4.tcp_fwmark_accept=0"],
        named: "net.ipv4.tcp_fwmark_accept is 1",
        loses_answers: true,
    },
    Change {
        make: &[
            "nft",
            "add table inet other; add chain inet other input { type filter hook input priority 0; policy drop; }; \
             add rule inet other input iif lo accept; add rule inet other input ct state established accept; \
             add rule inet other input meta l4proto ipv6-icmp accept",
        ],
        undo: &["nft", "delete table inet other"],
        named: "nft insert rule inet other input meta mark 0xe8 accept",
        loses_answers: false,
    },
    Change {
        make: &[
            "nft",
            "add table ip other; add chain ip other in { type filter hook input priority 0; policy accept; }; \
             add rule ip other in tcp dport 443 reject",
        ],
        undo: &["nft", "delete table ip other"],
        named: "nft insert rule ip other in meta mark 0xe8 accept",
        loses_answers: false,
    },
    Change {
        make: &["ip", "rule", "add", "from", "all", "lookup", "main", "preference", "5"],
        undo: &["ip", "rule", "del", "preference", "5"],
        named: "a routing rule comes before ours: its preference is 5",
        loses_answers: false,
    },
    Change {
        make: &[
            "nft",
            "add table ip other; add chain ip other first { type filter hook prerouting priority mangle; }; \
             add rule ip other first meta mark set 1",
        ],
        undo: &["nft", "delete table ip other"],
        named: "nft insert rule ip other first meta mark 0xe8 accept",
        loses_answers: false,
    },
];

fn on_router(router: &Namespace, words: &[&str]) {
    let (program, arguments) = words.split_first().expect("a program");
    let mut command = Command::new(program);
    command.args(arguments);
    finish(router, command, Duration::from_secs(10)).expect_success(&words.join(" "));
}

/// A web server whose address is redirected, and which answers by itself while nothing is.
fn origin(world: &World) -> Server {
    let address = format!("{}:443", address_of(HOST)).parse().expect("an address");
    let tls = world.authority.server(&[HOST], &["http/1.1"]);
    Server::start(&world.internet, address, Some(tls), http(|_| async { Response::new(full("from the origin")) }))
}

fn arguments() -> Vec<String> {
    ["gateway", "--interface", "down0", "--prefix"].map(str::to_owned).into_iter().chain([network()]).collect()
}

fn network() -> String {
    format!("{}/32", address_of(HOST))
}

fn expect_direct(client: &Client<'_>, after: &str) {
    let url = format!("https://{HOST}/");
    let page = client.curl(&["--connect-timeout", DIRECT_WITHIN_S, &url]);
    assert_eq!(page.expect_success(&format!("directly, after {after}")).stdout, "from the origin");
}

#[test]
fn what_other_programs_change_ends_the_redirection_and_is_named() {
    let world = World::new();
    world.route_clients();
    let _origin = origin(&world);
    let _entrepot = Entrepot::start(&world, Settings::new());
    let words = arguments();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &words);
    let client = Client::without_proxy(&world, &world.client, world.internet_ca());
    for Change { make, undo, named, loses_answers } in CHANGES {
        on_router(&world.proxy, make);
        if *loses_answers {
            agent.wait_status("the pause", |status| status["healthy"] == false);
        }
        expect_direct(&client, &make.join(" "));
        let status = agent.wait_status("the pause", |status| status["paused"].is_string());
        let said = status["paused"].as_str().unwrap_or_default();
        assert!(said.contains(named), "{make:?}: {said}");
        assert_eq!(status["healthy"], false);
        agent.process().wait_line(named, Duration::from_secs(5));
        on_router(&world.proxy, undo);
        agent.wait_status("redirection, once the cause is gone", |status| status["healthy"] == true);
    }
    let before = agent.count("redirected");
    client.curl(&["--connect-timeout", DIRECT_WITHIN_S, &format!("https://{HOST}/")]).expect_failure("our certificate");
    assert!(agent.count("redirected") > before && agent.count("arrived") > 0);
}

/// A filter that proofs pass. Only the clients' own connections show it.
#[test]
fn clients_that_are_lost_alone_end_the_redirection_and_are_led_back_later() {
    /// A client's opening is repeated after one second and after three, and the second one counts.
    const SEEN_WITHIN_S: &str = "8";
    /// The agent leads clients to the door again after half a minute.
    const LED_BACK_WITHIN: Duration = Duration::from_secs(60);

    let world = World::new();
    world.route_clients();
    let _origin = origin(&world);
    let _entrepot = Entrepot::start(&world, Settings::new());
    let words = arguments();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &words);
    let client = Client::without_proxy(&world, &world.client, world.internet_ca());
    on_router(
        &world.proxy,
        &[
            "nft",
            "add table ip other; add chain ip other in { type filter hook input priority 0; policy accept; }; \
             add rule ip other in tcp dport 443 tcp sport 1024-65535 drop",
        ],
    );
    let url = format!("https://{HOST}/");
    let page = client.curl(&["--connect-timeout", SEEN_WITHIN_S, &url]).expect_success("once they are lost");
    assert_eq!(page.stdout, "from the origin");
    let said = agent.status()["paused"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("no client gets an answer of the door"), "{said}");
    assert!(said.contains("nft insert rule ip other in meta mark 0xe8 accept"), "{said}");
    expect_direct(&client, "the pause");
    on_router(&world.proxy, &["nft", "delete table ip other"]);
    let deadline = Instant::now() + LED_BACK_WITHIN;
    while agent.status()["healthy"] == false {
        assert!(Instant::now() < deadline, "clients are not led to the door again");
    }
    client.curl(&["--connect-timeout", DIRECT_WITHIN_S, &url]).expect_failure("our certificate");
    agent.wait_status("the client's arrival", |_| agent.count("arrived") > 0);
}

#[test]
fn a_routing_rule_or_route_that_is_removed_comes_back() {
    let world = World::new();
    world.route_clients();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &["gateway", "--interface", "down0"]);
    let shown = |words: &[&str]| {
        let mut command = Command::new("ip");
        command.args(words);
        finish(&world.proxy, command, Duration::from_secs(10)).expect_success("ip").stdout
    };
    for family in ["-4", "-6"] {
        on_router(&world.proxy, &["ip", family, "route", "flush", "table", "3129"]);
        let route = [family, "route", "show", "table", "3129"];
        agent.wait_status("the route", |_| shown(&route).contains("local default dev lo"));
        on_router(&world.proxy, &["ip", family, "rule", "del", "fwmark", "0xe8", "lookup", "3129"]);
        let rule = "90:\tfrom all fwmark 0xe8 lookup 3129";
        agent.wait_status("the rule", |_| shown(&[family, "rule"]).contains(rule));
        agent.wait_status("redirection", |status| status["healthy"] == true);
    }
}

#[test]
fn an_interface_that_has_no_proofs_is_named_and_one_that_goes_ends_nothing() {
    let world = World::new();
    world.route_clients();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let ip = |words: &str| on_router(&world.proxy, &words.split(' ').collect::<Vec<_>>());
    ip("ip link add passing0 type veth peer name far0");
    ip("ip address add 10.98.0.1/32 dev passing0");
    ip("ip link set passing0 up");
    ip("ip link set far0 up");
    let arguments = ["gateway", "--interface", "passing0", "--interface", "down0"];
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    let status = agent.wait_status("the lack of proofs", |status| status["unproved"].is_string());
    let said = status["unproved"].as_str().unwrap_or_default();
    assert!(said.contains("no proof can be made for passing0;") && status["healthy"] == true, "{status:#}");
    ip("ip address add 10.98.1.1/24 dev passing0");
    agent.wait_status("proofs", |status| status["unproved"].is_null() && status["healthy"] == true);
    ip("ip link delete passing0");
    ip("sysctl -w net.ipv4.conf.down0.src_valid_mark=1");
    agent.wait_status("a lost proof of the other", |status| status["healthy"] == false);
    ip("sysctl -w net.ipv4.conf.down0.src_valid_mark=0");
    agent.wait_status("redirection", |status| status["unproved"].is_null() && status["healthy"] == true);
}

#[test]
fn a_door_without_the_right_gets_no_connections_of_others() {
    let world = World::new();
    world.route_clients();
    let _origin = origin(&world);
    std::fs::write(world.path("plain.toml"), Settings::new().toml(&world)).expect("the configuration");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin,-net_raw", "--inh-caps", "-net_admin,-net_raw", "--"]);
    command.arg(binary()).args(["serve", "--config"]).arg(world.path("plain.toml"));
    let _entrepot = Entrepot::adopt(&world, Process::start(&world.proxy, command));
    let words = arguments();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let agent = Agent::attach(&world, &world.proxy, &Settings::new(), &words);
    agent.process().wait_line("give its process CAP_NET_ADMIN", Duration::from_secs(20));
    expect_direct(&Client::without_proxy(&world, &world.client, world.internet_ca()), "the start");
    assert_eq!(agent.count("redirected"), 0);
}
