//! Discovery: a real Avahi on another machine of the network resolves and browses. Conflicts are resolved, and changed
//! addresses are announced. Packets from beyond the link and malformed packets do no harm.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use entrepot_tests::avahi::Avahi;
use entrepot_tests::entrepot::{Entrepot, Settings, binary};
use entrepot_tests::images::fill;
use entrepot_tests::namespace::Namespace;
use entrepot_tests::process::{Finished, finish};
use entrepot_tests::world::World;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const NAME: &str = "docker-registry.local";
const SERVICE: &str = "_docker-registry._tcp";
/// Long enough for probing, announcing and a loaded machine.
const SOON: Duration = Duration::from_secs(30);

fn discover(namespace: &Namespace, options: &[&str]) -> Finished {
    let mut command = Command::new(binary());
    command.arg("discover").args(options);
    finish(namespace, command, Duration::from_secs(60))
}

#[test]
fn avahi_finds_the_host_and_its_services_until_it_says_goodbye() {
    let world = World::new();
    let mut entrepot = Entrepot::start(&world, Settings::new());
    let avahi = Avahi::start(&world, &world.client, "lan-client");
    avahi.wait_resolved(NAME, Some("10.90.1.1"), SOON);
    assert!(avahi.resolve("-6", NAME).is_some_and(|address| address.contains("::")));
    let fingerprint = entrepot.fingerprint();
    let services = avahi.browse(SERVICE);
    let line = services.wait_line(";10.90.1.1;5000;", SOON);
    for told in [NAME, &format!("ca-sha256={fingerprint}"), "proxy=3128", "registry-https=5443", "version="] {
        assert!(line.contains(told), "{told} is missing: {line}");
    }
    let web = avahi.browse("_http._tcp");
    web.wait_line(";10.90.1.1;5000;", SOON);
    assert!(entrepot.terminate().success());
    services.wait_line("-;eth0;IPv4;docker-registry", SOON);
    web.wait_line("-;eth0;IPv4;docker-registry", SOON);
}

#[test]
fn discover_lists_it_with_fingerprint_and_health() {
    let world = World::new();
    let nobody = discover(&world.client, &["--wait", "1"]);
    assert_eq!(nobody.status.code(), Some(69), "{}", nobody.stderr);
    assert_eq!(nobody.stderr.lines().count(), 1, "{}", nobody.stderr);

    let entrepot = Entrepot::start(&world, Settings::new());
    Avahi::start(&world, &world.client, "lan-client").wait_resolved(NAME, Some("10.90.1.1"), SOON);
    let found = discover(&world.client, &["--json"]).expect_success("discover");
    let found: serde_json::Value = serde_json::from_str(&found.stdout).expect("JSON");
    assert_eq!(found[0]["name"], NAME);
    assert_eq!(found[0]["addresses"][0], "10.90.1.1");
    assert_eq!((&found[0]["health"], &found[0]["proxy_port"]), (&"ok".into(), &3128.into()));
    assert_eq!(found[0]["ca_sha256"], entrepot.fingerprint());
    let table = discover(&world.client, &[]).expect_success("discover").stdout;
    assert!(table.contains(NAME) && table.contains(&entrepot.fingerprint()), "{table}");
}

#[test]
fn a_name_that_is_taken_gets_a_number_and_a_line() {
    let world = World::new();
    let avahi = Avahi::start(&world, &world.client, "docker-registry");
    let entrepot = Entrepot::start(&world, Settings::new());
    let line = entrepot.process().wait_line("docker-registry-2.local", SOON);
    assert!(line.contains(NAME) && line.contains("mdns.hostname"), "{line}");
    avahi.wait_resolved("docker-registry-2.local", Some("10.90.1.1"), SOON);
    assert_eq!(avahi.resolve("-4", NAME).as_deref(), Some("10.90.1.2"), "the other one keeps its name");
}

#[test]
fn addresses_and_interfaces_are_followed() {
    let world = World::new();
    let _entrepot = Entrepot::start(&world, Settings::new().set("mdns", "hostname = \"warehouse\""));
    let avahi = Avahi::start(&world, &world.client, "lan-client");
    avahi.wait_resolved("warehouse.local", Some("10.90.1.1"), SOON);
    world.proxy.ip("addr del 10.90.1.1/24 dev down0\naddr add 10.90.1.9/24 dev down0\n");
    avahi.wait_resolved("warehouse.local", Some("10.90.1.9"), SOON);
    let services = avahi.browse(SERVICE);
    services.wait_line(";10.90.1.9;", SOON);
    for _ in 0..3 {
        world.proxy.ip("link set down0 down\n");
        world.proxy.ip("link set down0 up\naddr replace 10.90.1.9/24 dev down0\n");
    }
    avahi.wait_resolved("warehouse.local", Some("10.90.1.9"), SOON);
}

#[test]
fn two_responders_share_a_machine() {
    let world = World::new();
    let _beside = Avahi::start(&world, &world.proxy, "docker-registry");
    let entrepot = Entrepot::start(&world, Settings::new());
    let avahi = Avahi::start(&world, &world.client, "lan-client");
    let services = avahi.browse(SERVICE);
    services.wait_line(";10.90.1.1;5000;", SOON);
    avahi.wait_resolved(NAME, Some("10.90.1.1"), SOON);
    let said = entrepot.process().lines(entrepot_tests::process::Stream::Stderr).join("\n");
    assert!(!said.contains("docker-registry-2"), "one machine, one name: {said}");
}

#[test]
fn a_switch_and_a_loopback_door_keep_it_silent() {
    for settings in
        [Settings::new().set("mdns", "enabled = false"), Settings::new().set("mdns", "interfaces = [\"lo\"]")]
    {
        let world = World::new();
        let _entrepot = Entrepot::start(&world, settings);
        assert_eq!(discover(&world.client, &[]).status.code(), Some(69));
    }
}

/// A DNS question of type A for the name.
fn question(name: &str) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).expect("a label"));
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// Whether the proxy's address answers a question that is sent directly to it, with the highest hop limit.
fn answers(from: &Namespace) -> bool {
    from.wait(async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a socket");
        socket.set_ttl(255).expect("a time to live");
        let mut buffer = [0; 1500];
        for _ in 0..3 {
            socket.send_to(&question(NAME), (Ipv4Addr::new(10, 90, 1, 1), 5353)).await.expect("sent");
            if timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await.is_ok() {
                return true;
            }
        }
        false
    })
}

#[test]
fn questions_from_beyond_the_link_are_ignored() {
    let world = World::new();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let far = Namespace::new("far", Vec::new());
    world.client.ip(&format!(
        "link add far0 type veth peer name eth0 netns {}\naddr add 10.90.7.1/24 dev far0\nlink set far0 up\n",
        far.net_path().display()
    ));
    far.ip("addr add 10.90.7.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.90.7.1\n");
    world.proxy.ip("route add 10.90.7.0/24 via 10.90.1.2\n");
    world.client.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding"));
    Avahi::start(&world, &world.client, "lan-client").wait_resolved(NAME, Some("10.90.1.1"), SOON);
    assert!(answers(&world.client), "the same question from the link is answered");
    let reached = far.wait(async { TcpStream::connect("10.90.1.1:3128").await.is_ok() });
    assert!(reached, "there is a way from beyond the link");
    assert!(!answers(&far), "a question that passed a router was answered");
}

/// Noise, truncated questions, names that point at themselves, counts that are too large.
fn malformed(number: usize) -> Vec<u8> {
    let mut noise = vec![0; 64 + number % 400];
    fill(number as u64, &mut noise);
    let whole = question(NAME);
    match number % 5 {
        0 => noise,
        1 => whole[..number % whole.len()].to_vec(),
        2 => [&whole[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(),
        3 => [&[0, 0, 0x84, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &noise[..]].concat(),
        _ => {
            [&[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0], &whole[12..], &[0, 0, 0, 9, 0xff, 0xff, 1], &noise[..]].concat()
        }
    }
}

#[test]
fn a_thousand_malformed_packets_are_survived() {
    let world = World::new();
    let entrepot = Entrepot::start(&world, Settings::new());
    let avahi = Avahi::start(&world, &world.client, "lan-client");
    avahi.wait_resolved(NAME, Some("10.90.1.1"), SOON);
    world.client.wait(async {
        let socket = UdpSocket::bind((Ipv4Addr::new(10, 90, 1, 2), 0)).await.expect("a socket");
        socket.set_ttl(255).expect("a time to live");
        for number in 0..1000 {
            // Sent directly, so that the test's own Avahi takes no part.
            socket.send_to(&malformed(number), (Ipv4Addr::new(10, 90, 1, 1), 5353)).await.expect("sent");
        }
    });
    assert!(answers(&world.client), "still answering");
    let services = avahi.browse("_http._tcp");
    services.wait_line(";10.90.1.1;5000;", SOON);
    let page = entrepot.client().curl(&["--noproxy", "*", "-f", "http://10.90.1.1:3128/"]);
    page.expect_success("the proxy's page");
}
