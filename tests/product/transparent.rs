//! The transparent door itself: its treatment of connections without a CONNECT, by whatever way they were redirected.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use entrepot_tests::clients::Client;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::probe::{client_hello, tls_answers};
use entrepot_tests::serve::{Server, full, http};
use entrepot_tests::upstream::{GHCR, PLAIN, Upstream};
use entrepot_tests::world::{World, address_of};
use http::Response;

const DOOR: &str = "10.90.1.1:3129";
const PATIENCE: Duration = Duration::from_secs(10);

fn door() -> SocketAddr {
    DOOR.parse().expect("an address")
}

fn shop(world: &World) -> Server {
    let address = format!("{}:443", address_of("outside.test")).parse().expect("an address");
    let tls = world.authority.server(&["outside.test"], &["http/1.1"]);
    Server::start(&world.internet, address, Some(tls), http(|_| async { Response::new(full("from the shop")) }))
}

/// A version 2 header with the client and the destination.
fn proxy_header(client: [u8; 4], destination: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(client);
    header.extend(destination);
    header.extend(40_000u16.to_be_bytes());
    header.extend(port.to_be_bytes());
    header
}

#[test]
fn the_name_in_tls_binds_the_requests_inside() {
    let world = World::new();
    let _ghcr = Upstream::start(&world, GHCR);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = Client::without_proxy(&world, &world.client, entrepot.ca());
    let to_door = format!("::{DOOR}");
    let status = |arguments: &[&str]| {
        let common = ["-o", "/dev/null", "-w", "%{http_code}", "--connect-to", &to_door];
        client.curl(&[&common[..], arguments].concat()).expect_success("curl").stdout
    };
    assert_eq!(status(&["https://ghcr.io/v2/"]), "401", "the registry's own challenge");
    assert_eq!(status(&["-H", "Host: quay.io", "https://ghcr.io/v2/"]), "421", "another registry than the name in TLS");
}

#[test]
fn plain_http_goes_by_its_host() {
    let world = World::new();
    let _plain = Upstream::start(&world, PLAIN);
    let entrepot = Entrepot::start(&world, Settings::new());
    let client = Client::without_proxy(&world, &world.client, entrepot.ca());
    let answer = client.curl(&["-f", "--connect-to", &format!("::{DOOR}"), "http://plain.test:5001/v2/"]);
    answer.expect_success("a registry without TLS");
    assert_eq!(entrepot.wait_access("plain.test")["client"], "10.90.1.2");
}

#[test]
fn only_relays_of_the_configured_networks_are_believed() {
    let world = World::new();
    let _shop = shop(&world);
    let destination: [u8; 4] = address_of("outside.test").parse::<std::net::Ipv4Addr>().expect("an address").octets();
    let header = proxy_header([192, 0, 2, 9], destination, 443);
    // No host has this name: only the header tells the destination.
    let hello = client_hello("nowhere.invalid");
    let relayed = |world: &World| {
        let (header, hello) = (header.clone(), hello.clone());
        world.client.run(move || {
            let answered = tls_answers(door(), &[&header, &hello], PATIENCE);
            let (front, back) = header.split_at(7);
            (answered, tls_answers(door(), &[front, back, &hello[..9], &hello[9..]], PATIENCE))
        })
    };
    let believing = Settings::new().set("transparent", "proxy_protocol_from = [\"10.90.1.2\"]");
    {
        let _entrepot = Entrepot::start(&world, believing);
        assert_eq!(relayed(&world), (true, true), "a relay that is believed");
    }
    let _entrepot =
        Entrepot::start(&world, Settings::new().set("transparent", "proxy_protocol_from = [\"10.90.1.3\"]"));
    assert_eq!(relayed(&world), (false, false), "one of another network");
}

#[test]
fn who_says_neither_name_nor_destination_is_closed() {
    let world = World::new();
    let _entrepot = Entrepot::start(&world, Settings::new());
    for opening in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x00"] {
        let left = world.client.run(move || {
            let mut stream = TcpStream::connect(door()).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            stream.write_all(opening).expect("sent");
            let mut answer = Vec::new();
            // A reset means the same as an end.
            match stream.read_to_end(&mut answer) {
                Ok(_) => answer.len(),
                Err(error) => usize::from(error.kind() == std::io::ErrorKind::WouldBlock),
            }
        });
        assert_eq!(left, 0, "{opening:?}");
    }
}

#[test]
fn strangers_by_name_follow_the_rules_of_the_proxy() {
    let world = World::new();
    let _shop = shop(&world);
    let to_door = format!("::{DOOR}");
    let arguments = ["--connect-to", to_door.as_str(), "https://outside.test/"];
    let client = Client::without_proxy(&world, &world.client, world.internet_ca());
    {
        let _entrepot = Entrepot::start(&world, Settings::new());
        let page = client.curl(&arguments).expect_success("sealed, to where the name leads");
        assert_eq!(page.stdout, "from the shop");
    }
    let _entrepot = Entrepot::start(&world, Settings::new().set("proxy", "tunnel = \"none\""));
    client.curl(&arguments).expect_failure("proxy.tunnel = none");
}
