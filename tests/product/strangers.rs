//! One stranger on the network, everybody else: whatever the stranger does, and while it goes on, an honest client beside it
//! is answered within a deadline of seconds. The deadlines are ten times what an idle machine of two cores needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use entrepot_tests::door::Door;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::fake::{Answer, Fake};
use entrepot_tests::world::World;
use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::{blob, heavy};

/// The honest client's patience with each of its requests.
const DEADLINE: Duration = Duration::from_secs(5);
/// The stranger's address. The honest client has the world's own.
const STRANGER: &str = "10.90.1.66";
const DEAD_NAMES: usize = 900;

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

#[test]
fn nine_hundred_dead_names_hold_up_no_pull_and_no_tunnel() {
    let _alone = heavy();
    let world = World::new();
    world.client.ip(&format!("addr add {STRANGER}/24 dev eth0\n"));
    let heard = silent_resolver(&world);
    let fake = Fake::start(&world, "fake.test");
    let (cold, warm) = (blob(1, 1 << 20), blob(2, 1 << 20));
    let url = |digest: &str| fake.url(&format!("/v2/team/app/blobs/{digest}"));
    for blob in [&cold, &warm] {
        fake.put(
            &format!("/v2/team/app/blobs/{}", blob.digest),
            "application/octet-stream",
            blob.bytes(),
            &[Answer::Good],
        );
    }
    let entrepot = Entrepot::start(&world, Settings::new());
    let door = entrepot.door();
    assert_eq!(honest(&door, &url(&warm.digest)), warm.digest);
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
    assert_eq!(honest(&door, &url(&warm.digest)), warm.digest, "what is stored");
    assert_eq!(honest(&door, &url(&cold.digest)), cold.digest, "what is not");
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
