use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use entrepot_config::from_text;
use entrepot_config::ready::LiveConfig;
use http::header::WWW_AUTHENTICATE;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::*;
use crate::credential::Login;
use crate::own::Ourselves;
use crate::testing::{listener, upstream};
use crate::upstream_registry::account;

/// The requests that a registry got: each path with its query, and the scheme of its `Authorization`.
type Seen = Arc<Mutex<Vec<String>>>;

/// A plain registry with its own token server, which `answer` plays.
async fn registry(answer: fn(&str, &str) -> StatusCode) -> (RegistryHost, Seen) {
    let (listener, address) = listener().await;
    let (host, seen) = (crate::testing::host_of(address), Seen::default());
    let seeing = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seeing.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path_and_query().expect("a path").as_str().to_owned();
                let sent = request.headers().get(AUTHORIZATION).map_or("", |value| value.to_str().expect("text"));
                let scheme = sent.split(' ').next().unwrap_or_default().to_owned();
                seen.lock().expect("no panic").push(format!("{path} {scheme}"));
                let status = answer(&path, &scheme);
                let challenge = match path.starts_with("/basic") {
                    true => "Basic realm=\"x\"".to_owned(),
                    false => format!("Bearer realm=\"http://{address}/token\""),
                };
                let response = http::Response::builder().status(status).header(WWW_AUTHENTICATE, challenge);
                let response = response.body(Full::new(Bytes::from_static(br#"{"token":"t"}"#)));
                async move { Ok::<_, Infallible>(response.expect("a response")) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (host, seen)
}

fn client() -> RegistryClient {
    let memory = UpstreamMemory::new(Arc::new(Metrics::new()), HeaderValue::from_static("1.1 test"));
    RegistryClient::new(HttpClient::new(&upstream(), &[], &Ourselves::default()), Arc::new(memory))
}

fn configured(host: &RegistryHost) -> LiveConfig {
    let text = format!(
        "[registries.\"{host}\"]\nscheme = \"http\"\n\
         [[credentials]]\nregistry = \"http://{host}\"\nusername = \"a\"\npassword = \"b\"\n"
    );
    from_text(&text).expect("configuration").live
}

fn blob(repository: &str) -> Operation {
    let digest = Digest::of(entrepot_core::digest::Algorithm::Sha256, b"");
    Operation::blob(Method::GET, &repository.parse().expect("a name"), &digest, None)
}

/// Asks for a blob with the administrator's account. Returns the status, and whether the account is left out now.
async fn ask(client: &RegistryClient, host: &RegistryHost, operation: &Operation, of_realm: bool) -> (u16, bool) {
    let config = configured(host);
    let registry = UpstreamRegistry::resolve(&config, host, None);
    let login = Login::of_account(account(&config, &registry.origin, None).expect("an account"), of_realm);
    let id = login.id();
    let answer = client.execute(&registry, operation, &Credential::Answered(Some(login))).await.expect("an answer");
    (answer.status.as_u16(), client.memory.refused_accounts.has(&registry.origin, id))
}

/// A token server that fails is reached well, so the network is not to blame. One that limits is answered with its 429.
#[tokio::test]
async fn a_token_server_in_trouble_is_named_with_its_status() {
    let answered = async |answer: fn(&str, &str) -> StatusCode| {
        let (host, _) = registry(answer).await;
        let config = configured(&host);
        let registry = UpstreamRegistry::resolve(&config, &host, None);
        client().execute(&registry, &blob("a/b"), &Credential::Answered(None)).await
    };
    let failing = answered(|path, _| match path.starts_with("/token") {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::UNAUTHORIZED,
    });
    let error = failing.await.map(|_| ()).expect_err("no token");
    let text = error.to_string();
    assert!(text.contains("answered 503 Service Unavailable") && text.contains("token server"), "{text}");
    assert!(!text.contains("DNS"), "{text}");
    assert_eq!(failure_of(&error), UpstreamOutcome::ServerError, "{text}");
    assert!(error.is_retryable() && !error.is_timeout() && !error.is_ours(), "{text}");
    let limiting = answered(|path, _| match path.starts_with("/token") {
        true => StatusCode::TOO_MANY_REQUESTS,
        false => StatusCode::UNAUTHORIZED,
    });
    assert_eq!(limiting.await.expect("the token server's own answer").status, StatusCode::TOO_MANY_REQUESTS);
}

/// Clients choose the repository, so a token server that refuses one of them says nothing about the account.
#[tokio::test]
async fn a_refused_repository_is_no_refused_account() {
    let answer = |path: &str, scheme: &str| match path {
        _ if path.contains("secret") => StatusCode::FORBIDDEN,
        _ if path.starts_with("/token") || scheme == "Bearer" => StatusCode::OK,
        _ => StatusCode::UNAUTHORIZED,
    };
    let (host, seen) = registry(answer).await;
    let client = client();
    // The challenge comes from a repository that is not secret.
    assert_eq!(ask(&client, &host, &blob("team/app"), false).await, (200, false));
    for _ in 0..3 {
        assert_eq!(ask(&client, &host, &blob("team/secret"), false).await, (403, false));
    }
    assert_eq!(ask(&client, &host, &blob("team/app"), false).await, (200, false));
    let is_unscoped = |seen: &&String| seen.starts_with("/token") && !seen.contains("scope=");
    let unscoped = seen.lock().expect("no panic").iter().filter(is_unscoped).count();
    assert_eq!(unscoped, 3, "each refusal has the account tried without the repository");
}

#[tokio::test]
async fn an_account_that_gets_no_token_at_all_is_refused() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
        let answer = match status {
            StatusCode::UNAUTHORIZED => |_: &str, _: &str| StatusCode::UNAUTHORIZED,
            _ => |path: &str, _: &str| match path.starts_with("/token") {
                true => StatusCode::FORBIDDEN,
                false => StatusCode::UNAUTHORIZED,
            },
        };
        let (host, _) = registry(answer).await;
        assert_eq!(ask(&client(), &host, &blob("team/app"), false).await, (401, true), "{status}");
    }
}

/// A registry that asks for a password gets none that was given for its token server, and so has refused none.
#[tokio::test]
async fn an_account_of_the_token_server_is_not_sent_to_the_registry() {
    let (host, seen) = registry(|_, _| StatusCode::UNAUTHORIZED).await;
    let operation = Operation::relay(Method::GET, "/basic".into(), &HeaderMap::new(), None);
    assert_eq!(ask(&client(), &host, &operation, true).await, (401, false));
    assert_eq!(*seen.lock().expect("no panic"), ["/basic "]);
    assert_eq!(ask(&client(), &host, &operation, false).await, (401, true));
    assert_eq!(seen.lock().expect("no panic").last().expect("asked"), "/basic Basic");
}
