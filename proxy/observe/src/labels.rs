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
        /// 3130 and the unix socket.
        Admin = "admin",
    }

    /// What upstream was asked.
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

    /// What came of asking upstream.
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
        /// A manifest whose media type is in doubt.
        Ambiguous = "ambiguous",
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
        /// What it said is neither HTTP nor TLS.
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

    /// Which way tunnelled bytes went.
    Direction {
        /// From the client.
        Up = "up",
        /// To the client.
        Down = "down",
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
                assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
                assert!(L::ALL[..index].iter().all(|other| other.word() != word), "{word} twice");
            }
        }
        check::<UpstreamOutcome>();
        check::<FetchFailure>();
        check::<Bypass>();
        check::<Rejection>();
        check::<RightsOutcome>();
        check::<DiskLadder>();
    }
}
