//! The words that metrics are divided by. Each set is closed, so the number of time series has a bound that no client
//! can push; the same words appear as `reason` in the access log.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// A closed set of words.
pub trait Label: Copy + Eq + std::hash::Hash + fmt::Debug + EncodeLabelValue + Send + Sync + 'static {
    /// Every word, so that a series exists from the start, at zero.
    const ALL: &'static [Self];

    /// As it is written in metrics and logs.
    fn word(self) -> &'static str;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                encoder.write_str(self.word())
            }
        }
    )+};
}

labels! {
    /// A listening address's purpose.
    Door {
        /// 3128.
        Proxy = "proxy",
        /// 3129.
        Transparent = "transparent",
        /// Our registry's ports.
        Registry = "registry",
        /// The ports for Docker's `registry-mirrors`.
        Mirror = "mirror",
        /// 3130 and the unix socket.
        Admin = "admin",
    }

    /// The kind of request that upstream was sent.
    UpstreamMethod {
        /// GET.
        Get = "get",
        /// HEAD.
        Head = "head",
        /// A token, whatever the method.
        Token = "token",
        /// POST, PUT, PATCH, DELETE: a push.
        Push = "push",
        /// Anything else that passes through.
        Other = "other",
    }

    /// The outcome of a request to upstream.
    UpstreamOutcome {
        /// 1xx to 3xx.
        Ok = "ok",
        /// 401 or 403.
        Denied = "denied",
        /// 404 or 410.
        NotFound = "not_found",
        /// 429.
        RateLimited = "rate_limited",
        /// Another 4xx.
        ClientError = "client_error",
        /// 5xx.
        ServerError = "server_error",
        /// No name, no connection or no TLS.
        Unreachable = "unreachable",
        /// A deadline passed.
        Timeout = "timeout",
        /// The connection broke, or what came is not HTTP.
        Broken = "broken",
    }

    /// Why a fill published nothing.
    FetchFailure {
        /// Upstream refused, or answered with something else than the blob.
        Refused = "refused",
        /// Upstream broke off more often than is resumed.
        Broken = "broken",
        /// Upstream made no progress.
        Timeout = "timeout",
        /// Complete, and not what its digest says.
        WrongDigest = "wrong_digest",
        /// Shorter or longer than announced.
        WrongLength = "wrong_length",
        /// Upstream compressed what must not be.
        Encoded = "encoded",
        /// The disk failed.
        IoError = "io_error",
        /// The process stopped.
        Interrupted = "interrupted",
    }

    /// Why an answer was passed through without the cache.
    Bypass {
        /// No space left, and nothing to evict.
        DiskFull = "disk_full",
        /// The disk or the index failed.
        IoError = "io_error",
        /// Larger than what is cached.
        TooLarge = "too_large",
        /// Another registry has the same content, and it is not public there.
        CrossRegistry = "cross_registry",
        /// Upstream said `Cache-Control: no-store`.
        NoStore = "no_store",
        /// An artefact's answer that nothing is kept of: a page, without a length, or a part without a validator.
        Unfit = "unfit",
        /// A manifest whose media type is in doubt.
        Ambiguous = "ambiguous",
        /// A signed manifest of Docker's schema 1, whose digest is not that of its bytes.
        Signed = "signed",
        /// The cache is switched off.
        CacheOff = "cache_off",
        /// As many blobs are being fetched into the cache as may be at once.
        TooManyFills = "too_many_fills",
    }

    /// Why a connection was closed without an answer.
    ConnectionRefusal {
        /// Its client has as many as one may have.
        ClientLimit = "client_limit",
        /// It said nothing in time.
        Timeout = "timeout",
        /// It had rested longest when every place was taken, and another took its place.
        MadeRoom = "made_room",
        /// Its first bytes are neither HTTP nor TLS.
        Protocol = "protocol",
    }

    /// A handshake with a client.
    Handshake {
        /// Done.
        Ok = "ok",
        /// The client does not trust the CA, or sent another alert.
        ClientRefused = "client_refused",
        /// Broken, or not understood.
        Failed = "failed",
        /// Not done in time.
        Timeout = "timeout",
    }

    /// Why a request was refused without asking anybody.
    Rejection {
        /// Not a request, or not a name, digest or target that can exist.
        Malformed = "malformed",
        /// Over a limit of size.
        TooLarge = "too_large",
        /// Host and TLS name disagree.
        Misdirected = "misdirected",
        /// Not allowed by `proxy.tunnel`, `proxy.allow` or the ports.
        Policy = "policy",
        /// It would come back to ourselves.
        Loop = "loop",
        /// A loopback, link-local or otherwise forbidden address.
        Address = "address",
        /// A push while pushes are off.
        PushOff = "push_off",
    }

    /// A door's treatment of the host that a request is for.
    Interception {
        /// A listed registry: answered by the pipeline.
        Intercepted = "intercepted",
        /// A listed registry that was named to our own registry's door.
        Mirrored = "mirrored",
        /// Our own registry.
        OwnRegistry = "own_registry",
        /// A host that is not listed, in plain HTTP: passed on as it is.
        PassedOn = "passed_on",
        /// A CONNECT that is granted. What comes through it is logged itself.
        Granted = "granted",
        /// A page of this proxy.
        LocalPage = "local_page",
    }

    /// The route that a method and a path have.
    RequestRoute {
        /// `GET /v2/`.
        Ping = "ping",
        /// `/v2/_catalog`.
        Catalog = "catalog",
        /// A manifest by tag.
        ManifestByTag = "manifest_by_tag",
        /// A manifest by digest.
        ManifestByDigest = "manifest_by_digest",
        /// A blob.
        Blob = "blob",
        /// An upload session, or the request that begins one.
        Upload = "upload",
        /// The list of a repository's tags.
        Tags = "tags",
        /// The list of a manifest's referrers.
        Referrers = "referrers",
        /// An extension below `/v2/`.
        Extension = "extension",
        /// A token.
        Token = "token",
        /// Content that a configured pattern caches.
        Artefact = "artefact",
        /// A page of our registry.
        Page = "page",
        /// Anything else on a registry's host.
        Other = "other",
    }

    /// The owner of the credential that upstream is asked with.
    CredentialKind {
        /// The client sent no login, and no account stands in.
        Anonymous = "anonymous",
        /// The client's own.
        Client = "client_credential",
        /// The administrator's account, or the login behind a token of ours.
        Account = "account",
    }

    /// The proof of whether the client may have stored content.
    Proof {
        /// Upstream served the repository to this credential lately.
        Verdict = "verdict",
        /// Upstream served it to an anonymous client lately.
        PublicVerdict = "public_verdict",
        /// Upstream served it to the administrator's account lately, which is shared.
        AccountVerdict = "account_verdict",
        /// Upstream said so to this request.
        Upstream = "upstream_allowed",
        /// Upstream once served it to an anonymous client; it cannot be asked now.
        PublicMark = "was_public",
        /// Upstream refused this request.
        Denied = "denied",
        /// Upstream could not be asked, and nothing is remembered.
        Unknown = "unknown_right",
    }

    /// The outcome of asking which digest a tag has.
    TagCheck {
        /// The last answer is young enough.
        Fresh = "tag_fresh",
        /// Upstream confirmed the digest that is known.
        Unchanged = "tag_unchanged",
        /// Upstream told another digest than the one that is known.
        Changed = "tag_changed",
        /// Upstream told a digest, and none was known.
        New = "tag_new",
        /// Upstream told no digest; the manifest itself has to tell it.
        Untold = "tag_untold",
        /// Upstream could not say.
        Unanswered = "tag_unanswered",
        /// Upstream blocks this client; it gives the repository to anonymous ones.
        Blocked = "tag_blocked",
        /// Upstream said a moment ago that there is none.
        KnownMissing = "tag_known_missing",
    }

    /// The origin of an answer's content.
    Served {
        /// The store, without asking upstream.
        Hit = "stored",
        /// The store; upstream has confirmed it for this request.
        Revalidated = "upstream_confirmed",
        /// The store, because upstream cannot say.
        Stale = "stale",
        /// A fetch that this request leads.
        Led = "led_fetch",
        /// A fetch that another request leads.
        Joined = "joined_fetch",
        /// A fetch because what was known of the tag was over.
        Refetched = "refetched",
        /// Upstream's answer to HEAD.
        Head = "upstream_head",
    }

    /// Why a request is refused or cannot be answered.
    Refused {
        /// No path that a registry has.
        Grammar = "grammar",
        /// The route has no such method.
        Method = "method",
        /// The request has been here before.
        Loop = "loop",
        /// Host and connection disagree.
        Misdirected = "misdirected",
        /// The configuration does not allow it.
        Policy = "policy",
        /// The address is loopback, link-local or our own.
        Address = "address",
        /// The target of a request through the proxy is not one.
        Target = "target",
        /// Pushes through the proxy are off.
        PushOff = "push_off",
        /// A mirror takes no such request.
        Mirror = "mirror",
        /// A token of ours is over.
        TokenIsOver = "token_is_over",
        /// A token is not given for this.
        TokenRefused = "token_refused",
        /// More scopes than a token is given for.
        Scopes = "scopes",
        /// No grant that is known.
        GrantType = "grant_type",
        /// The form is broken or too long.
        Form = "form",
        /// The form was not sent by a page of ours.
        ForgedForm = "forged_form",
        /// The page does not go by this host.
        Host = "host",
        /// There is no such page, or nothing at this path.
        NotHere = "not_here",
        /// Another change was faster.
        Moved = "moved",
        /// A login is needed.
        Unauthenticated = "unauthenticated",
        /// The login is wrong.
        WrongLogin = "wrong_login",
        /// The token is for something else.
        InsufficientScope = "insufficient_scope",
        /// The client has no right to it.
        Denied = "denied",
        /// The registry is read only.
        ReadOnly = "read_only",
        /// The tag may not be moved.
        ImmutableTag = "immutable_tag",
        /// The repository's quota.
        RepositoryQuota = "repository_quota",
        /// The registry's quota.
        RegistryQuota = "registry_quota",
        /// As many uploads run as may.
        TooManyUploads = "too_many_uploads",
        /// Long lists take all the memory that they may.
        TooManyLists = "too_many_lists",
        /// A condition of the request does not hold (412).
        Precondition = "precondition",
        /// Plain HTTP at an address for TLS.
        PlainHttp = "plain_http",
        /// Too many logins are being checked.
        Logins = "logins",
        /// Our own disk is full.
        DiskFull = "disk_full",
        /// Our own disk or index failed.
        IoError = "io_error",
        /// The repository or what is asked of it is not here.
        Unknown = "unknown",
        /// The registry takes no such content.
        Invalid = "invalid",
        /// Larger than what is taken.
        TooLarge = "too_large",
        /// The range cannot be satisfied.
        Range = "range",
        /// The client left in the middle of its body.
        ClientLeft = "client_left",
        /// The client stopped sending in the middle of its body.
        ClientStalled = "client_stalled",
        /// HTTP/1.0 cannot be given a body of unknown length.
        Http10 = "http_1_0",
        /// Upstream does not take the administrator's account.
        AccountRefused = "account_refused",
        /// Upstream sent something else than a manifest or a blob, such as a page.
        NoContent = "no_content",
        /// Upstream could not be reached.
        Unreachable = "upstream_unreachable",
        /// Upstream's token server limits its answers, or fails.
        TokenServer = "token_server",
        /// The place that the registry led to refused.
        RedirectTarget = "redirect_target",
        /// Upstream compressed what was asked for as it is.
        Encoded = "encoded",
        /// Upstream's bytes have another digest.
        WrongDigest = "wrong_digest",
        /// Upstream's bytes have another length.
        WrongLength = "wrong_length",
        /// Upstream broke off.
        Broken = "broken",
        /// Upstream made no progress.
        Timeout = "timeout",
        /// Upstream answered a part with something else.
        Status = "refused",
        /// The process stops.
        Interrupted = "interrupted",
        /// A bug of ours.
        Bug = "bug",
    }

    /// Whether a client may have what is cached.
    RightsOutcome {
        /// A live verdict said yes.
        Remembered = "remembered",
        /// Upstream was asked and said yes.
        Allowed = "allowed",
        /// Upstream was asked and said no.
        Denied = "denied",
        /// Upstream could not be asked and nothing is remembered.
        Unknown = "unknown",
    }

    /// How the disk threads make their calls.
    DiskLadder {
        /// By io_uring.
        Uring = "io_uring",
        /// By system calls that block the thread.
        Threads = "threads",
    }

    /// The direction of tunnelled bytes.
    Direction {
        /// From the client.
        Up = "up",
        /// To the client.
        Down = "down",
    }
}

impl Refused {
    /// The metric's word for a request that is refused without asking anybody. None for every other refusal.
    pub fn rejection(self) -> Option<Rejection> {
        match self {
            Self::Grammar | Self::Target => Some(Rejection::Malformed),
            Self::Misdirected => Some(Rejection::Misdirected),
            Self::Policy => Some(Rejection::Policy),
            Self::Loop => Some(Rejection::Loop),
            Self::Address => Some(Rejection::Address),
            Self::PushOff => Some(Rejection::PushOff),
            _ => None,
        }
    }
}

impl Proof {
    /// The metric's word.
    pub fn outcome(self) -> RightsOutcome {
        match self {
            Self::Verdict | Self::PublicVerdict | Self::AccountVerdict | Self::PublicMark => RightsOutcome::Remembered,
            Self::Upstream => RightsOutcome::Allowed,
            Self::Denied => RightsOutcome::Denied,
            Self::Unknown => RightsOutcome::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_plain() {
        fn check<L: Label>() {
            for (index, label) in L::ALL.iter().enumerate() {
                let word = label.word();
                assert!(
                    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                    "{word}"
                );
                assert!(L::ALL[..index].iter().all(|other| other.word() != word), "{word} twice");
            }
        }
        check::<UpstreamOutcome>();
        check::<FetchFailure>();
        check::<Bypass>();
        check::<Rejection>();
        check::<RightsOutcome>();
        check::<Interception>();
        check::<RequestRoute>();
        check::<CredentialKind>();
        check::<Proof>();
        check::<TagCheck>();
        check::<Served>();
        check::<Refused>();
        check::<DiskLadder>();
    }
}
