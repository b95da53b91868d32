//! Access control from the headers of a request to the decision.

use std::fs;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use tempfile::TempDir;

use super::policy::tests::{open, rule};
use super::users::tests::write;
use super::*;
use entrepot_net::http::body::ReplyBody;
use entrepot_net::http::reply::Reply;

struct Place {
    folder: TempDir,
    access: AccessControl,
}

/// Alice and Bob have accounts; `change` sets the rest of the configuration.
fn place(change: impl FnOnce(&mut Rights)) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("htpasswd");
    write(&path, &[("alice", "canary-a"), ("bob", "canary-b")]);
    let mut rights = Rights { htpasswd: Some(path), ..open() };
    change(&mut rights);
    Place { access: AccessControl::open(Arc::new(rights), folder.path()).unwrap(), folder }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

type Sent = Option<Secret>;

fn with(authorization: &str) -> Sent {
    Some(Secret::new(authorization))
}

fn basic(account: &str, password: &str) -> Sent {
    with(&format!("Basic {}", STANDARD.encode(format!("{account}:{password}"))))
}

fn json(reply: &Reply) -> serde_json::Value {
    let ReplyBody::Full(body) = &reply.body else { panic!("a whole body") };
    serde_json::from_slice(body).unwrap()
}

fn client() -> ClientKey {
    ClientKey::of([192, 0, 2, 1].into())
}

impl Place {
    async fn bearer(&self, sent: &Sent, query: &str) -> Sent {
        let reply = self.access.token(client(), &Method::GET, Some(query), sent.as_ref(), b"").await;
        assert_eq!(reply.status, StatusCode::OK);
        with(&format!("Bearer {}", json(&reply)["token"].as_str().unwrap()))
    }

    /// The decision about an action, in one word.
    async fn outcome(&self, sent: &Sent, action: Action, repository: &str) -> &'static str {
        let decided = match self.access.identify(client(), sent.as_ref()).await {
            Ok(visitor) => self.access.may(&visitor, &Wish::In(&name(repository), action)),
            Err(refusal) => Err(refusal),
        };
        match decided {
            Ok(()) => "yes",
            Err(AccessRefusal::Unauthenticated { .. }) => "login",
            Err(AccessRefusal::WrongLogin) => "wrong",
            Err(AccessRefusal::InsufficientScope { .. }) => "scope",
            Err(AccessRefusal::Denied { .. }) => "denied",
            Err(AccessRefusal::ReadOnly) => "read-only",
            Err(other) => panic!("{other}"),
        }
    }
}

/// Every kind of caller × action × repository (T14 in docs/threats.md).
#[tokio::test]
async fn callers_actions_and_repositories() {
    let place = place(|rights| {
        rights.anonymous = Action::Pull.into();
        rights.rules = vec![
            rule("team/*", &["alice"], "pull,push"),
            rule("team/*", &["bob"], "pull"),
            rule("secret", &["alice"], "*"),
        ];
    });
    let (nobody, alice, bob) = (None, basic("alice", "canary-a"), basic("bob", "canary-b"));
    let anonymous_token = place.bearer(&nobody, "scope=repository:free:pull,push").await;
    let alices_token = place.bearer(&alice, "service=entrepot&scope=repository:team/app:pull,push").await;
    let bobs_token = place.bearer(&bob, "scope=repository:team/app:pull,push").await;
    let (wrong, unknown) = (basic("alice", "canary-b"), basic("carol", "canary-a"));
    let forged = with("Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.AAAA");
    for (who, sent, expected) in [
        // pull, push and delete of each: free, team/app, secret
        ("nobody", &nobody, "yes login login | login login login | login login login"),
        ("alice", &alice, "yes yes yes | yes yes denied | yes yes yes"),
        ("bob", &bob, "yes yes yes | yes denied denied | denied denied denied"),
        ("anonymous token", &anonymous_token, "yes login login | login login login | login login login"),
        ("alice's token", &alices_token, "scope scope scope | yes yes denied | scope scope scope"),
        ("bob's token", &bobs_token, "scope scope scope | yes denied denied | denied denied denied"),
        ("wrong", &wrong, "wrong wrong wrong | wrong wrong wrong | wrong wrong wrong"),
        ("unknown", &unknown, "wrong wrong wrong | wrong wrong wrong | wrong wrong wrong"),
        ("forged", &forged, "wrong wrong wrong | wrong wrong wrong | wrong wrong wrong"),
    ] {
        let mut rows = Vec::new();
        for repository in ["free", "team/app", "secret"] {
            let mut words = Vec::new();
            for action in Action::ALL {
                words.push(place.outcome(sent, action, repository).await);
            }
            rows.push(words.join(" "));
        }
        assert_eq!(rows.join(" | "), expected, "{who}");
    }
}

#[tokio::test]
async fn the_first_question_tells_whether_to_log_in() {
    let nobody = None;
    for (anonymous, without, with_token) in [
        (Actions::ALL, "yes", Some("yes")),
        (Action::Pull.into(), "login", Some("yes")),
        (Actions::NONE, "login", None),
    ] {
        let place = place(|rights| rights.anonymous = anonymous);
        let pinged = |visitor: Result<Visitor, AccessRefusal>| match visitor
            .and_then(|visitor| place.access.may(&visitor, &Wish::Ping))
        {
            Ok(()) => "yes",
            Err(AccessRefusal::Unauthenticated { scope: None }) => "login",
            Err(other) => panic!("{other}"),
        };
        assert_eq!(pinged(place.access.identify(client(), nobody.as_ref()).await), without, "{anonymous}");
        let given = place.access.token(client(), &Method::GET, None, None, b"").await;
        assert_eq!(given.status == StatusCode::OK, with_token.is_some(), "{anonymous}");
        if let Some(expected) = with_token {
            let token = place.bearer(&nobody, "").await;
            assert_eq!(pinged(place.access.identify(client(), token.as_ref()).await), expected, "{anonymous}");
        }
        assert_eq!(pinged(place.access.identify(client(), basic("bob", "canary-b").as_ref()).await), "yes");
    }
}

#[tokio::test]
async fn without_accounts_logins_are_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let access = AccessControl::open(Arc::new(Rights { anonymous: Actions::PULL, ..open() }), folder.path()).unwrap();
    for sent in [None, basic("alice", "canary-a"), with("Bearer x"), with("Digest x")] {
        let visitor = access.identify(client(), sent.as_ref()).await.unwrap();
        assert_eq!(visitor, Visitor::anonymous());
        assert!(
            access.may(&visitor, &Wish::Ping).is_ok()
                && access.may(&visitor, &Wish::In(&name("a"), Action::Pull)).is_ok()
        );
        let denied = access.may(&visitor, &Wish::In(&name("a"), Action::Push));
        assert!(matches!(denied, Err(AccessRefusal::Denied { .. })), "there is no account to log in with");
    }
}

#[tokio::test]
async fn a_token_never_gives_more_than_the_account_has_now() {
    let mut place = place(|rights| rights.anonymous = Actions::NONE);
    let token = place.bearer(&basic("bob", "canary-b"), "scope=repository:team/app:*").await;
    assert_eq!(place.outcome(&token, Action::Push, "team/app").await, "yes");
    let path = place.access.rights.htpasswd.clone();
    let stricter = Rights {
        anonymous: Actions::NONE,
        htpasswd: path.clone(),
        rules: vec![rule("team/*", &["alice"], "*")],
        ..open()
    };
    place.access = place.access.renewed(Arc::new(stricter));
    assert_eq!(place.outcome(&token, Action::Push, "team/app").await, "denied", "the rules changed");
    write(&path.unwrap(), &[("alice", "canary-a")]);
    place.access.users.as_ref().unwrap().look_now();
    assert_eq!(place.outcome(&token, Action::Pull, "team/app").await, "wrong", "the account is gone");
    assert!(fs::metadata(place.folder.path().join("registry-token.key")).is_ok());
}

#[tokio::test]
async fn read_only_is_for_everybody() {
    let place = place(|rights| rights.read_only = true);
    let alice = basic("alice", "canary-a");
    for (action, expected) in [(Action::Pull, "yes"), (Action::Push, "read-only"), (Action::Delete, "read-only")] {
        assert_eq!(place.outcome(&alice, action, "a").await, expected);
        assert_eq!(place.outcome(&None, action, "a").await, expected);
    }
}

#[tokio::test]
async fn lists_need_a_scope_and_hide_what_is_not_readable() {
    let place = place(|rights| rights.rules = vec![rule("secret", &["alice"], "pull")]);
    let bob = basic("bob", "canary-b");
    let visitor = place.access.identify(client(), bob.as_ref()).await.unwrap();
    assert!(place.access.may(&visitor, &Wish::Catalog).is_ok());
    assert!(place.access.may_see(&visitor, &name("a")) && !place.access.may_see(&visitor, &name("secret")));
    let narrow =
        place.access.identify(client(), place.bearer(&bob, "scope=repository:a:pull").await.as_ref()).await.unwrap();
    assert_eq!(
        place.access.may(&narrow, &Wish::Catalog),
        Err(AccessRefusal::InsufficientScope { scope: Scope::Catalog })
    );
    let wide =
        place.access.identify(client(), place.bearer(&bob, "scope=registry:catalog:*").await.as_ref()).await.unwrap();
    assert!(place.access.may(&wide, &Wish::Catalog).is_ok());
}

#[tokio::test]
async fn tokens_by_form() {
    let place = place(|rights| rights.token_lifetime = Duration::from_secs(120));
    let ask = |form: &'static str| place.access.token(client(), &Method::POST, None, None, form.as_bytes());
    let good = ask("grant_type=password&username=alice&password=canary-a&scope=repository%3Aa%3Apull").await;
    assert_eq!((good.status, &json(&good)["expires_in"]), (StatusCode::OK, &serde_json::json!(120)));
    assert_eq!(good.headers["cache-control"], "no-store");
    for (form, status) in [
        ("grant_type=password&username=alice&password=canary-b", 401),
        ("grant_type=password&username=alice", 401),
        ("grant_type=refresh_token&refresh_token=x", 400),
        ("", 400),
    ] {
        assert_eq!(ask(form).await.status, status, "{form}");
    }
    let many = format!("scope={}", "repository:a:pull%20".repeat(100));
    let refused = place.access.token(client(), &Method::GET, Some(&many), None, b"").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let put = place.access.token(client(), &Method::PUT, None, None, b"").await;
    assert_eq!(put.status, StatusCode::METHOD_NOT_ALLOWED);
    let wrong = place.access.token(client(), &Method::GET, None, basic("alice", "x").as_ref(), b"").await;
    assert_eq!(
        (wrong.status, wrong.headers["www-authenticate"].to_str().unwrap()),
        (StatusCode::UNAUTHORIZED, "Basic realm=\"entrepot\"")
    );
}
