//! Webhooks: receivers get events about pushes and deletions, in the format of Docker's registry.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::images;
use entrepot_tests::serve::{Server, full, http};
use entrepot_tests::world::{PROXY_ADDRESS, World, address_of};
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::registry_page::{ORIGIN, page, send};

const SOON: Duration = Duration::from_secs(30);

/// A receiver in the internet, and the events that it gets.
fn receiver(world: &World) -> (Server, Receiver<(HeaderMap, Value)>) {
    let address = format!("{}:8080", address_of("outside.test")).parse().expect("an address");
    let (sent, received) = channel();
    let handler = http(move |request| {
        let sent = sent.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let _ = sent.send((head.headers, serde_json::from_slice(&body).unwrap_or_default()));
            Response::new(full(Bytes::new()))
        }
    });
    (Server::start(&world.internet, address, None, handler), received)
}

/// The next event about a manifest or a tag. Events about blobs are skipped.
fn next(received: &Receiver<(HeaderMap, Value)>) -> (HeaderMap, Value) {
    loop {
        let (headers, envelope) = received.recv_timeout(SOON).expect("an event in time");
        let event = &envelope["events"][0];
        if event["target"]["tag"].is_string() || event["action"] == "delete" {
            return (headers, event.clone());
        }
    }
}

#[test]
fn pushes_and_deletions_are_told_and_no_push_waits_for_it() {
    let world = World::new();
    let (server, received) = receiver(&world);
    let hook = "url = \"http://outside.test:8080/hook?key=canary-url\"\nheaders = { X-Key = \"canary-header\" }";
    let entrepot = Entrepot::start(&world, Settings::new().set("[[registry.notifications]]", hook));
    let client = entrepot.neighbour().insecure(&format!("{PROXY_ADDRESS}:5000"));
    let image = images::random(1, 1, 50_000);
    let name = format!("{PROXY_ADDRESS}:5000/team/app");
    client.skopeo_push(&image, &format!("{name}:v1"), None).expect_success("a push");
    let (headers, pushed) = next(&received);
    assert_eq!(headers["content-type"], "application/vnd.docker.distribution.events.v1+json");
    assert_eq!(headers["x-key"], "canary-header");
    assert_eq!(pushed["action"], "push", "{pushed}");
    let target = &pushed["target"];
    assert_eq!((target["repository"].as_str(), target["tag"].as_str()), (Some("team/app"), Some("v1")), "{pushed}");
    assert_eq!(target["digest"].as_str(), Some(&*image.digest), "{pushed}");
    assert_eq!(pushed["request"]["method"], "PUT", "{pushed}");

    server.switch_off();
    let second = images::random(2, 1, 50_000);
    client.skopeo_push(&second, &format!("{name}:v2"), None).expect_success("a push while the receiver is away");
    let url = format!("http://{PROXY_ADDRESS}:5000/v2/team/app/manifests/v1");
    client.curl(&["-f", "-X", "DELETE", &url]).expect_success("a deletion");
    entrepot.process().wait_line("the receiver of events does not take them", SOON);
    server.switch_on();
    let (_, later) = next(&received);
    assert_eq!((later["action"].as_str(), later["target"]["tag"].as_str()), (Some("push"), Some("v2")), "{later}");
    let (_, deleted) = next(&received);
    assert_eq!((deleted["action"].as_str(), deleted["target"]["tag"].as_str()), (Some("delete"), Some("v1")));

    let question = page(&client, "/registry/delete?name=team/app&tag=v2");
    assert!(send(&client, &question, "/registry/delete", ORIGIN).starts_with("303 "), "a person deletes by the page");
    let (_, deleted) = next(&received);
    assert_eq!((deleted["action"].as_str(), deleted["target"]["tag"].as_str()), (Some("delete"), Some("v2")));
    assert_eq!(deleted["request"]["method"], "POST", "{deleted}");
}
