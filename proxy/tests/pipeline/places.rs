//! Connections that rest make room for others, and those that are used do not.

use crate::harness::{Answer, Gate, Session, Setup, Upstream, bytes, digest_of, eventually};

#[tokio::test]
async fn a_connection_that_rests_makes_room_and_a_pull_goes_on() {
    let upstream = Upstream::start().await;
    let content = bytes(1, 8 << 20);
    let (digest, gate) = (digest_of(&content), Gate::closed());
    upstream.blob_as("team/app", &digest, Answer::content(content.clone()).gated_at(4 << 20, &gate));
    let small = bytes(2, 1000);
    let path = format!("/v2/team/app/blobs/{}", upstream.blob("team/app", &small));
    let proxy = Setup::of(&[&upstream]).set("proxy", "max_connections = 3").start().await;

    // A pull in its middle came first, so it has rested the longest if anything counted but its answer.
    let mut pull = proxy.get(&upstream, &format!("/v2/team/app/blobs/{digest}")).start().await;
    let begun = pull.read(1 << 20).await;
    let mut sealed = proxy.sealed(&upstream).await;
    let mut plain = Session::to(proxy.door).await;
    plain.ask(proxy.get(&upstream, &path)).await.is_whole(&small);
    sealed.ask(proxy.get(&upstream, &path)).await.is_whole(&small);

    let mut third = Session::to(proxy.door).await;
    third.ask(proxy.get(&upstream, &path)).await.is_whole(&small);
    eventually("the plain connection, which was used before the sealed one, is closed", || plain.is_closed()).await;
    assert!(!sealed.is_closed());
    let mut fourth = Session::to(proxy.door).await;
    fourth.ask(proxy.get(&upstream, &path)).await.is_whole(&small);
    eventually("then the sealed one", || sealed.is_closed()).await;
    assert!(!third.is_closed());

    gate.open();
    let rest = pull.rest().await.expect("the pull goes on");
    assert!([&begun[..], &rest.body].concat() == content[..]);
}
