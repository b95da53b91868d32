//! Bytes that nobody verified, and accounts, belong to one origin: scheme, name and port (T1, T3 in docs/threats.md).

use bytes::Bytes;
use http::Method;

use crate::harness::{Answer, Gate, Proxy, Setup, TokenServer, Upstream, bytes, digest_of};

const SIZE: usize = 2 << 20;
const HALF: u64 = 1 << 20;

/// A registry with a private blob, whose answer stops in the middle until the gate opens.
async fn private_blob(gate: &Gate) -> (Upstream, Bytes, String) {
    let (upstream, content) = (Upstream::start().await, bytes(3, SIZE));
    let digest = digest_of(&content);
    upstream.blob_as("team/secret", &digest, Answer::content(content.clone()).gated_at(HALF, gate));
    TokenServer::protect(&upstream).allow("alice", "team/secret");
    (upstream, content, format!("/v2/team/secret/blobs/{digest}"))
}

/// Another listed registry that claims to have the blob, and sends something else.
async fn claims(content: &Bytes) -> (Upstream, String) {
    let (evil, digest) = (Upstream::start().await, digest_of(content));
    evil.blob_as("liar/app", &digest, Answer::content(bytes(4, SIZE)));
    (evil, format!("/v2/liar/app/blobs/{digest}"))
}

fn has_part_of(body: &[u8], secret: &[u8]) -> bool {
    [0, SIZE / 4, SIZE / 2].iter().any(|at| body.windows(64).any(|window| window == &secret[*at..*at + 64]))
}

#[tokio::test]
async fn what_a_broken_private_pull_left_is_for_its_own_registry() {
    let gate = Gate::closed();
    let (upstream, content, path) = private_blob(&gate).await;
    let (evil, claim) = claims(&content).await;
    let proxy = Proxy::before(&[&upstream, &evil]).await;
    let mut alice = proxy.get(&upstream, &path).bearer("token-of-alice").start().await;
    alice.read(SIZE / 4).await;
    gate.reached().await;
    upstream.stop().await;
    alice.until_it_ends().await;
    proxy.landed().await;
    for range in [None, Some("0-4095")] {
        let ask = proxy.get(&evil, &claim);
        let ask = range.map_or(ask.clone(), |range| ask.range(range));
        let given = ask.start().await.until_it_ends().await;
        assert!(!has_part_of(&given, &content), "{range:?}");
    }
    // What is left is of use to its own registry: only the rest is fetched.
    proxy.landed().await;
    gate.open();
    upstream.resume().await;
    upstream.forget();
    proxy.get(&upstream, &path).bearer("token-of-alice").send().await.is_whole(&content);
    assert!(upstream.body_bytes() < SIZE as u64, "the rest only: {}", upstream.body_bytes());
}

#[tokio::test]
async fn a_client_with_rights_never_feeds_the_fetch_of_a_stranger() {
    let gate = Gate::closed();
    let (upstream, content, path) = private_blob(&gate).await;
    gate.open();
    let (evil, digest, evil_gate) = (Upstream::start().await, digest_of(&content), Gate::closed());
    evil.blob_as("liar/app", &digest, Answer::content(bytes(4, SIZE)).gated_at(1000, &evil_gate));
    let proxy = Proxy::before(&[&upstream, &evil]).await;
    let stranger = proxy.get(&evil, &format!("/v2/liar/app/blobs/{digest}")).start().await;
    evil_gate.reached().await;
    // The stranger's fetch runs. The client's own registry serves it, from its own bytes.
    proxy.get(&upstream, &path).bearer("token-of-alice").send().await.is_whole(&content);
    // Now the stranger's registry has nothing more to give.
    evil.blob_as("liar/app", &digest, Answer::status(404));
    evil.stop().await;
    evil.resume().await;
    let given = stranger.until_it_ends().await;
    assert!(!has_part_of(&given, &content));
}

#[tokio::test]
async fn a_range_that_was_answered_early_is_of_its_own_registry() {
    let gate = Gate::closed();
    let (upstream, content, path) = private_blob(&gate).await;
    let (evil, claim) = claims(&content).await;
    let evil_gate = Gate::closed();
    let lie = bytes(4, SIZE);
    evil.blob_as("liar/app", &digest_of(&content), Answer::content(lie.clone()).gated_at(HALF, &evil_gate));
    let proxy = Proxy::before(&[&upstream, &evil]).await;
    let mut liar = proxy.get(&evil, &claim).start().await;
    liar.read(4096).await;
    evil_gate.reached().await;
    for _ in 0..6 {
        let part = proxy.get(&upstream, &path).bearer("token-of-alice").range("0-4095").send().await;
        assert_eq!(part.status, 206);
        assert!(part.body == content[..4096], "bytes of another registry");
    }
    evil_gate.open();
    gate.open();
}

/// A port without a scheme means https. A client that asks for it in plain HTTP is passed on untouched.
#[tokio::test]
async fn plain_http_to_a_registry_that_speaks_https_is_passed_on_without_an_account() {
    let (upstream, content) = (Upstream::start().await, bytes(5, 5000));
    let digest = upstream.blob("team/app", &content);
    upstream.guard(|seen| {
        let challenge = Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\"");
        (seen.path.contains("secret") && seen.header("authorization").is_empty()).then_some(challenge)
    });
    let port = upstream.address.port();
    let proxy = Setup::of(&[])
        .account(&upstream, "robot", "robot-password")
        .set("proxy", &format!("tunnel_ports = [{port}]"))
        .start()
        .await;
    for _ in 0..2 {
        let blob = proxy.get(&upstream, &format!("/v2/team/app/blobs/{digest}")).send().await;
        blob.is_whole(&content);
        assert_eq!(blob.cache(), "", "neither cached nor counted");
    }
    assert_eq!(upstream.count(&Method::GET, &format!("/v2/team/app/blobs/{digest}")), 2);
    let refused = proxy.get(&upstream, "/v2/team/secret/manifests/1").send().await;
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Basic realm=\"fake\""));
    assert!(upstream.seen().iter().all(|seen| seen.header("authorization").is_empty()), "the account was sent");
    proxy.holds_nothing().await;
}
