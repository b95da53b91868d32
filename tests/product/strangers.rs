//! One stranger on the network, everybody else: while the stranger goes on, an honest client beside it is answered within
//! a deadline of seconds. The deadlines are ten times as long as an idle machine of two cores needs.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use entrepot_tests::door::Door;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::world::World;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::{blob, heavy};

/// The honest client's patience with each of its requests.
const DEADLINE: Duration = Duration::from_secs(5);
/// The stranger's address. The honest client has the world's own.
const STRANGER: &str = "10.90.1.66";
const DEAD_NAMES: usize = 900;
/// The stranger's networks of IPv6, and the addresses that it uses of each.
const NETWORKS: u16 = 10;
const HOSTS: u16 = 100;

/// A connection of the stranger.
async fn strangers_connection(door: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{STRANGER}:0").parse().expect("an address")).expect("the stranger's address");
    socket.connect(door.parse().expect("an address")).await.expect("the door takes it")
}

/// A name server on the proxy's host that hears questions and never answers. Returns the number that it has heard.
fn silent_resolver(world: &World) -> Arc<AtomicUsize> {
    let heard = Arc::new(AtomicUsize::new(0));
    let socket = world.proxy.wait(async { UdpSocket::bind("127.0.0.1:53").await }).expect("the resolver's port");
    let hearing = Arc::clone(&heard);
    world.proxy.handle().spawn(async move {
        let mut question = [0; 512];
        while socket.recv_from(&mut question).await.is_ok() {
            hearing.fetch_add(1, Ordering::SeqCst);
        }
    });
    heard
}

/// A GET of the honest client: the body's digest, within the deadline.
#[track_caller]
fn honest(door: &Door, url: &str) -> String {
    let (door_, url_) = (door.clone(), url.to_owned());
    let answered = door.wait(async move {
        let asking =
            async { door_.start(Method::GET, &url_, &[], Bytes::new()).await.expect("an answer").finish().await };
        timeout(DEADLINE, asking).await
    });
    answered.unwrap_or_else(|_| panic!("{url}: no answer within {DEADLINE:?} beside the stranger")).content()
}

/// Puts a blob of 1 MiB at a registry. Returns its address and its digest.
fn put(fake: &Fake, seed: u64) -> (String, String) {
    let blob = blob(seed, 1 << 20);
    let path = format!("/v2/team/app/blobs/{}", blob.digest);
    fake.put(&path, "application/octet-stream", blob.bytes(), &[Answer::Good]);
    (fake.url(&path), blob.digest.clone())
}

#[test]
fn nine_hundred_dead_names_hold_up_no_pull_and_no_tunnel() {
    let _alone = heavy();
    let world = World::new();
    world.client.ip(&format!("addr add {STRANGER}/24 dev eth0\n"));
    let heard = silent_resolver(&world);
    let (fake, other) = (Fake::start(&world, "fake.test"), Fake::start(&world, "quay.io"));
    let (warm, cold) = (put(&fake, 1), put(&other, 2));
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    assert_eq!(honest(&door, &warm.0), warm.1);
    let _stranger = door.wait(async move {
        let mut held = Vec::new();
        for number in 0..DEAD_NAMES {
            let mut stream = strangers_connection("10.90.1.1:3128").await;
            let head = format!("CONNECT dead{number}.test:443 HTTP/1.1\r\nHost: dead{number}.test\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("sent");
            held.push(stream);
        }
        while heard.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        held
    });
    assert_eq!(honest(&door, &warm.0), warm.1, "what is stored");
    assert_eq!(honest(&door, &cold.0), cold.1, "what is not, at a host that was not asked before");
    // Nobody listens there, so the answer is that the name was found and its host refused.
    let tunnel = door.clone();
    let tunnelled = door.wait(async move {
        timeout(DEADLINE, async {
            tunnel.tunnel("outside.test:443").await.map(drop).map_err(|error| error.to_string())
        })
        .await
    });
    let refusal = tunnelled.expect("a tunnel's answer within the deadline").expect_err("nobody listens");
    assert!(refusal.contains(" 502"), "{refusal}");
}

/// Networks of the stranger's own, with their addresses on the client's machine.
fn strangers_networks(world: &World) {
    let addresses = (1..=NETWORKS).flat_map(|network| (1..=HOSTS).map(move |host| strangers_address(network, host)));
    world.client.ip(&addresses.map(|address| format!("addr add {address}/64 dev eth0 nodad\n")).collect::<String>());
    world.proxy.ip("route add fd90:66::/32 via fd90:1::2\n");
}

fn strangers_address(network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd90, 0x66, 0, network, 0, 0, 0, host)
}

/// Connections from addresses of a /64 that say nothing.
async fn silent_connections(network: u16, held: &mut Vec<TcpStream>) {
    for host in 1..=HOSTS {
        let socket = TcpSocket::new_v6().expect("a socket");
        socket.bind((strangers_address(network, host), 0).into()).expect("an address of the stranger");
        // The registry's port: both doors count together, and this one has IPv6.
        let door = "[fd90:1::1]:5000".parse().expect("an address");
        held.push(timeout(DEADLINE, socket.connect(door)).await.expect("in time").expect("the door takes it"));
    }
}

#[test]
fn silent_connections_from_one_network_or_many_close_no_door() {
    let _alone = heavy();
    let world = World::new();
    strangers_networks(&world);
    let fake = Fake::start(&world, "fake.test");
    let (url, digest) = put(&fake, 1);
    let bounds = ["max_connections = 200", "max_connections_per_client = 50"];
    let entrepot =
        Entrepot::start(&world, bounds.into_iter().fold(Settings::new(), |all, line| all.set("proxy", line)));
    let door = entrepot.door();
    let mut held = Vec::new();
    // One network has the share of one client, whatever its addresses. Ten have every place, while nobody else wants one.
    for networks in [1, NETWORKS] {
        held = door.wait(async move {
            for network in 1..=networks {
                silent_connections(network, &mut held).await;
            }
            held
        });
        for _ in 0..20 {
            assert_eq!(honest(&door, &url), digest, "beside {networks} networks");
        }
    }
    let refused = |reason| entrepot.refused_connections(reason);
    // Each of them rests, so each makes room, for its own network or for everybody.
    assert!(refused("made_room") >= 70.0, "a network is one client, and silent connections made room");
}

const SLOW_PUTS: usize = 100;
/// The largest manifest that is taken.
const MANIFEST_BYTES: usize = 4 << 20;
/// The process may grow by this while the stranger's 400 MiB rest: the budget of 16 MiB for bodies, the buffers of a
/// hundred connections, and as much again that the allocator keeps.
const GROWTH_MIB: u64 = 160;

/// PUTs an empty list of images at our own registry. Returns the first line of the answer.
async fn push_empty_index(door: &str, tag: &str) -> String {
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let head = format!(
        "PUT /v2/honest/app/manifests/{tag} HTTP/1.1\r\nHost: docker-registry.local:5000\r\nConnection: close\r\n\
         Content-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\n\r\n{index}",
        index.len()
    );
    let mut stream = TcpStream::connect(door).await.expect("the door takes it");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_hundred_slow_manifests_cost_little_memory_and_hold_up_no_push() {
    let _alone = heavy();
    let world = World::new();
    world.client.ip(&format!("addr add {STRANGER}/24 dev eth0\n"));
    let entrepot = Entrepot::start(&world, Settings::new().set("registry", "anonymous = \"push\""));
    let registry = "10.90.1.1:5000";
    let push = |tag: &'static str| {
        world.client.wait(async move { timeout(DEADLINE, push_empty_index(registry, tag)).await.expect("in time") })
    };
    assert!(push("alone").contains(" 201"));
    let before_mib = entrepot.memory_mib();
    let _stranger = world.client.wait(async move {
        let mut sending = tokio::task::JoinSet::new();
        for number in 0..SLOW_PUTS {
            sending.spawn(async move {
                let mut stream = strangers_connection(registry).await;
                let head = format!(
                    "PUT /v2/stranger/app/manifests/t{number} HTTP/1.1\r\nHost: docker-registry.local:5000\r\n\
                     Content-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {MANIFEST_BYTES}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await.expect("sent");
                stream.write_all(&vec![b' '; MANIFEST_BYTES - 1]).await.expect("sent, but for the last byte");
                stream
            });
        }
        sending.join_all().await
    });
    assert!(push("beside").contains(" 201"), "an honest push beside the slow ones");
    let grown_mib = entrepot.memory_mib().saturating_sub(before_mib);
    assert!(grown_mib <= GROWTH_MIB, "{SLOW_PUTS} slow manifests took {grown_mib} MiB");
}
