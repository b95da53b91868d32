//! A source of a blob: a registry, a repository, and a credential for which upstream served the blob there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::coding;
use entrepot_core::digest::Digest;
use entrepot_core::error::{self, ErrorCode};
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_core::ranged::{AnswerHead, AskedRange, RangedAnswer, judge};
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::fetch::FetchError;
use entrepot_upstream::credential::Credential;
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::operation::{ByteRange, Operation};
use entrepot_upstream::registry_client::{Answer, RegistryClient};
use entrepot_upstream::timed_body::TimedBody;
use entrepot_upstream::upstream_registry::UpstreamRegistry;

/// The upstream to ask for a blob, and the credential to ask with.
#[derive(Clone)]
pub struct BlobSource {
    /// Sends the requests to upstream.
    pub upstream: Arc<RegistryClient>,
    pub registry: UpstreamRegistry,
    /// The place of the bytes at the registry.
    pub path: SourcePath,
    /// The credential that may read it.
    pub credential: Credential,
    /// Whether upstream sees an anonymous client, so that what it serves is public.
    pub is_public: bool,
}

/// The place at which a registry has the bytes of a digest.
#[derive(Clone)]
pub enum SourcePath {
    /// Among the blobs of this repository.
    Blobs(RepositoryName),
    /// At this path and query, which no digest names.
    Artefact(Box<str>),
}

/// A blob's bytes as upstream began to send them.
pub struct Opened {
    /// The whole blob's length. None if upstream told no length.
    pub size: Option<u64>,
    /// The first byte that the body holds.
    pub start: u64,
    /// Whether the body ends at the end of the requested range, rather than at the end of the blob.
    pub is_part: bool,
    pub body: TimedBody,
    /// The coding that upstream says the bytes have. None if it says none. The digest judges whether it is true.
    pub coding: Option<&'static str>,
    /// Whether the head alone shows that the registry serves the blob. Otherwise only the digest will show it.
    pub is_registrys_word: bool,
    /// The host that sends them.
    pub host: RegistryHost,
    /// From sending the request to the head of the answer.
    pub elapsed: Duration,
}

/// Upstream answered, but not with the blob.
#[derive(Clone, Debug)]
pub struct UpstreamRefusal {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The start of its body: an error text.
    pub body: Bytes,
}

/// Why a blob could not be opened.
pub enum OpenError {
    /// Upstream refused. The client gets upstream's answer.
    Refused(UpstreamRefusal),
    /// Upstream could not be asked.
    Failed(UpstreamError),
    /// Upstream's answer makes no sense.
    Broken(FetchError),
}

/// The most that is read of an error body.
const REFUSAL_MAX_BYTES: usize = 64 * 1024;

impl BlobSource {
    /// Asks for the whole blob, or for `range` of it. `size` is the whole length, if it is known from before. An upstream
    /// that does not serve the range is asked for the whole blob.
    pub async fn open(
        &self,
        digest: &Digest,
        range: Option<ByteRange>,
        size: Option<u64>,
    ) -> Result<Opened, OpenError> {
        if let Some(range) = range {
            let answer = self.ask(digest, Some(range)).await?;
            let asked = AskedRange { start: range.start, end: range.end, size };
            match judge(&head_of(&answer), &asked) {
                RangedAnswer::Part { start, size, .. } => return Ok(Opened::part(answer, start, size)),
                RangedAnswer::Whole => return opened_whole(digest, answer),
                RangedAnswer::Unsatisfiable | RangedAnswer::OtherRefusal => return Err(refused(digest, answer).await),
                RangedAnswer::Unusable => {
                    tracing::debug!(%digest, status = %answer.status, "upstream does not serve the range, asking for the whole");
                }
            }
        }
        let answer = self.ask(digest, None).await?;
        match answer.status {
            StatusCode::OK => opened_whole(digest, answer),
            StatusCode::PARTIAL_CONTENT => {
                // Some content networks answer every request so.
                match judge(&head_of(&answer), &AskedRange { start: 0, end: None, size }) {
                    RangedAnswer::Part { start: 0, end, size } if end == size => Ok(Opened::part(answer, 0, size)),
                    _ => {
                        let why = "206 for the whole blob, without a Content-Range that tells its length";
                        Err(OpenError::Broken(FetchError::WrongLength { digest: *digest, why }))
                    }
                }
            }
            _ => Err(refused(digest, answer).await),
        }
    }

    async fn ask(&self, digest: &Digest, range: Option<ByteRange>) -> Result<Answer, OpenError> {
        let operation = match &self.path {
            SourcePath::Blobs(repository) => Operation::blob(Method::GET, repository, digest, range),
            SourcePath::Artefact(path) => Operation::artefact(path, range),
        };
        self.upstream.execute(&self.registry, &operation, &self.credential).await.map_err(OpenError::Failed)
    }
}

impl Opened {
    /// The body is a part of content of `size` bytes.
    fn part(answer: Answer, start: u64, size: u64) -> Self {
        Self { size: Some(size), start, is_part: true, ..Self::whole(answer) }
    }

    fn whole(answer: Answer) -> Self {
        Self {
            size: answer.content_length(),
            start: 0,
            is_part: false,
            coding: text(&answer.headers, &CONTENT_ENCODING).and_then(coding::changing),
            is_registrys_word: answer.is_registrys_word(),
            host: answer.host.clone(),
            elapsed: answer.elapsed,
            body: answer.body,
        }
    }
}

fn opened_whole(digest: &Digest, answer: Answer) -> Result<Opened, OpenError> {
    let opened = Opened::whole(answer);
    let nothing = Digest::of(digest.algorithm(), b"");
    if opened.size == Some(0) && *digest != nothing {
        // An empty body is complete with its head: there is no last byte to hold back.
        return Err(OpenError::Broken(FetchError::WrongDigest { digest: *digest, got: Box::new(nothing) }));
    }
    Ok(opened)
}

async fn refused(digest: &Digest, answer: Answer) -> OpenError {
    let status = answer.status;
    if answer.crossed && status.is_client_error() && status != StatusCode::RANGE_NOT_SATISFIABLE {
        // The registry's answer counts, and it was a redirect. So a refusal by the redirect's target is a failure on
        // the way.
        return OpenError::Broken(FetchError::Status { digest: *digest, status: status.as_u16() });
    }
    OpenError::Refused(UpstreamRefusal::read(answer).await)
}

fn head_of(answer: &Answer) -> AnswerHead<'_> {
    AnswerHead {
        status: answer.status.as_u16(),
        content_range: text(&answer.headers, &CONTENT_RANGE),
        content_type: text(&answer.headers, &CONTENT_TYPE),
        content_length: answer.content_length(),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl UpstreamRefusal {
    /// Reads an error answer into memory.
    pub async fn read(answer: Answer) -> Self {
        let body = Limited::new(answer.body, REFUSAL_MAX_BYTES).collect().await;
        let body = body.map(|collected| collected.to_bytes()).unwrap_or_default();
        Self { status: answer.status, headers: answer.headers, body }
    }

    /// Puts the error table's words into a body that upstream left empty.
    #[must_use]
    pub fn worded(mut self, unknown: ErrorCode) -> Self {
        let code = match self.status {
            StatusCode::NOT_FOUND => unknown,
            StatusCode::UNAUTHORIZED => ErrorCode::Unauthorized,
            StatusCode::FORBIDDEN => ErrorCode::Denied,
            StatusCode::TOO_MANY_REQUESTS => ErrorCode::TooManyRequests,
            status if status.is_server_error() => ErrorCode::BadGateway,
            _ => return self,
        };
        if self.body.is_empty() {
            self.body = error::body(code, code.message(), None).into();
            self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self
    }
}
