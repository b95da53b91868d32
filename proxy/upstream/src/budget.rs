//! The budget of questions that a registry leaves to one credential: what its answers tell about it, and when it may be
//! asked again after it said 429.
//!
//! ```text
//!          429: a pause, told by upstream or growing
//! open ────────────────────────────────────────────► paused ◄─┐ 429 again: a longer pause
//!   ▲                                                  │ over  │
//!   └────────── any other answer ────────── one probe ◄┘ ──────┘
//! ```
//!
//! These are pure decisions: the caller has the clock and the dice, keeps a [`Governor`] for each registry, source and
//! credential, and asks upstream. Invariants: nothing is asked before the time that upstream told, and when a pause is
//! over, one question finds out whether the next ones may follow. A pause that upstream told counts for a day at most.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// The limit that a 429 speaks about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Limit {
    /// The number of pulls in a window of hours.
    PullQuota,
    /// The rate of requests of any kind: Docker Hub calls it the abuse limit.
    RequestRate,
}

/// A quota as an answer reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    /// The number of pulls allowed in the window.
    pub limit: u64,
    /// The number of pulls left.
    pub remaining: u64,
    /// The length of the window in seconds. None if the registry does not tell.
    pub window_s: Option<u64>,
}

/// What a 429 tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany {
    /// The limit that was reached.
    pub limit: Limit,
    /// How long nothing may be asked. None if upstream does not tell.
    pub pause: Option<Duration>,
}

/// A longer pause than this is not believed: one answer must not end a registry for good.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Numbers from here on are times since 1970, not seconds from now.
const EPOCH_FROM_S: u64 = 1_000_000_000;
/// The first pause that is not told, for each limit, and the longest that it grows to.
const RATE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const QUOTA_PAUSE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// A probe that nothing is heard of for so long is taken for lost.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);
/// Checks of tags stop when so few of a hundred pulls are left.
const LOW_PERCENT: u64 = 5;
/// A report of a low quota counts for so long at most. Then a check brings the next one.
const LOW_HOLDS: Duration = Duration::from_secs(600);
/// A longer name of a source is cut off.
const SOURCE_MAX_BYTES: usize = 64;

impl Quota {
    /// Reads `RateLimit-Limit: 100;w=21600` and `RateLimit-Remaining`, with or without `X-` in front. None if the answer
    /// has no such headers: then the registry counts nothing.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let (limit, window_s) = number(headers, &["ratelimit-limit", "x-ratelimit-limit"])?;
        let (remaining, _) = number(headers, &["ratelimit-remaining", "x-ratelimit-remaining"])?;
        Some(Self { limit, remaining, window_s })
    }

    /// Whether only the last pulls are left.
    fn is_low(self) -> bool {
        self.remaining <= (self.limit.saturating_mul(LOW_PERCENT) / 100).max(1)
    }
}

/// The source that the registry counts for (`docker-ratelimit-source`): an address, or an account's number.
pub fn source(headers: &HeaderMap) -> Option<Box<str>> {
    let source = headers.get("docker-ratelimit-source")?.to_str().ok()?.trim();
    (!source.is_empty()).then(|| source.get(..SOURCE_MAX_BYTES).unwrap_or(source).into())
}

impl TooMany {
    /// Reads the answer with status 429 that arrived at `now`. Docker Hub's quota says so in its text or in its headers;
    /// its abuse limit answers a bare 429.
    pub fn read(headers: &HeaderMap, body: &[u8], now: SystemTime) -> Self {
        let is_used_up = Quota::read(headers).is_some_and(|quota| quota.remaining == 0);
        let says_quota = || {
            let text = String::from_utf8_lossy(body).to_ascii_lowercase();
            ["pull rate limit", "pull limit", "pull quota"].iter().any(|words| text.contains(words))
        };
        let limit = if is_used_up || says_quota() { Limit::PullQuota } else { Limit::RequestRate };
        let reset = || is_used_up.then(|| time(headers, &["ratelimit-reset", "x-ratelimit-reset"], now)).flatten();
        let told = time(headers, &[RETRY_AFTER.as_str(), "x-retry-after"], now).or_else(reset);
        Self { limit, pause: told.filter(|pause| !pause.is_zero()).map(|pause| pause.min(PAUSE_MAX)) }
    }
}

/// Reads `100;w=21600`: the number, and the window in seconds.
fn number(headers: &HeaderMap, names: &[&str]) -> Option<(u64, Option<u64>)> {
    let value = names.iter().find_map(|name| headers.get(*name))?;
    let mut parts = value.to_str().ok()?.split(';');
    let number = parts.next()?.trim().parse().ok()?;
    let window = parts.find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
    Some((number, window))
}

/// Reads a time to wait: seconds, a date (RFC 9110 section 10.2.3), or seconds since 1970, as some registries write.
fn time(headers: &HeaderMap, names: &[&str], now: SystemTime) -> Option<Duration> {
    names.iter().find_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?.trim();
        let at = match value.split(';').next()?.trim().parse::<u64>() {
            Ok(seconds) if seconds < EPOCH_FROM_S => return Some(Duration::from_secs(seconds)),
            Ok(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?,
            Err(_) => httpdate::parse_http_date(value).ok()?,
        };
        Some(at.duration_since(now).unwrap_or_default())
    })
}

/// Decides when one registry may be asked for one source and credential.
#[derive(Default)]
pub struct Governor {
    pause: Option<Pause>,
    /// The number of pauses so far. A question from before the last one says nothing about it.
    pauses: u64,
    /// Pauses in a row.
    in_a_row: u32,
    quota: Option<(Quota, Instant)>,
}

#[derive(Clone, Copy)]
struct Pause {
    limit: Limit,
    until: Instant,
    probed_at: Option<Instant>,
}

/// A question that may be asked. Its answer is to be reported with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket of a governor that nothing was reported to yet.
    pub const FIRST: Self = Self(0);
}

/// Whether a question may be asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permit {
    /// It may.
    Ask(Ticket),
    /// It may not, because of this pause.
    Wait(Paused),
}

/// A pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paused {
    /// The limit that was reached.
    pub limit: Limit,
    /// The time until which nothing is asked.
    pub until: Instant,
    /// Whether it is the first one since upstream last answered.
    pub is_first: bool,
}

impl Governor {
    /// Whether a question may be asked at `now`. After a pause the first one is the probe; the others wait for its answer.
    pub fn permit(&mut self, now: Instant) -> Permit {
        let Some(pause) = &mut self.pause else { return Permit::Ask(Ticket(self.pauses)) };
        let is_probed = pause.probed_at.is_some_and(|at| now.saturating_duration_since(at) < PROBE_PATIENCE);
        if now < pause.until || is_probed {
            return Permit::Wait(Paused { limit: pause.limit, until: pause.until, is_first: self.in_a_row == 1 });
        }
        pause.probed_at = Some(now);
        Permit::Ask(Ticket(self.pauses))
    }

    /// Upstream answered a question with something else than 429.
    pub fn answered(&mut self, ticket: Ticket, quota: Option<Quota>, now: Instant) {
        self.note_quota(quota, now);
        if ticket.0 != self.pauses {
            return;
        }
        self.in_a_row = 0;
        self.failed(ticket);
        // A question from before the pause may have told a longer one meanwhile.
        self.pause = self.pause.filter(|pause| now < pause.until);
    }

    /// Upstream could not be asked: the question is as if it had not been permitted.
    pub fn failed(&mut self, ticket: Ticket) {
        if let Some(pause) = &mut self.pause
            && ticket.0 == self.pauses
        {
            pause.probed_at = None;
        }
    }

    /// Upstream answered 429. `dice` is a number from 0 up to 1. Returns the pause that begins with it; None if it
    /// belongs to the one that holds already.
    pub fn refused(
        &mut self,
        ticket: Ticket,
        told: TooMany,
        quota: Option<Quota>,
        now: Instant,
        dice: f64,
    ) -> Option<Paused> {
        self.note_quota(quota, now);
        if let Some(pause) = &mut self.pause
            && ticket.0 != self.pauses
        {
            // It was asked before the pause began. It may know better how long that is.
            pause.until = pause.until.max(told.pause.map_or(pause.until, |told| now + told));
            return None;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.pauses += 1;
        let until = now + told.pause.unwrap_or_else(|| grown(told.limit, self.in_a_row, dice));
        let until = self.pause.map_or(until, |earlier| earlier.until.max(until));
        self.pause = Some(Pause { limit: told.limit, until, probed_at: None });
        Some(Paused { limit: told.limit, until, is_first: self.in_a_row == 1 })
    }

    /// The ticket of a question that was permitted elsewhere, as of a token server that belongs to the registry.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.pauses)
    }

    /// Whether a pause has begun that no answer has ended yet.
    pub fn is_pausing(&self) -> bool {
        self.pause.is_some()
    }

    /// The pause that holds at `now`, also while it is probed whether it is over.
    pub fn pause(&self, now: Instant) -> Option<Paused> {
        let pause = self.pause.filter(|pause| now < pause.until || pause.probed_at.is_some())?;
        Some(Paused { limit: pause.limit, until: pause.until, is_first: self.in_a_row == 1 })
    }

    /// The quota, if so little is left of it that tags should not be checked.
    pub fn low_quota(&self, now: Instant) -> Option<Quota> {
        let (quota, at) = self.quota?;
        let holds = quota.window_s.map_or(LOW_HOLDS, Duration::from_secs).min(LOW_HOLDS);
        (quota.is_low() && now.saturating_duration_since(at) < holds).then_some(quota)
    }

    fn note_quota(&mut self, quota: Option<Quota>, now: Instant) {
        if let Some(quota) = quota {
            self.quota = Some((quota, now));
        }
    }
}

/// The pause that nobody told: twice as long each time, and up to a half longer, so that many proxies do not come back at
/// once.
fn grown(limit: Limit, in_a_row: u32, dice: f64) -> Duration {
    let (first, most) = match limit {
        Limit::PullQuota => QUOTA_PAUSE,
        Limit::RequestRate => RATE_PAUSE,
    };
    let doublings = in_a_row.saturating_sub(1).min(16);
    let pause = first.saturating_mul(1 << doublings).min(most);
    pause + pause.mul_f64(dice.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
