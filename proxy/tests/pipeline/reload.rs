//! A reload, seen from outside: the next request gets the values that a reload replaces, and never those that it cannot
//! replace.

use http::Method;

use crate::harness::{Answer, Proxy, Setup, Upstream};

#[tokio::test]
async fn the_next_request_is_answered_under_the_new_configuration() {
    let upstream = Upstream::start().await;
    let upload = "/v2/team/app/blobs/uploads/";
    upstream.on(upload, |_| Answer::status(202));
    let proxy = Setup::of(&[&upstream]).set("proxy", "allow_push = false").start().await;
    proxy.ask(Method::POST, &upstream, upload).send().await.is_error(403, "DENIED");
    proxy.reload(&Setup::of(&[&upstream]).set("proxy", "allow_push = true"));
    assert_eq!(proxy.ask(Method::POST, &upstream, upload).send().await.status, 202);
    proxy.reload(&Setup::of(&[&upstream]));
    proxy.ask(Method::POST, &upstream, upload).send().await.is_error(403, "DENIED");
}

/// The sockets are bound once, so a request to another port is for another server, whatever the file says now.
#[tokio::test]
async fn our_registry_keeps_the_ports_that_it_started_with() {
    let proxy = Proxy::before(&[]).await;
    let ping = |host: &'static str| proxy.ask_host(Method::GET, host, "/v2/").send();
    assert_eq!(ping("docker-registry.local:5000").await.status, 200);
    let setup =
        Setup::of(&[]).set("registry", "http = [\"127.0.0.1:7000\"]").set("registry", "hostname = \"images.lan\"");
    proxy.reload(&setup);
    assert_eq!(ping("images.lan:5000").await.status, 200, "the name is swapped");
    for host in ["images.lan:7000", "docker-registry.local:7000"] {
        assert_ne!(ping(host).await.status, 200, "{host}");
    }
}
