use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use entrepot_config::from_text;
use entrepot_config::ready::Upstream;
use entrepot_core::name::RepositoryName;
use entrepot_observe::metrics::Metrics;
use http::header::LOCATION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::*;
use crate::credential::Credential;
use crate::http_client::HttpClient;
use crate::own::Ourselves;
use crate::registry_client::UpstreamMemory;
use crate::testing::{Identity, acceptor, listener, signed, upstream};

type Sent = Response<Full<Bytes>>;
type Play = Arc<dyn Fn(&str, &str) -> Sent + Send + Sync>;

/// A host that answers as a test says. It records each path with its query, and the whole `Authorization`.
struct Fake {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// `play` is given the request's path and query, and its `Authorization`.
    async fn start(identity: Option<&Identity>, make: impl FnOnce(SocketAddr) -> Play) -> Self {
        let (listener, address) = listener().await;
        let (seen, play) = (Arc::<Mutex<Vec<String>>>::default(), make(address));
        let (seeing, acceptor) = (seen.clone(), identity.map(|identity| acceptor(identity, &[])));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, play) = (seeing.clone(), play.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path_and_query().expect("a path").as_str().to_owned();
                    let sent = request.headers().get(AUTHORIZATION).map_or("", |value| value.to_str().expect("text"));
                    seen.lock().expect("no panic").push(format!("{path} {sent}"));
                    let answer = play(&path, sent);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                // The client notices if the connection breaks.
                match &acceptor {
                    None => drop(tokio::spawn(server.serve_connection(TokioIo::new(stream), service))),
                    Some(acceptor) => {
                        let Ok(stream) = acceptor.accept(stream).await else { continue };
                        drop(tokio::spawn(server.serve_connection(TokioIo::new(stream), service)));
                    }
                }
            }
        });
        Self { address, seen }
    }

    /// The requests since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().expect("no panic"))
    }
}

fn status(status: u16) -> Sent {
    Response::builder().status(status).body(Full::default()).expect("a response")
}

fn with(mut sent: Sent, name: http::HeaderName, value: &str) -> Sent {
    sent.headers_mut().insert(name, HeaderValue::from_str(value).expect("a value"));
    sent
}

fn challenge(text: &str) -> Sent {
    with(status(401), WWW_AUTHENTICATE, text)
}

fn token(name: &str) -> Sent {
    Response::new(Full::new(format!(r#"{{"token":"{name}"}}"#).into()))
}

/// A client, and a registry at the fake's address with an account.
struct Setting {
    client: RegistryClient,
    registry: UpstreamRegistry,
    login: Login,
}

impl Setting {
    fn of(fake: &Fake, identity: Option<&Identity>) -> Self {
        let scheme = if identity.is_some() { "https" } else { "http" };
        let config = from_text(&format!("[registries.\"{}\"]\nscheme = \"{scheme}\"\n", fake.address));
        let host = fake.address.to_string().parse().expect("a host");
        let registry = UpstreamRegistry::resolve(&config.expect("configuration").live, &host, None);
        let extra_roots = identity.map(|identity| identity.root.clone()).into_iter().collect();
        let client = HttpClient::new(&Upstream { extra_roots, ..upstream() }, &[], &Ourselves::default());
        let memory = UpstreamMemory::new(Arc::new(Metrics::new()), HeaderValue::from_static("1.1 test"));
        let login = Login::new("a", &Secret::new("b"));
        Self { client: RegistryClient::new(client, Arc::new(memory)), registry, login }
    }

    async fn ask(&self) -> Result<u16, UpstreamError> {
        let repository: RepositoryName = "team/app".parse().expect("a name");
        let operation =
            Operation::relay(Method::GET, "/v2/team/app/tags/list".into(), &HeaderMap::new(), Some(repository));
        let credential = Credential::Answered(Some(self.login.clone()));
        let answer = self.client.execute(&self.registry, &operation, &credential).await?;
        Ok(answer.status.as_u16())
    }
}

const OWN: &str = "repository:team/app:pull";

/// The `scope` of a challenge, and the scopes that the token server is asked for.
#[tokio::test]
async fn the_scope_of_the_challenge_is_asked_for() {
    let long = format!("repository:{}:pull", "a".repeat(SCOPE_MAX_BYTES));
    for (told, asked) in [
        (Some("repository:real/app:pull"), &["repository:real/app:pull"][..]),
        (Some("repository:Real/App:pull"), &["repository:Real/App:pull"]),
        (Some("repository:real/app:pull,push"), &["repository:real/app:pull,push"]),
        (Some("repository:real/app:pull registry:catalog:*"), &["repository:real/app:pull", "registry:catalog:*"]),
        (Some(" repository:real/app:pull  "), &["repository:real/app:pull"]),
        (Some("aud=team&x"), &["aud=team&x"]),
        (Some(OWN), &[OWN]),
        (Some(""), &[OWN]),
        (None, &[OWN]),
        (Some(&long), &[OWN]),
    ] {
        let scope = told.map(|told| format!(",scope=\"{told}\"")).unwrap_or_default();
        let fake = Fake::start(None, |address| {
            Arc::new(move |path, sent| match (path.starts_with("/token"), sent) {
                (true, _) => token("t"),
                (false, "Bearer t") => status(200),
                _ => challenge(&format!("Bearer realm=\"http://{address}/token\",service=\"s\"{scope}")),
            })
        });
        let fake = fake.await;
        let setting = Setting::of(&fake, None);
        assert_eq!(setting.ask().await.expect("an answer"), 200, "{told:?}");
        let seen = fake.take();
        let url = Url::parse(&format!("http://x{}", seen[1].split(' ').next().expect("a path"))).expect("a URL");
        let scopes: Vec<_> = url.query_pairs().filter(|(name, _)| name == "scope").map(|(_, value)| value).collect();
        assert_eq!((seen.len(), scopes), (3, asked.iter().map(|scope| (*scope).into()).collect()), "{seen:?}");
        // The next request needs no challenge.
        assert_eq!(setting.ask().await.expect("an answer"), 200);
        assert_eq!(fake.take(), ["/v2/team/app/tags/list Bearer t"], "{told:?}");
    }
}

/// A registry answers a token that it does not take with a challenge that names another token server. `/a` and `/b` give
/// the tokens a and b.
#[tokio::test]
async fn a_second_realm_is_asked_only_if_nothing_else_helps() {
    /// The realm for requests without a token, the one for a token of `/a`, and the tokens that are taken.
    type Case = (&'static str, &'static str, &'static [&'static str], u16, &'static [&'static str]);
    let cases: [Case; 5] = [
        // The token in memory is over. Without a token the registry names its token server.
        ("/a", "/b", &["a2"], 200, &["v2 a1", "v2 -", "/a", "v2 a2"]),
        // The registry moved to another token server.
        ("/b", "/b", &["b1"], 200, &["v2 a1", "v2 -", "/b", "v2 b1"]),
        // It takes no token of the server that it names first.
        ("/a", "/b", &["b1"], 200, &["v2 a1", "v2 -", "/a", "v2 a2", "/b", "v2 b1"]),
        // The same token server: one fresh token.
        ("/a", "/a", &["a2"], 200, &["v2 a1", "/a", "v2 a2"]),
        // It takes none at all.
        ("/a", "/a", &[], 401, &["v2 a1", "/a", "v2 a2"]),
    ];
    for (first, second, taken, expected, requests) in cases {
        let is_over = Arc::new(Mutex::new(false));
        let over = is_over.clone();
        let fake = Fake::start(None, |address| {
            let counts = Mutex::new([0, 0]);
            Arc::new(move |path, sent| {
                let realm = |path: &str| format!("Bearer realm=\"http://{address}{path}\",scope=\"{OWN}\"");
                if let Some(at) = ["/a", "/b"].iter().position(|realm| path.starts_with(&format!("{realm}?"))) {
                    let mut counts = counts.lock().expect("no panic");
                    counts[at] += 1;
                    return token(&format!("{}{}", ["a", "b"][at], counts[at]));
                }
                let over = *over.lock().expect("no panic");
                match sent.strip_prefix("Bearer ") {
                    Some("a1") if !over => status(200),
                    Some(token) if over && taken.contains(&token) => status(200),
                    Some(_) => challenge(&format!("{},error=\"invalid_token\"", realm(second))),
                    None if over => challenge(&realm(first)),
                    None => challenge(&realm("/a")),
                }
            })
        });
        let fake = fake.await;
        let setting = Setting::of(&fake, None);
        assert_eq!(setting.ask().await.expect("an answer"), 200);
        fake.take();
        *is_over.lock().expect("no panic") = true;
        assert_eq!(setting.ask().await.expect("an answer"), expected, "{first} {second} {taken:?}");
        let seen = fake.take().into_iter().map(|seen| match seen.split_once(' ').expect("two words") {
            (path, "") if path.starts_with("/v2/") => "v2 -".to_owned(),
            (path, sent) if path.starts_with("/v2/") => format!("v2 {}", sent.trim_start_matches("Bearer ")),
            (path, _) => path.split('?').next().expect("a path").to_owned(),
        });
        assert_eq!(seen.collect::<Vec<_>>(), requests, "{first} {second} {taken:?}");
    }
}

/// A registry that asks for another token each time is asked a few times, and then its refusal is the answer.
#[tokio::test]
async fn a_registry_that_is_never_content_is_left() {
    let fake = Fake::start(None, |address| {
        let count = Mutex::new(0);
        Arc::new(move |path, _| {
            if path.starts_with("/token") {
                return token(&path.replace('/', "-"));
            }
            let mut count = count.lock().expect("no panic");
            *count += 1;
            challenge(&format!("Bearer realm=\"http://{address}/token{count}\",error=\"invalid_token\""))
        })
    });
    let fake = fake.await;
    assert_eq!(Setting::of(&fake, None).ask().await.expect("an answer"), 401);
    assert!(fake.take().len() <= 2 * ANSWERS_MAX + 1);
}

/// Where a token server redirects to, whether that is followed, and whether it tells a login to somebody else.
#[tokio::test]
async fn redirects_of_a_token_server_are_followed_on_its_own_origin() {
    let other = Fake::start(None, |_| Arc::new(|_, _| token("stolen"))).await;
    for code in [301, 302, 303, 307, 308] {
        for (location, is_followed) in [
            ("/jwt/auth", true),
            ("jwt/auth", true),
            ("http://SELF/jwt/auth?account=x", true),
            ("/loop", false),
            ("http://OTHER/jwt/auth", false),
            ("//OTHER/jwt/auth", false),
            ("http://user@SELF/jwt/auth", false),
            ("http://user:secret@SELF/jwt/auth", false),
            ("https://SELF/jwt/auth", false),
            ("ftp://SELF/jwt/auth", false),
            ("http://", false),
        ] {
            let target = location.replace("OTHER", &other.address.to_string());
            let fake = Fake::start(None, |address| {
                let target = target.replace("SELF", &address.to_string());
                Arc::new(move |path, sent| match (path.split('?').next().unwrap_or_default(), sent) {
                    ("/token", _) => with(status(code), LOCATION, &target),
                    ("/loop", _) => with(status(code), LOCATION, "/loop"),
                    ("/jwt/auth", "Basic YTpi") => token("t"),
                    ("/v2/team/app/tags/list", "Bearer t") => status(200),
                    ("/v2/team/app/tags/list", _) => challenge(&format!("Bearer realm=\"http://{address}/token\"")),
                    _ => status(403),
                })
            });
            let fake = fake.await;
            let setting = Setting::of(&fake, None);
            let answer = setting.ask().await;
            assert_eq!(answer.is_ok_and(|status| status == 200), is_followed, "{code} {location}");
            assert_eq!(other.take(), [""; 0], "{code} {location}");
            assert!(!setting.client.memory.refused_accounts.has(&setting.registry.origin, setting.login.id()));
        }
    }
}

/// The realms that an https registry names, and whether its account is sent there: always by https.
#[tokio::test]
async fn a_token_server_that_calls_itself_http_is_asked_by_https() {
    let identity = signed();
    let plain = Fake::start(None, |_| Arc::new(|_, _| token("stolen"))).await;
    for (realm, is_asked) in [
        ("http://SELF/token", true),
        ("https://SELF/token", true),
        ("HTTP://SELF/token", true),
        ("http://OTHER/token", false),
    ] {
        let realm = realm.replace("OTHER", &plain.address.to_string());
        let fake = Fake::start(Some(&identity), |address| {
            let realm = realm.replace("SELF", &address.to_string());
            Arc::new(move |path, sent| match (path.starts_with("/token"), sent) {
                // A redirect to the same place as http is to the same place.
                (true, "Basic YTpi") if path.starts_with("/token/") => token("t"),
                (true, "Basic YTpi") => with(status(301), LOCATION, &format!("http://{address}/token/")),
                (false, "Bearer t") => status(200),
                _ => challenge(&format!("Bearer realm=\"{realm}\"")),
            })
        });
        let fake = fake.await;
        let answer = Setting::of(&fake, Some(&identity)).ask().await;
        assert_eq!(answer.expect("an answer"), if is_asked { 200 } else { 401 }, "{realm}");
        assert_eq!(plain.take(), [""; 0], "{realm}");
    }
}

/// Keeps the warnings as text.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("no panic").push(text.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_token_server_that_is_not_trusted_is_one_warning_that_names_the_knob() {
    let warnings = Warnings::default();
    let _subscribed = tracing::subscriber::set_default(warnings.clone());
    let other = Fake::start(None, |_| Arc::new(|_, _| token("stolen"))).await;
    let realm = format!("http://{}/token", other.address);
    let fake = Fake::start(None, |_| Arc::new(move |_, _| challenge(&format!("Bearer realm=\"{realm}\"")))).await;
    let setting = Setting::of(&fake, None);
    for _ in 0..3 {
        assert_eq!(setting.ask().await.expect("an answer"), 401);
    }
    assert_eq!(other.take(), [""; 0]);
    let knob = format!("registries.\"{}\".realm = \"{}\"", fake.address, other.address);
    let told = warnings.0.lock().expect("no panic").clone();
    assert!(matches!(&told[..], [one] if one.contains(&knob)), "{told:?}");
}
