//! Questions that may have to wait: [`RegistryClient::execute`] and [`RegistryClient::execute_with_body`] ask the
//! governor first (see [`crate::governors`]), and tell it what came. A question that waits is answered with upstream's
//! last 429 at once, as if upstream had been asked.
//!
//! Requests that write, and those that are passed on as they are, are neither held back nor told: they are not ours to
//! answer.

use std::time::Duration;

use bytes::Bytes;
use entrepot_core::secret::Secret;
use http::header::{CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Limited};
use url::Url;

use super::{Answer, RegistryClient};
use crate::credential::{Credential, CredentialId};
use crate::error::UpstreamError;
use crate::governors::{Asking, Subject, WORDS_MAX_BYTES, WORDS_PATIENCE, Withheld};
use crate::operation::Operation;
use crate::timed_body::{RequestBody, TimedBody};
use crate::token_cache::AuthScheme;
use crate::upstream_registry::{UpstreamRegistry, origin_of};

impl RegistryClient {
    /// Runs an operation without a body.
    pub async fn execute(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        credential: &Credential,
    ) -> Result<Answer, UpstreamError> {
        if !operation.reads_content {
            return self.execute_now(registry, operation, credential).await;
        }
        match self.memory.governors.ask(&registry.origin, subject_of(operation), credential) {
            Ok(asking) => {
                let answer = self.execute_now(registry, operation, credential).await;
                self.tell(registry, operation, credential, asking, answer).await
            }
            Err(withheld) => Ok(self.not_asked(registry, operation, credential, *withheld)),
        }
    }

    /// Runs an operation whose body can be sent only once, so it authenticates first.
    pub async fn execute_with_body(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        credential: &Credential,
        body: RequestBody,
    ) -> Result<Answer, UpstreamError> {
        if !operation.reads_content {
            return self.send_now(registry, operation, credential, body).await;
        }
        match self.memory.governors.ask(&registry.origin, subject_of(operation), credential) {
            Ok(asking) => {
                let answer = self.send_now(registry, operation, credential, body).await;
                self.tell(registry, operation, credential, asking, answer).await
            }
            Err(withheld) => Ok(self.not_asked(registry, operation, credential, *withheld)),
        }
    }

    /// GETs from a token server. A login is sent only if [`RegistryClient::trusts`] it.
    pub async fn ask_realm(
        &self,
        registry: &UpstreamRegistry,
        url: &Url,
        authorization: Option<&Secret>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), UpstreamError> {
        let governors = &self.memory.governors;
        let credential = authorization.map_or(CredentialId::ANONYMOUS, |value| CredentialId::of(value.expose()));
        let realm = origin_of(url).unwrap_or_else(|| registry.origin.clone());
        let asking = match governors.ask_realm(&realm, credential) {
            Ok(asking) => asking,
            Err(withheld) => return Ok((StatusCode::TOO_MANY_REQUESTS, withheld.headers, withheld.body)),
        };
        match self.ask_realm_now(registry, url, authorization).await {
            Ok((StatusCode::TOO_MANY_REQUESTS, headers, body)) => {
                let told = governors.refused(asking, headers, body);
                Ok((StatusCode::TOO_MANY_REQUESTS, told.headers, told.body))
            }
            Ok((status, headers, body)) => {
                governors.answered(asking, &headers);
                Ok((status, headers, body))
            }
            Err(error) => {
                governors.failed(&asking);
                Err(error)
            }
        }
    }

    /// Tells the governor what came. The words of a 429 are read, so that they are there for those who wait.
    async fn tell(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        credential: &Credential,
        asking: Asking,
        answer: Result<Answer, UpstreamError>,
    ) -> Result<Answer, UpstreamError> {
        let governors = &self.memory.governors;
        match answer {
            Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS && !answer.crossed => {
                let words = Limited::new(answer.body, WORDS_MAX_BYTES).collect();
                let words = tokio::time::timeout(WORDS_PATIENCE, words).await;
                let words = words.ok().and_then(Result::ok).map(|words| words.to_bytes()).unwrap_or_default();
                let told = governors.refused(asking, answer.headers, words);
                Ok(Answer { headers: told.headers, body: TimedBody::kept(told.body), ..answer })
            }
            Ok(answer) => {
                if answer.crossed || answer.status.is_server_error() {
                    governors.failed(&asking);
                } else {
                    governors.answered(asking, &answer.headers);
                }
                Ok(answer)
            }
            Err(error) => {
                governors.failed(&asking);
                if error.of_token_server() != Some(StatusCode::TOO_MANY_REQUESTS) {
                    return Err(error);
                }
                // The registry's governor knows what its token server said, with its words.
                match governors.ask(&registry.origin, subject_of(operation), credential) {
                    Err(withheld) => Ok(self.not_asked(registry, operation, credential, *withheld)),
                    Ok(again) => {
                        governors.failed(&again);
                        Err(error)
                    }
                }
            }
        }
    }

    /// The answer to a question that is not asked. A client without a login is told first how to get one, as the registry
    /// would: with its own account it may have more left.
    fn not_asked(
        &self,
        registry: &UpstreamRegistry,
        operation: &Operation,
        credential: &Credential,
        withheld: Withheld,
    ) -> Answer {
        let challenge = match (credential, self.memory.tokens.scheme(&registry.origin)) {
            (Credential::None, Some(AuthScheme::Bearer { realm, service }))
                if subject_of(operation) == Subject::Registry =>
            {
                let service = service.map(|service| format!(",service=\"{service}\"")).unwrap_or_default();
                let scope = operation.scope().map(|own| {
                    let told = self.memory.tokens.scopes(&registry.origin, &own);
                    format!(",scope=\"{}\"", told.map_or(own, |told| told.join(" ")))
                });
                let scope = scope.unwrap_or_default();
                HeaderValue::from_str(&format!("Bearer realm=\"{realm}\"{service}{scope}")).ok()
            }
            _ => None,
        };
        let (status, headers, body) = match challenge {
            Some(challenge) => {
                let headers = [(WWW_AUTHENTICATE, challenge), (CONTENT_LENGTH, HeaderValue::from(0))];
                (StatusCode::UNAUTHORIZED, HeaderMap::from_iter(headers), Bytes::new())
            }
            None => (StatusCode::TOO_MANY_REQUESTS, withheld.headers, withheld.body),
        };
        self.memory.metrics.upstream_withheld.inc();
        // The words are kept for HEAD too: who asked by GET may be answered by them.
        let body = TimedBody::kept(body);
        let (host, elapsed) = (registry.host().clone(), Duration::ZERO);
        Answer { status, headers, body, digest: None, host, redirected: false, crossed: false, elapsed }
    }
}

/// A token server may be below `/v2/` too, so only what the specification has there is the registry's interface.
fn subject_of(operation: &Operation) -> Subject {
    let path = operation.path.split('?').next().unwrap_or_default();
    let is_registrys = operation.repository.is_some() || matches!(path, "/v2/" | "/v2" | "/v2/_catalog");
    if is_registrys { Subject::Registry } else { Subject::Other }
}
