//! The administrator's account: clients without a login pull with it, and no client sees it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;

use crate::harness::{Answer, Image, Proxy, Setup, TokenServer, Upstream};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn private(token_auth: bool) -> (Upstream, Image) {
    let upstream = Upstream::start().await;
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    if token_auth {
        let server = TokenServer::protect(&upstream);
        server.allow("robot", "team/app");
        server.allow("alice", "team/app");
    } else {
        let (robot, alice) = (basic("robot", "robot-password"), basic("alice", "alice-password"));
        upstream.guard(move |seen| {
            let known = [&robot, &alice].iter().any(|known| *known == seen.header("authorization"));
            (!known).then(|| Answer::json(401, "{}").header("www-authenticate", "Basic realm=\"fake\""))
        });
    }
    (upstream, image)
}

async fn pulls(proxy: &Proxy, upstream: &Upstream, image: &Image) {
    proxy.get(upstream, &image.tag_path("1")).send().await.is_whole(&image.manifest);
    proxy.get(upstream, &image.manifest_path()).send().await.is_whole(&image.manifest);
    proxy.get(upstream, &image.layer_path()).send().await.is_whole(&image.layer);
    proxy.landed().await;
}

#[tokio::test]
async fn a_client_without_a_login_pulls_a_private_image() {
    for token_auth in [false, true] {
        let (upstream, image) = private(token_auth).await;
        let proxy = Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password").start().await;
        pulls(&proxy, &upstream, &image).await;
        pulls(&proxy, &upstream, &image).await;
        assert_eq!(upstream.count(&Method::GET, &image.layer_path()), 1);
        if token_auth {
            assert_eq!(upstream.count(&Method::GET, "/token"), 1, "one token does for one repository");
        }
        upstream.stop().await;
        pulls(&proxy, &upstream, &image).await;
    }
}

#[tokio::test]
async fn the_clients_own_login_wins() {
    let (upstream, image) = private(true).await;
    let proxy = Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password").start().await;
    let reply = proxy.get(&upstream, &image.tag_path("1")).bearer("token-of-alice").send().await;
    reply.is_whole(&image.manifest);
    assert!(upstream.seen().iter().all(|seen| seen.header("authorization") == "Bearer token-of-alice"));
}

#[tokio::test]
async fn a_login_that_upstream_refuses_falls_back_where_access_is_shared() {
    for (access, status) in [("shared", 200), ("strict", 401)] {
        let (upstream, image) = private(true).await;
        let setup = Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password");
        let proxy = setup.set(&Setup::registry(&upstream), &format!("access = \"{access}\"")).start().await;
        for _ in 0..2 {
            for path in [image.tag_path("1"), image.layer_path(), image.manifest_path()] {
                let reply = proxy.get(&upstream, &path).bearer("token-of-mallory").send().await;
                assert_eq!(reply.status, status, "{access} {path}");
            }
            let none = proxy.get(&upstream, &image.tag_path("1")).send().await;
            assert_eq!(none.status, status, "{access}, no login");
        }
    }
}

#[tokio::test]
async fn the_challenge_leads_to_our_own_tokens_and_logins_still_count() {
    let (upstream, image) = private(true).await;
    let proxy = Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password").start().await;
    let ping = proxy.get(&upstream, "/v2/").send().await;
    let challenge = ping.header("www-authenticate");
    assert_eq!(ping.status, 401);
    assert!(challenge.contains(&format!("http://{}/entrepot/token", upstream.host())), "{challenge}");
    assert_eq!(upstream.seen()[0].header("authorization"), "", "no Basic on /v2/: clients would skip tokens then");
    let path = "/entrepot/token?service=fake&scope=repository:team/app:pull";
    let none = proxy.get(&upstream, path).send().await;
    let alice = proxy.get(&upstream, path).basic("alice", "alice-password").send().await;
    let wrong = proxy.get(&upstream, path).basic("alice", "wrong").send().await;
    assert_eq!((none.status, alice.status, wrong.status), (200, 200, 401));
    assert!(alice.text().contains("token-of-alice") && !none.text().contains("token-of"), "{}", none.text());
    let token: serde_json::Value = serde_json::from_slice(&none.body).expect("JSON");
    let token = token["token"].as_str().expect("a token");
    let reply = proxy.get(&upstream, &image.tag_path("1")).bearer(token).send().await;
    reply.is_whole(&image.manifest);
}

#[tokio::test]
async fn two_accounts_of_one_registry_by_repository() {
    let upstream = Upstream::start().await;
    let (one, two) = (Image::new("red/app", 1), Image::new("blue/app", 2));
    let server = TokenServer::protect(&upstream);
    for (image, user) in [(&one, "red"), (&two, "blue")] {
        image.publish(&upstream, "1");
        server.allow(user, &image.repository);
    }
    let setup = Setup::of(&[&upstream])
        .set("[credentials]", &format!("registry = \"{}\"\nrepository = \"red/*\"", upstream.host()))
        .set("[credentials]", "username = \"red\"\npassword = \"red-password\"\n[[credentials]]")
        .set("[credentials]", &format!(" registry = \"{}\"\n repository = \"blue/*\"", upstream.host()))
        .set("[credentials]", " username = \"blue\"\n password = \"blue-password\"");
    let proxy = setup.start().await;
    for image in [&one, &two] {
        pulls(&proxy, &upstream, image).await;
    }
    let third = Image::new("green/app", 3);
    third.publish(&upstream, "1");
    assert_eq!(proxy.get(&upstream, &third.tag_path("1")).send().await.status, 401, "no account is for it");
}

#[tokio::test]
async fn a_realm_that_is_not_the_registrys_gets_no_login() {
    let (upstream, thief) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("team/app", 1);
    image.publish(&upstream, "1");
    let realm = format!("Bearer realm=\"{}\",service=\"fake\"", thief.url("/token"));
    upstream.guard(move |seen| {
        let refusal = Answer::json(401, "{}").header("www-authenticate", &realm);
        (!seen.header("authorization").starts_with("Basic")).then_some(refusal)
    });
    thief.on("/token", |_| Answer::json(200, r#"{"token":"stolen"}"#));
    let proxy = Setup::of(&[&upstream]).account(&upstream, "robot", "robot-password").start().await;
    let reply = proxy.get(&upstream, &image.tag_path("1")).send().await;
    assert!(reply.status >= 400, "{}", reply.status);
    assert!(thief.seen().iter().all(|seen| seen.header("authorization").is_empty()));
    let path = "/entrepot/token?service=fake&scope=repository:team/app:pull";
    proxy.get(&upstream, path).basic("alice", "alice-password").send().await;
    assert!(thief.seen().iter().all(|seen| seen.header("authorization").is_empty()));
}

#[tokio::test]
async fn a_push_uses_the_account_only_where_it_was_given_for_that_and_access_is_shared() {
    for (access, push, status) in [("shared", true, 202), ("shared", false, 401), ("strict", true, 401)] {
        let (upstream, _) = private(false).await;
        upstream.on("/v2/team/app/blobs/uploads/", |_| Answer::status(202).header("location", "/v2/x"));
        let proxy = Setup::of(&[&upstream])
            .account(&upstream, "robot", "robot-password")
            .set("[credentials]", &format!("push = {push}"))
            .set(&Setup::registry(&upstream), &format!("access = \"{access}\""))
            .set("proxy", "allow_push = true")
            .start()
            .await;
        let pushed = || proxy.ask(Method::POST, &upstream, "/v2/team/app/blobs/uploads/");
        assert_eq!(pushed().send().await.status, status, "{access}, push = {push}");
        assert_eq!(pushed().basic("alice", "alice-password").send().await.status, 202, "{access}, own login");
    }
}

/// GitLab beside its registry: the account is for the host that gives out the tokens, and goes to no other place.
#[tokio::test]
async fn an_account_of_the_token_server_beside_a_registry_pulls_from_that() {
    let (registry, git) = (Upstream::start().await, Upstream::start().await);
    let image = Image::new("group/app", 1);
    image.publish(&registry, "1");
    let realm = git.url("/jwt/auth");
    registry.guard(move |seen| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"container_registry\"");
        let refusal = Answer::json(401, "{}").header("www-authenticate", &challenge);
        (seen.header("authorization") != "Bearer gitlabs").then_some(refusal)
    });
    let account = basic("robot", "robot-password");
    git.on("/jwt/auth", move |seen| match seen.header("authorization") == account {
        true => Answer::json(200, r#"{"token":"gitlabs"}"#),
        false => Answer::json(403, "{}"),
    });
    let proxy = Setup::of(&[&registry, &git]).account(&git, "robot", "robot-password").start().await;
    let ping = proxy.get(&registry, "/v2/").send().await;
    assert!(ping.header("www-authenticate").contains("/entrepot/token"), "{}", ping.header("www-authenticate"));
    pulls(&proxy, &registry, &image).await;
    assert_eq!(git.count(&Method::GET, "/jwt/auth"), 1);
    assert!(registry.seen().iter().all(|seen| !seen.header("authorization").starts_with("Basic")));
    assert_eq!(git.seen()[0].query, "service=container_registry&scope=repository%3Agroup%2Fapp%3Apull");
}
