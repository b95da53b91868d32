//! The server in front of docker-registry. It asks for authentication as the real registry does, issues its tokens,
//! counts, redirects blobs and fails when told to, and passes all other requests on.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use serde_json::json;

use crate::backend::send;
use crate::ledger::{Kind, Ledger, repository_of};
use crate::serve::{Body, BoxError, full};
use crate::tokens::{Action, Rights, TOKEN_LIFETIME, random_text};
use crate::upstream::{Auth, Site};

/// The front of one registry.
pub(crate) struct Front {
    pub(crate) site: Site,
    ledger: Ledger,
    pub(crate) rights: Rights,
    port: u16,
    pub(crate) redirect: Mutex<Option<(StatusCode, &'static str)>>,
    pub(crate) failing: Mutex<Option<StatusCode>>,
}

impl Front {
    pub(crate) fn new(site: Site, ledger: Ledger, port: u16) -> Self {
        Self { site, ledger, rights: Rights::default(), port, redirect: Mutex::new(None), failing: Mutex::new(None) }
    }

    /// Answers one request, to any of the registry's names.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let kind = self.ledger.record(request.method(), &path, request.headers());
        if kind == Kind::Token {
            return self.token(request, &path).await;
        }
        let failing = *self.failing.lock().expect("no holder panics");
        if let Some(status) = failing {
            return error(status, "UNAVAILABLE");
        }
        if let Some(refusal) = self.refusal(&request, &path) {
            return refusal;
        }
        if kind == Kind::Blob && request.method() == Method::GET {
            let redirect = *self.redirect.lock().expect("no holder panics");
            if let Some((code, host)) = redirect {
                let location = format!("https://{host}/{}{path}?signature={}", self.port, random_text());
                return response(code, &[(LOCATION, location)], Bytes::new());
            }
        }
        let host = format!("{}:{}", self.site.host, self.site.port);
        forward(self.port, &path, &host, request, &self.ledger).await
    }

    /// The refusal of a request. None if it is served.
    fn refusal(&self, request: &Request<Incoming>, path: &str) -> Option<Response<Body>> {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let repository = repository_of(path);
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        let action = if reading { Action::Pull } else { Action::Push };
        match self.site.auth {
            Auth::Open => None,
            Auth::Basic => {
                let user = header.and_then(|value| self.rights.basic_user(value.strip_prefix("Basic ")?));
                let Some(user) = user else { return Some(challenge("Basic realm=\"private\"".to_owned())) };
                let allowed = repository.is_none_or(|name| self.rights.user_allows(Some(&user), name, action));
                (!allowed).then(|| error(StatusCode::FORBIDDEN, "DENIED"))
            }
            Auth::Bearer { realm, service } => {
                let token = header.and_then(|value| value.strip_prefix("Bearer "));
                let allowed = token.is_some_and(|token| match repository {
                    Some(name) => self.rights.token_allows(token, name, action),
                    None => self.rights.knows(token),
                });
                let actions = if reading { "pull" } else { "pull,push" };
                let scope =
                    repository.map(|name| format!(",scope=\"repository:{name}:{actions}\"")).unwrap_or_default();
                (!allowed).then(|| challenge(format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}")))
            }
        }
    }

    /// Both forms of the token protocol: GET with Basic, and POST of an OAuth form.
    async fn token(&self, request: Request<Incoming>, path: &str) -> Response<Body> {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let mut basic = header.and_then(|value| value.strip_prefix("Basic ")).map(str::to_owned);
        let posted = request.method() == Method::POST;
        let form = match posted {
            true => request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default(),
            false => Bytes::from(path.split_once('?').map_or(String::new(), |(_, query)| query.to_owned())),
        };
        let fields = fields(&String::from_utf8_lossy(&form));
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
        if let (true, Some(user), Some(password)) = (posted, field("username"), field("password")) {
            basic = crate::tokens::basic(user, password).strip_prefix("Basic ").map(str::to_owned);
        }
        let scopes = fields.iter().filter(|(name, _)| name == "scope");
        let scopes: Vec<String> = scopes.flat_map(|(_, value)| value.split(' ')).map(str::to_owned).collect();
        match self.rights.issue(basic.as_deref(), &scopes) {
            None => error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Some(token) => {
                let answer = json!({ "token": token, "access_token": token, "expires_in": TOKEN_LIFETIME.as_secs() });
                response(StatusCode::OK, &[(CONTENT_TYPE, "application/json".into())], answer.to_string().into())
            }
        }
    }
}

/// Passes a request on to the docker-registry on `port`.
pub(crate) async fn forward(
    port: u16,
    path: &str,
    host: &str,
    request: Request<Incoming>,
    ledger: &Ledger,
) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    parts.uri = path.parse().expect("a path that came in a request");
    parts.version = http::Version::HTTP_11;
    parts.headers.remove(AUTHORIZATION);
    parts.headers.insert(HOST, host.parse().expect("a host"));
    let is_blob = path.contains("/blobs/sha");
    let body = body.map_err(|error| Box::new(error) as BoxError).boxed();
    match send(port, Request::from_parts(parts, body)).await {
        Err(_) => error(StatusCode::BAD_GATEWAY, "UNKNOWN"),
        Ok(answer) => {
            let ledger = ledger.clone();
            let counted = move |frame: Frame<Bytes>| {
                if let (true, Some(data)) = (is_blob, frame.data_ref()) {
                    ledger.count_blob_bytes(data.len());
                }
                frame
            };
            answer.map(|body| body.map_frame(counted).map_err(|error| Box::new(error) as BoxError).boxed())
        }
    }
}

fn fields(form: &str) -> Vec<(String, String)> {
    let plain = |text: &str| percent_decoded(&text.replace('+', " "));
    form.split('&').filter_map(|field| field.split_once('=')).map(|(name, value)| (plain(name), plain(value))).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.extend(byte);
        bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn challenge(value: String) -> Response<Body> {
    let mut refusal = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, value.parse().expect("a header"));
    refusal
}

/// A refusal in the form of the distribution specification.
pub(crate) fn error(status: StatusCode, code: &str) -> Response<Body> {
    let body = json!({ "errors": [{ "code": code, "message": "the test's registry says so" }] });
    response(status, &[(CONTENT_TYPE, "application/json".into())], body.to_string().into())
}

fn response(status: StatusCode, headers: &[(http::HeaderName, String)], body: Bytes) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().expect("a header"));
    }
    response
}
