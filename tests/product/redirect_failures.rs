//! Redirection fails open: if the proxy or the agent fails, new connections soon go to their own destinations. If the
//! administrator enforces redirection, they do not.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use entrepot_tests::agent::Agent;
use entrepot_tests::clients::Client;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::probe::outage;
use entrepot_tests::process::finish;
use entrepot_tests::upstream::{GHCR, Upstream};
use entrepot_tests::world::{World, address_of};
use nix::sys::signal::Signal;

/// The promised bound on an outage after proxies or agents die or hang.
const PROMISE: Duration = Duration::from_secs(3);
/// Long enough for a machine under load to become quiet.
const WINDOW: Duration = Duration::from_secs(8);

fn registry() -> SocketAddr {
    format!("{}:443", address_of(GHCR.host)).parse().expect("an address")
}

fn learned<'w>(world: &'w World, arguments: &[&str]) -> Agent<'w> {
    let agent = Agent::start(world, &world.proxy, &Settings::new(), arguments);
    agent.wait_status("ghcr.io", |status| status["addresses"].to_string().contains(address_of(GHCR.host)));
    agent
}

/// Asserts that new connections failed for no longer than promised after `disturb`.
fn outage_of(world: &World, what: &str, disturb: impl FnOnce()) {
    let outage = outage(&world.proxy, registry(), GHCR.host, WINDOW, disturb);
    let outage = outage.unwrap_or_else(|| panic!("{what}: new connections never recovered"));
    println!("{what}: no new connection for {} ms", outage.as_millis());
    assert!(outage <= PROMISE, "{what}: {outage:?}");
}

#[test]
fn a_proxy_that_is_killed_or_hangs_is_passed_by() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let agent = learned(&world, &["host"]);
    outage_of(&world, "proxy stopped by SIGSTOP", || entrepot.process().signal(Signal::SIGSTOP));
    assert_eq!(agent.status()["healthy"], false);
    entrepot.process().signal(Signal::SIGCONT);
    agent.wait_status("redirection, once it goes on", |status| status["healthy"] == true);
    outage_of(&world, "proxy killed", || entrepot.kill());
    assert!(agent.count("no_listener") + agent.count("unhealthy") > 0);
    entrepot.restart();
    agent.wait_status("redirection, once it is back", |status| status["healthy"] == true);
    let client = Client::without_proxy(&world, &world.proxy, entrepot.ca());
    client.curl(&["-o", "/dev/null", "https://ghcr.io/v2/"]).expect_success("redirected again");
}

#[test]
fn an_agent_that_is_killed_or_hangs_redirects_nothing() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let entrepot = Entrepot::start(&world, Settings::new());
    let agent = learned(&world, &["host"]);
    outage_of(&world, "agent stopped by SIGSTOP", || agent.process().signal(Signal::SIGSTOP));
    let stranger = Client::without_proxy(&world, &world.proxy, world.internet_ca());
    stranger.curl(&["https://ghcr.io/v2/"]).expect_success("past the door, while the agent hangs");
    agent.process().signal(Signal::SIGCONT);
    agent.wait_status("redirection, once it goes on", |status| status["healthy"] == true);
    outage_of(&world, "agent killed", || agent.process().kill());
    stranger.curl(&["https://ghcr.io/v2/"]).expect_success("past the door, without an agent");
    drop(entrepot);
}

#[test]
fn a_gateway_passes_by_a_proxy_that_is_killed() {
    let world = World::new();
    world.route_clients();
    let _ghcr = Upstream::start(&world, GHCR);
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let agent = learned(&world, &["gateway", "--interface", "down0"]);
    let client = Client::without_proxy(&world, &world.client, entrepot.ca());
    client.curl(&["-o", "/dev/null", "https://ghcr.io/v2/"]).expect_success("redirected");
    let killed = outage(&world.client, registry(), GHCR.host, WINDOW, || entrepot.kill());
    let killed = killed.expect("new connections recover");
    println!("gateway's proxy killed: no new connection for {} ms", killed.as_millis());
    assert!(killed <= PROMISE, "{killed:?}");
    agent.process().kill();
    let stranger = Client::without_proxy(&world, &world.client, world.internet_ca());
    stranger.curl(&["https://ghcr.io/v2/"]).expect_success("through the router, without an agent");
    agent.command(&["off"]).expect_success("entrepot redirect off");
    let rules = finish(&world.proxy, ip_rule(), PROMISE).expect_success("ip rule");
    assert!(!rules.stdout.contains("3129"), "{}", rules.stdout);
}

#[test]
fn what_is_enforced_stays_until_it_is_switched_off() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let mut mount = Command::new("mount");
    mount.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]);
    finish(&world.proxy, mount, PROMISE).expect_success("a bpf file system of the test's own");
    let agent = learned(&world, &["host", "--enforce"]);
    let busy = agent.command(&["off"]).expect_failure("an agent still runs");
    assert!(busy.stderr.contains("stop it first"), "{}", busy.stderr);
    agent.process().kill();
    let client = Client::without_proxy(&world, &world.proxy, entrepot.ca());
    client.curl(&["-o", "/dev/null", "https://ghcr.io/v2/"]).expect_success("redirected without an agent");
    let status = agent.command(&["status"]).expect_failure("no agent");
    assert!(status.stderr.contains("redirect off"), "{}", status.stderr);
    entrepot.kill();
    let stranger = Client::without_proxy(&world, &world.proxy, world.internet_ca());
    stranger.curl(&["https://ghcr.io/v2/"]).expect_failure("nobody goes past a door that is closed");
    let off = agent.command(&["off"]).expect_success("entrepot redirect off");
    assert!(!off.stdout.starts_with("0 "), "{}", off.stdout);
    stranger.curl(&["https://ghcr.io/v2/"]).expect_success("directly");
}

fn ip_rule() -> Command {
    let mut command = Command::new("ip");
    command.arg("rule");
    command
}
