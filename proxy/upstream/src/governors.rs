//! The governors of the questions to registries: one for each registry, source and credential. Every question that
//! [`crate::registry_client`] asks for a client passes here, and so does its answer.
//!
//! [`crate::budget`] decides. This file has its clock and its dice, keeps the words of the 429 for those who wait,
//! and says once for each pause who is paused and until when.
//!
//! Invariants: tables are bounded and forget what was used longest ago, which costs one question. No credential is kept,
//! only its id. A token counts as the credential that it was given to: tokens change every few minutes, quotas do not.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::budget::{self, Governor, Limit, Paused, Permit, Quota, Ticket, TooMany};
use aws_lc_rs::rand;
use bytes::Bytes;
use entrepot_core::origin::Origin;
use entrepot_core::recent::Recent;
use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};

use crate::credential::{Credential, CredentialId, Login};

/// All governors.
pub struct Governors {
    table: Mutex<Table>,
}

struct Table {
    governed: Recent<Key, Governed>,
    /// The source that a registry last told for a credential.
    sources: Recent<(Origin, CredentialId), Box<str>>,
    /// The credentials that tokens were given to.
    principals: Recent<CredentialId, CredentialId>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    registry: Origin,
    subject: Subject,
    source: Option<Box<str>>,
    credential: CredentialId,
}

/// The part of an origin that is asked. A token server may have the origin of its registry, and a limit of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Subject {
    /// A registry's interface.
    Registry,
    /// Token servers, and other content.
    Other,
}

#[derive(Default)]
struct Governed {
    governor: Governor,
    words: Words,
}

/// Upstream's own words about a pause.
#[derive(Clone, Default)]
struct Words {
    headers: HeaderMap,
    body: Bytes,
    /// Whether upstream told until when. A pause that is our guess is not told as its word.
    tells_pause: bool,
}

/// A question that is being asked.
pub(crate) struct Asking {
    key: Key,
    ticket: Ticket,
    /// The credential as the administrator knows it.
    name: Box<str>,
}

/// The answer to a question that is not asked: upstream's last 429, with the time that is left of it.
pub(crate) struct Withheld {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// How many governors are paused, by the limit that was reached, and how many stopped the checks of tags.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Paused because a pull quota is used up.
    pub quota_pauses: u64,
    /// Paused because of the rate of requests.
    pub rate_pauses: u64,
    /// Near the end of a quota.
    pub low_quotas: u64,
}

const GOVERNED_MAX: usize = 4096;
const TOKENS_MAX: usize = 65_536;

impl Default for Governors {
    fn default() -> Self {
        let (governed, sources) = (Recent::new(GOVERNED_MAX), Recent::new(GOVERNED_MAX));
        Self { table: Mutex::new(Table { governed, sources, principals: Recent::new(TOKENS_MAX) }) }
    }
}

impl Governors {
    /// Notes that a token, as its `Authorization` value says it, was given to `principal`.
    pub fn note_token(&self, token: CredentialId, principal: CredentialId) {
        self.lock().principals.insert(&token, principal);
    }

    /// Whether a registry may be asked something with this credential now.
    pub(crate) fn ask(
        &self,
        registry: &Origin,
        subject: Subject,
        credential: &Credential,
    ) -> Result<Asking, Box<Withheld>> {
        let account = match credential {
            Credential::Answered(Some(login)) => login.account_name(),
            Credential::None | Credential::Answered(None) | Credential::Header(_) => None,
        };
        self.ask_as(registry, subject, credential.id(), account)
    }

    /// The same of a token server.
    pub(crate) fn ask_realm(&self, realm: &Origin, credential: CredentialId) -> Result<Asking, Box<Withheld>> {
        self.ask_as(realm, Subject::Other, credential, None)
    }

    fn ask_as(
        &self,
        registry: &Origin,
        subject: Subject,
        credential: CredentialId,
        account: Option<String>,
    ) -> Result<Asking, Box<Withheld>> {
        let (now, mut table) = (Instant::now(), self.lock());
        let key = table.key(registry, subject, credential);
        let name = name_of(account, key.credential);
        // A registry that never limited anybody has no entry until it tells a quota.
        let Some(governed) = table.governed.get(&key) else { return Ok(Asking { key, ticket: Ticket::FIRST, name }) };
        match governed.governor.permit(now) {
            Permit::Ask(ticket) => Ok(Asking { key, ticket, name }),
            Permit::Wait(paused) => Err(governed.words.with_time_left(paused.until, now)),
        }
    }

    /// Upstream answered something else than 429.
    pub(crate) fn answered(&self, asking: Asking, headers: &HeaderMap) {
        let (quota, mut table) = (Quota::read(headers), self.lock());
        let key = table.told(asking.key, headers);
        let is_over = match table.governed.get(&key) {
            Some(governed) => {
                let was_paused = governed.governor.is_pausing();
                governed.governor.answered(asking.ticket, quota, Instant::now());
                was_paused && !governed.governor.is_pausing()
            }
            None => {
                if quota.is_some() {
                    let governed = table.governed.get_or_insert_with(&key, Governed::default);
                    governed.governor.answered(asking.ticket, quota, Instant::now());
                }
                false
            }
        };
        drop(table);
        if is_over {
            tracing::info!(registry = %key.registry, credential = %asking.name, "upstream answers again; the pause is over");
        }
    }

    /// Upstream could not be asked, or what came is no answer of the registry.
    pub(crate) fn failed(&self, asking: &Asking) {
        if let Some(governed) = self.lock().governed.get(&asking.key) {
            governed.governor.failed(asking.ticket);
        }
    }

    /// Upstream answered 429, or its token server did. Returns the answer with the time that is left.
    pub(crate) fn refused(&self, asking: Asking, headers: HeaderMap, body: Bytes) -> Box<Withheld> {
        let (now, quota) = (Instant::now(), Quota::read(&headers));
        let told = TooMany::read(&headers, &body, SystemTime::now());
        let mut table = self.lock();
        let key = table.told(asking.key, &headers);
        let governed = table.governed.get_or_insert_with(&key, Governed::default);
        let began = governed.governor.refused(asking.ticket, told, quota, now, dice());
        // The answer to HEAD has no words. Those of a GET are better.
        if began.is_some() || governed.words.body.is_empty() {
            governed.words = Words { headers, body, tells_pause: told.pause.is_some() };
        }
        let until = governed.governor.pause(now).map_or(now, |paused| paused.until);
        let withheld = governed.words.with_time_left(until, now);
        drop(table);
        if let Some(paused) = began {
            tell(&key, &asking.name, paused, now);
        }
        withheld
    }

    /// The token server answered 429 to a question about a token for this registry: the registry waits with it.
    pub(crate) fn token_refused(&self, registry: &Origin, login: Option<&Login>, headers: HeaderMap, body: Bytes) {
        let credential = login.map_or(CredentialId::ANONYMOUS, Login::id);
        let key = self.lock().key(registry, Subject::Registry, credential);
        let ticket = self.lock().governed.get(&key).map_or(Ticket::FIRST, |governed| governed.governor.ticket());
        let name = name_of(login.and_then(Login::account_name), key.credential);
        self.refused(Asking { key, ticket, name }, headers, body);
    }

    /// The quota of the credential at the registry, if so little is left that tags should not be checked.
    pub fn low_quota(&self, registry: &Origin, credential: &Credential) -> Option<Quota> {
        let mut table = self.lock();
        let key = table.key(registry, Subject::Registry, credential.id());
        table.governed.get(&key)?.governor.low_quota(Instant::now())
    }

    /// The numbers for gauges.
    pub fn standing(&self) -> Standing {
        let (now, mut standing) = (Instant::now(), Standing::default());
        for (_, governed) in self.lock().governed.iter() {
            match governed.governor.pause(now).map(|paused| paused.limit) {
                Some(Limit::PullQuota) => standing.quota_pauses += 1,
                Some(Limit::RequestRate) => standing.rate_pauses += 1,
                None => {}
            }
            standing.low_quotas += u64::from(governed.governor.low_quota(now).is_some());
        }
        standing
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn key(&mut self, registry: &Origin, subject: Subject, credential: CredentialId) -> Key {
        let credential = self.principals.get(&credential).map_or(credential, |principal| *principal);
        let source = self.sources.get(&(registry.clone(), credential)).cloned();
        Key { registry: registry.clone(), subject, source, credential }
    }

    /// The key of an answer: upstream tells the source only with it.
    fn told(&mut self, asked: Key, headers: &HeaderMap) -> Key {
        let Some(source) = budget::source(headers) else { return asked };
        if asked.source.as_ref() == Some(&source) {
            return asked;
        }
        self.sources.insert(&(asked.registry.clone(), asked.credential), source.clone());
        Key { source: Some(source), ..asked }
    }
}

impl Words {
    fn with_time_left(&self, until: Instant, now: Instant) -> Box<Withheld> {
        let left_s = until.saturating_duration_since(now).as_millis().div_ceil(1000).max(1) as u64;
        let mut headers = self.headers.clone();
        if self.tells_pause {
            headers.insert(RETRY_AFTER, HeaderValue::from(left_s));
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        Box::new(Withheld { headers, body: self.body.clone() })
    }
}

/// The one event about a pause. Pauses that follow it, because a probe was refused too, are less of an event.
fn tell(key: &Key, credential: &str, paused: Paused, now: Instant) {
    let left = paused.until.saturating_duration_since(now);
    let until = utc(SystemTime::now() + left);
    let (registry, source) = (&key.registry, key.source.as_deref().unwrap_or("not told"));
    let why = match paused.limit {
        Limit::PullQuota => "the pull quota is used up",
        Limit::RequestRate => "it is asked too often (its limit of requests, not its pull quota)",
    };
    if paused.is_first {
        tracing::warn!(%registry, credential, source, %until, "upstream answers 429: {why}; it is not asked until {until}, and known tags are served as they are");
    } else {
        tracing::info!(%registry, credential, source, %until, "upstream still answers 429: {why}; it is not asked until {until}");
    }
}

/// The credential in the administrator's words. Nothing of a client's login is told but its id.
fn name_of(account: Option<String>, principal: CredentialId) -> Box<str> {
    match account {
        Some(name) => format!("account {name}").into(),
        None if principal == CredentialId::ANONYMOUS => "anonymous".into(),
        None => format!("a client's login {principal}").into(),
    }
}

/// A time for people, in UTC.
fn utc(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// A number from 0 up to 1.
fn dice() -> f64 {
    let mut byte = [0];
    // Without randomness the pause is the shortest of its kind.
    let _ = rand::fill(&mut byte);
    f64::from(byte[0]) / 256.0
}

/// The longest text of a 429 that is kept.
pub(crate) const WORDS_MAX_BYTES: usize = 16 << 10;
/// How long the text of a 429 may take. The answer counts without it.
pub(crate) const WORDS_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
