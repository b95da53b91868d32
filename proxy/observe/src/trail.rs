//! The trail of a request: the typed decisions that led to its answer, in the order in which they were taken.
//!
//! Every part that decides something about a request records it here, and nowhere else. The access record, the headers
//! that tell about the cache, and the metrics' labels are read from the trail. Each [`Decision`] has a word; a variant
//! without one does not compile, and so the log's reason is empty nowhere.
//!
//! Neighbours: `net::http::exchange` makes one trail for each request and reads it at the end; the doors, the pipeline
//! and the registry record. A trail holds ids and words, never a secret.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use entrepot_core::digest::Digest;
use entrepot_core::outcome::{CacheStatus, RequestType};

use crate::labels::{
    Bypass, CredentialKind, Interception, Label, Proof, Refused, Rejection, RequestRoute, Served, TagCheck,
    UpstreamOutcome,
};
use crate::metrics::Metrics;
use crate::request_id::RequestId;

/// One decision about a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Decision {
    /// The door's treatment of the host that the request is for.
    Door(Interception),
    /// The route that method and path have.
    Route {
        /// The route.
        route: RequestRoute,
        /// The same in docker-registry-proxy's words.
        request_type: RequestType,
        /// The digest that the request names, if it names one.
        digest: Option<Digest>,
    },
    /// The credential that upstream is asked with, or would be.
    Credential {
        /// The owner of the credential.
        kind: CredentialKind,
        /// A hash that stands for it. All zero for anonymous requests.
        id: [u8; 16],
    },
    /// Whether the client may have what is stored here.
    Right {
        /// The proof.
        proof: Proof,
        /// Since when. Zero for an answer to this request.
        age: Duration,
    },
    /// The outcome of asking which digest a tag has.
    Tag(TagCheck),
    /// Upstream was asked.
    Upstream {
        /// The host that answered, or that could not be reached.
        host: Box<str>,
        /// The outcome.
        outcome: UpstreamOutcome,
        /// From sending the request to the head of the answer. None if no answer came.
        elapsed: Option<Duration>,
    },
    /// The content that is sent.
    Content {
        /// Its origin.
        served: Served,
        /// Its digest. None for upstream's answer to HEAD where it told no digest.
        digest: Option<Digest>,
        /// Since when it is stored here. None if it was fetched for this request.
        stored_at: Option<SystemTime>,
    },
    /// Upstream's bytes are passed to this client alone, past the store.
    PassedThrough(Bypass),
    /// The fetched content is in the store now.
    Stored,
    /// The fetched content was served but could not be stored.
    NotStored(Bypass),
    /// The request is refused, or cannot be answered.
    Refused(Refused),
    /// Content was pushed to our registry, or taken over from another repository of it.
    Pushed(Digest),
    /// Content was deleted from our registry.
    Deleted(Digest),
    /// Content that was pushed to our registry is sent.
    Given(Digest),
    /// A fetch from upstream was joined, or begun by this request.
    Subscribed {
        /// Whether this request began it.
        leads: bool,
    },
    /// The request breaks HTTP's framing, so the connection ends.
    Unframed(Rejection),
    /// The body broke off before its end.
    CutOff,
}

/// The decisions about one request so far. Shared by every part that works on it.
pub struct Trail {
    /// Names the request in the log, in events and in the reply.
    pub id: RequestId,
    metrics: Arc<Metrics>,
    decisions: Mutex<Vec<Decision>>,
}

/// The trail as the access record, the cache headers and the request metrics say it.
#[derive(Clone, PartialEq, Debug)]
pub struct Summary {
    /// The cache's part in the answer.
    pub cache_status: CacheStatus,
    /// The kind of request.
    pub request_type: RequestType,
    /// The content served, or asked for.
    pub digest: Option<Digest>,
    /// The host of upstream that was asked last. None if none was.
    pub upstream: Option<Box<str>>,
    /// How long the last answer of upstream took.
    pub upstream_time: Option<Duration>,
    /// Since when the content is stored here, where it was served from the store.
    pub stored_at: Option<SystemTime>,
    /// Why the answer is what it is.
    pub reason: &'static str,
    /// Whether the request is worth a line in the access log. Local pages and granted tunnels are not.
    pub is_logged: bool,
}

impl Trail {
    /// An empty trail. Decisions are counted in `metrics` as they are recorded.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { id: RequestId::next(), metrics, decisions: Mutex::new(Vec::with_capacity(8)) })
    }

    /// Adds a decision.
    pub fn record(&self, decision: Decision) {
        count(&self.metrics, &decision);
        self.lock().push(decision);
    }

    /// Every decision so far, in order.
    pub fn decisions(&self) -> Vec<Decision> {
        self.lock().clone()
    }

    /// The decisions so far in sum.
    pub fn summary(&self) -> Summary {
        Summary::of(&self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Decision>> {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a decision about a request.
fn count(metrics: &Metrics, decision: &Decision) {
    match decision {
        Decision::Right { proof, .. } => metrics.rights_checks.inc(proof.outcome()),
        Decision::Subscribed { leads: false } => _ = metrics.followers_joined.inc(),
        Decision::PassedThrough(reason) | Decision::NotStored(reason) => metrics.bypass.inc(*reason),
        Decision::Stored => _ = metrics.stored.inc(),
        Decision::Refused(refused) => {
            if let Some(rejection) = refused.rejection() {
                metrics.rejected_requests.inc(rejection);
            }
        }
        Decision::Unframed(rejection) => metrics.rejected_requests.inc(*rejection),
        Decision::Door(_)
        | Decision::Route { .. }
        | Decision::Credential { .. }
        | Decision::Tag(_)
        | Decision::Pushed(_)
        | Decision::Deleted(_)
        | Decision::Given(_)
        | Decision::Upstream { .. }
        | Decision::Content { .. }
        | Decision::Subscribed { leads: true }
        | Decision::CutOff => {}
    }
}

impl Summary {
    /// Reads the decisions. A later one of a kind replaces an earlier one.
    pub fn of(decisions: &[Decision]) -> Self {
        let mut summary = Self {
            cache_status: CacheStatus::None,
            request_type: RequestType::Unknown,
            digest: None,
            upstream: None,
            upstream_time: None,
            stored_at: None,
            reason: NO_DECISION,
            is_logged: true,
        };
        let mut rank = 0;
        for decision in decisions {
            if decision.rank() >= rank {
                rank = decision.rank();
                summary.reason = decision.word();
            }
            match decision {
                Decision::Door(door) => summary.is_logged = door.is_logged(),
                Decision::Route { request_type, digest, .. } => {
                    summary.request_type = *request_type;
                    summary.digest = *digest;
                }
                Decision::Upstream { host, elapsed, .. } => {
                    summary.upstream = Some(host.clone());
                    summary.upstream_time = *elapsed;
                }
                Decision::Content { served, digest, stored_at } => {
                    summary.cache_status = served.cache_status();
                    summary.digest = digest.or(summary.digest);
                    summary.stored_at = *stored_at;
                }
                Decision::Pushed(digest) | Decision::Deleted(digest) | Decision::Given(digest) => {
                    summary.digest = Some(*digest);
                }
                Decision::PassedThrough(_) => summary.cache_status = CacheStatus::Bypass,
                Decision::Credential { .. }
                | Decision::Right { .. }
                | Decision::Tag(_)
                | Decision::Stored
                | Decision::NotStored(_)
                | Decision::Refused(_)
                | Decision::Subscribed { .. }
                | Decision::Unframed(_)
                | Decision::CutOff => {}
            }
        }
        summary
    }
}

/// The reason if no decision was recorded.
const NO_DECISION: &str = "undecided";

impl Decision {
    /// The decision in one word, for logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Door(door) => door.word(),
            Self::Route { route, .. } => route.word(),
            Self::Credential { kind, .. } => kind.word(),
            Self::Right { proof, .. } => proof.word(),
            Self::Tag(check) => check.word(),
            Self::Upstream { outcome, .. } => upstream_word(*outcome),
            Self::Content { served, .. } => served.word(),
            Self::PassedThrough(reason) | Self::NotStored(reason) => reason.word(),
            Self::Stored => "stored_now",
            Self::Pushed(_) => "pushed",
            Self::Deleted(_) => "deleted",
            Self::Given(_) => "given",
            Self::Refused(refused) => refused.word(),
            Self::Subscribed { leads: true } => "leads_fetch",
            Self::Subscribed { leads: false } => "joins_fetch",
            Self::Unframed(rejection) => rejection.word(),
            Self::CutOff => "cut_off",
        }
    }

    /// How much a decision explains an answer. The highest one gives the reason, the last among equals.
    fn rank(&self) -> u8 {
        match self {
            Self::Door(_) | Self::Route { .. } => 1,
            Self::Credential { .. } | Self::Subscribed { .. } | Self::Stored => 0,
            Self::Right { .. } | Self::Tag(_) => 2,
            // Why a copy is stale is told by what upstream did.
            Self::Content { served: Served::Stale, .. } => 2,
            Self::Upstream { .. } => 3,
            Self::Content { .. } | Self::Pushed(_) | Self::Deleted(_) | Self::Given(_) => 4,
            Self::NotStored(_) | Self::PassedThrough(_) => 5,
            Self::Refused(_) | Self::Unframed(_) => 6,
            Self::CutOff => 7,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())?;
        match self {
            Self::Route { digest: Some(digest), .. } | Self::Content { digest: Some(digest), .. } => {
                write!(formatter, " {digest}")
            }
            Self::Credential { id, .. } if *id != [0; 16] => {
                write!(formatter, " ")?;
                id[..4].iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
            Self::Right { age, .. } if !age.is_zero() => write!(formatter, " {} s old", age.as_secs()),
            Self::Upstream { host, elapsed: Some(elapsed), .. } => {
                write!(formatter, " {host} {:.3} s", elapsed.as_secs_f64())
            }
            Self::Upstream { host, .. } => write!(formatter, " {host}"),
            _ => Ok(()),
        }
    }
}

fn upstream_word(outcome: UpstreamOutcome) -> &'static str {
    match outcome {
        UpstreamOutcome::Ok => "upstream_answered",
        UpstreamOutcome::Denied => "upstream_denied",
        UpstreamOutcome::NotFound => "upstream_not_found",
        UpstreamOutcome::RateLimited => "upstream_rate_limited",
        UpstreamOutcome::ClientError => "upstream_client_error",
        UpstreamOutcome::ServerError => "upstream_server_error",
        UpstreamOutcome::Unreachable => "upstream_unreachable",
        UpstreamOutcome::Timeout => "upstream_timeout",
        UpstreamOutcome::Broken => "upstream_broken",
    }
}

impl Interception {
    fn is_logged(self) -> bool {
        !matches!(self, Self::LocalPage | Self::Granted)
    }
}

impl Served {
    /// The same in docker-registry-proxy's words.
    pub fn cache_status(self) -> CacheStatus {
        match self {
            Self::Hit => CacheStatus::Hit,
            Self::Revalidated => CacheStatus::Revalidated,
            Self::Stale => CacheStatus::Stale,
            Self::Led | Self::Head => CacheStatus::Miss,
            Self::Joined => CacheStatus::Updating,
            Self::Refetched => CacheStatus::Expired,
        }
    }
}

#[cfg(test)]
mod tests {
    use entrepot_core::digest::Algorithm;

    use super::*;

    fn content(served: Served) -> Decision {
        Decision::Content { served, digest: Some(Digest::of(Algorithm::Sha256, b"x")), stored_at: None }
    }

    fn upstream(outcome: UpstreamOutcome) -> Decision {
        Decision::Upstream { host: "ghcr.io:443".into(), outcome, elapsed: Some(Duration::from_millis(20)) }
    }

    fn blob() -> Decision {
        Decision::Route { route: RequestRoute::Blob, request_type: RequestType::BlobByDigest, digest: None }
    }

    #[test]
    fn the_reason_is_what_explains_the_answer_most() {
        use Decision::{CutOff, Door, NotStored, PassedThrough, Refused as No, Right};
        let right = |proof| Right { proof, age: Duration::ZERO };
        let door = Door(Interception::Intercepted);
        let cases: [(&[Decision], CacheStatus, &str); 9] = [
            (&[], CacheStatus::None, "undecided"),
            (&[door.clone(), blob()], CacheStatus::None, "blob"),
            (&[door.clone(), blob(), right(Proof::Verdict), content(Served::Hit)], CacheStatus::Hit, "stored"),
            (&[blob(), upstream(UpstreamOutcome::Ok), content(Served::Led)], CacheStatus::Miss, "led_fetch"),
            (
                &[blob(), upstream(UpstreamOutcome::RateLimited), right(Proof::PublicMark), content(Served::Stale)],
                CacheStatus::Stale,
                "upstream_rate_limited",
            ),
            (&[blob(), content(Served::Led), NotStored(Bypass::DiskFull)], CacheStatus::Miss, "disk_full"),
            (&[blob(), PassedThrough(Bypass::CrossRegistry)], CacheStatus::Bypass, "cross_registry"),
            (&[door, No(Refused::Policy)], CacheStatus::None, "policy"),
            (&[blob(), content(Served::Led), CutOff], CacheStatus::Miss, "cut_off"),
        ];
        for (decisions, cache_status, reason) in cases {
            let summary = Summary::of(decisions);
            assert_eq!((summary.cache_status, summary.reason), (cache_status, reason), "{decisions:?}");
        }
    }

    #[test]
    fn a_second_try_replaces_what_the_first_one_found() {
        let summary = Summary::of(&[
            blob(),
            upstream(UpstreamOutcome::Denied),
            Decision::Credential { kind: CredentialKind::Account, id: [7; 16] },
            upstream(UpstreamOutcome::Ok),
            content(Served::Joined),
        ]);
        assert_eq!(summary.reason, "joined_fetch");
        assert_eq!(summary.upstream.as_deref(), Some("ghcr.io:443"));
    }

    #[test]
    fn pages_and_granted_tunnels_have_no_line() {
        for (door, is_logged) in
            [(Interception::LocalPage, false), (Interception::Granted, false), (Interception::Intercepted, true)]
        {
            assert_eq!(Summary::of(&[Decision::Door(door)]).is_logged, is_logged, "{door:?}");
        }
    }

    #[test]
    fn a_trail_counts_what_it_is_told() {
        let metrics = Arc::new(Metrics::new());
        let trail = Trail::new(metrics.clone());
        trail.record(Decision::PassedThrough(Bypass::TooLarge));
        trail.record(Decision::Refused(Refused::Loop));
        let text = metrics.encode();
        assert!(text.contains("entrepot_bypass_total{reason=\"too_large\"} 1"), "{text}");
        assert!(text.contains("entrepot_rejected_requests_total{reason=\"loop\"} 1"), "{text}");
        assert_eq!(trail.decisions().len(), 2);
    }

    #[test]
    fn a_credential_is_an_id() {
        let decision = Decision::Credential { kind: CredentialKind::Client, id: [0xab; 16] };
        assert_eq!(decision.to_string(), "client_credential abababab");
    }
}
