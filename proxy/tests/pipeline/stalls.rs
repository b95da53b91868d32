//! Clients that stop in the middle of their request's body. They are named as the cause, and upstream is not.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Setup, Upstream, in_time};

/// Sends a head and a part of its body, and then nothing. Returns the answer.
async fn stall(door: SocketAddr, request: &str, host: &str, framing: &str, sent: &str) -> String {
    let mut stream = TcpStream::connect(door).await.expect("the door");
    let head = format!("{request} HTTP/1.1\r\nhost: {host}\r\n{framing}\r\nconnection: close\r\n\r\n{sent}");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    in_time("an answer", stream.read_to_string(&mut answer)).await.expect("read");
    answer
}

#[tokio::test]
async fn a_client_that_stops_in_its_body_is_the_cause() {
    let upstream = Upstream::start().await;
    let setup = Setup::of(&[&upstream]).set("proxy", "allow_push = true").set("client", "body_timeout = \"300ms\"");
    let proxy = setup.set("registry", "anonymous = \"push\"").start().await;
    let host = upstream.host();
    let at_upstream = |method: &str, path: &str| (proxy.door, format!("{method} http://{host}{path}"));
    let digest = "sha256:".to_owned() + &"0".repeat(64);
    let here = |method: &str, path: &str| (proxy.registry_door, format!("{method} {path}"));
    let begun = proxy.registry(http::Method::POST, "/v2/app/blobs/uploads/").send().await;
    let place = begun.header("location").to_owned();
    let cases = [
        at_upstream("PATCH", "/v2/team/app/blobs/uploads/1"),
        at_upstream("PUT", &format!("/v2/team/app/blobs/uploads/1?digest={digest}")),
        at_upstream("PUT", "/v2/team/app/manifests/v1"),
        at_upstream("POST", "/v2/auth"),
        at_upstream("POST", "/api/login"),
        here("PATCH", &place),
        here("PUT", &format!("{place}?digest={digest}")),
        here("PUT", "/v2/app/manifests/v1"),
    ];
    let mut answers = 0;
    for (door, request) in &cases {
        for (framing, sent) in [("content-length: 10", "abc"), ("transfer-encoding: chunked", "3\r\nabc\r\n")] {
            let answer = stall(*door, request, &host, framing, sent).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{request} {framing}: {answer}");
            assert!(answer.contains("REQUEST_TIMEOUT") && answer.contains("client"), "{request} {framing}: {answer}");
            answers += 1;
        }
    }
    let lines = proxy.access_lines(answers + 1).await;
    let reasons: Vec<_> = lines.iter().filter(|line| line["status"] == 408 || line["status"] == "408").collect();
    assert_eq!(reasons.len(), answers, "{lines:?}");
    assert!(reasons.iter().all(|line| line["reason"] == "client_stalled"), "{reasons:?}");
}
