//! `/token`, the endpoint for tokens (the token specification of Docker's registry, and its OAuth2 form by POST).
//!
//! A token covers the part of the requested scopes that the policy allows, as the specification says. A client that
//! requested more is refused when it uses the token, with the reason.

use std::time::SystemTime;

use bytes::Bytes;
use entrepot_core::client::ClientKey;
use entrepot_core::error::ErrorCode;
use entrepot_core::scope::{Actions, Scope};
use http::header::{ALLOW, CACHE_CONTROL, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded;

use super::AccessControl;
use super::login::Login;
use super::policy::{Principal, actions, something_for_anonymous};
use super::refusal::AccessRefusal;
use super::token::{GRANTS_MAX, SERVICE, Ticket};
use entrepot_core::secret::Secret;
use entrepot_net::http::reply::Reply;
use entrepot_observe::labels::Refused;

pub const FORM_MAX_BYTES: usize = 64 * 1024;

#[derive(Serialize)]
struct Answer<'a> {
    token: &'a str,
    access_token: &'a str,
    expires_in: u64,
    issued_at: String,
}

/// The request for a token, from a query or a form.
#[derive(Default)]
struct Asked {
    scopes: Vec<Scope>,
    grant_type: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
}

impl AccessControl {
    /// Answers a request for a token. `form` is the body of a POST, at most [`FORM_MAX_BYTES`] of it.
    pub async fn token(
        &self,
        client: ClientKey,
        method: &Method,
        query: Option<&str>,
        login: Option<&Secret>,
        form: &[u8],
    ) -> Reply {
        let (parameters, is_form) = match *method {
            Method::GET | Method::HEAD => (query.unwrap_or_default().as_bytes(), false),
            Method::POST => (form, true),
            _ => {
                return Reply::error(ErrorCode::Unsupported, "")
                    .with(ALLOW, "GET, HEAD, POST")
                    .because(Refused::Method);
            }
        };
        let asked = Asked::read(parameters);
        if asked.scopes.len() > GRANTS_MAX {
            return Reply::error(ErrorCode::BadRequest, "too many scopes for one token").because(Refused::Scopes);
        }
        let recognised = match is_form {
            true if asked.grant_type.as_deref() != Some("password") => {
                let body = Bytes::from_static(br#"{"error":"unsupported_grant_type"}"#);
                return Reply::full(StatusCode::BAD_REQUEST, "application/json", body).because(Refused::GrantType);
            }
            true => {
                self.recognise(client, asked.username.as_deref().unwrap_or_default(), asked.password.as_ref()).await
            }
            false => match Login::read(login) {
                Login::None => Ok(Principal::Anonymous),
                Login::Basic { name, password } => self.recognise(client, &name, Some(&password)).await,
                Login::Bearer(_) | Login::Unreadable => Err(AccessRefusal::WrongLogin),
            },
        };
        match recognised {
            Ok(Principal::Anonymous) if !something_for_anonymous(&self.rights) => {
                refused(&AccessRefusal::Unauthenticated { scope: None })
            }
            Ok(principal) => self.give(principal, asked.scopes),
            Err(refusal) => refused(&refusal),
        }
    }

    fn give(&self, principal: Principal, scopes: Vec<Scope>) -> Reply {
        let now = SystemTime::now();
        let mut ticket = Ticket::new(principal);
        for scope in scopes {
            match scope {
                Scope::Catalog => ticket.catalog = true,
                Scope::Repository { name, actions: wanted } => {
                    let granted = actions(&self.rights, &ticket.principal, &name).and(wanted);
                    let before = ticket.grants.get(&name).copied().unwrap_or(Actions::NONE);
                    ticket.grants.insert(name, before.or(granted));
                }
            }
        }
        let token = self.signer.issue(&ticket, now, self.rights.token_lifetime);
        let answer = Answer {
            token: token.expose(),
            access_token: token.expose(),
            expires_in: self.rights.token_lifetime.as_secs(),
            issued_at: OffsetDateTime::from(now).format(&Rfc3339).unwrap_or_default(),
        };
        let body = serde_json::to_vec(&answer).unwrap_or_default();
        Reply::full(StatusCode::OK, "application/json", body).with(CACHE_CONTROL, "no-store")
    }
}

impl Asked {
    fn read(parameters: &[u8]) -> Self {
        let mut asked = Self::default();
        for (name, value) in form_urlencoded::parse(parameters) {
            match &*name {
                // One scope more than allowed is kept, so that an excess is noticed.
                "scope" => {
                    let room = (GRANTS_MAX + 1).saturating_sub(asked.scopes.len());
                    asked.scopes.extend(Scope::parse_all(&value).take(room));
                }
                "grant_type" => asked.grant_type = Some(value.into_owned()),
                "username" => asked.username = Some(value.into_owned()),
                "password" => asked.password = Some(Secret::new(value)),
                _ => {}
            }
        }
        asked
    }
}

/// The token endpoint takes a name and a password (Basic), not a token.
fn refused(refusal: &AccessRefusal) -> Reply {
    let reply = match refusal {
        AccessRefusal::Busy => Reply::error(ErrorCode::TooManyRequests, &refusal.to_string()),
        _ => Reply::error(ErrorCode::Unauthorized, &refusal.to_string())
            .with(WWW_AUTHENTICATE, &format!("Basic realm=\"{SERVICE}\"")),
    };
    reply.with(CACHE_CONTROL, "no-store").because(Refused::TokenRefused)
}
