//! A source of a blob: a registry, a repository, and a credential for which upstream served the blob there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use entrepot_core::coding;
use entrepot_core::digest::Digest;
use entrepot_core::error::{self, ErrorCode};
use entrepot_core::host::RegistryHost;
use entrepot_core::name::RepositoryName;
use entrepot_core::ranged::{AnswerHead, AskedRange, RangedAnswer, judge};
use entrepot_core::validator::Validator;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::fetch::FetchError;
use entrepot_store::ContentName;
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
    /// At this path and query, asked for with these headers of the client.
    Artefact { path: Arc<str>, headers: HeaderMap },
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
    /// The coding that upstream says the bytes of a blob have. None if it says none. The digest judges whether it is
    /// true.
    pub coding: Option<&'static str>,
    /// Whether the head alone shows that the registry serves the blob. Otherwise only the digest will show it.
    pub is_registrys_word: bool,
    /// The host that sends them.
    pub host: RegistryHost,
    /// From sending the request to the head of the answer.
    pub elapsed: Duration,
    /// When the head of the answer came.
    pub answered_at: SystemTime,
    /// The range that was asked for.
    pub asked: Option<ByteRange>,
    pub headers: HeaderMap,
    /// Whether the body is a page for people.
    pub is_page: bool,
}

/// What earlier answers told of the content.
#[derive(Clone, Copy, Default)]
pub struct Known<'a> {
    /// The whole length.
    pub size: Option<u64>,
    /// The state of an artefact.
    pub state: Option<&'a Validator>,
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
    /// Asks for the whole content, or for `range` of it. Of an artefact, a part is asked for only of the state that is
    /// known, and the whole otherwise. An upstream that does not serve the range is asked for the whole.
    pub async fn open(
        &self,
        content: &ContentName,
        range: Option<ByteRange>,
        known: Known<'_>,
    ) -> Result<Opened, OpenError> {
        if let Some(asked) = range {
            let answer = self.ask(content, range, known).await?;
            let asked = AskedRange { start: asked.start, end: asked.end, size: known.size };
            match judge(&head_of(&answer), &asked) {
                RangedAnswer::Part { start, size, .. } => return Ok(Opened::part(content, answer, range, start, size)),
                RangedAnswer::Whole => return opened_whole(content, answer, range).map_err(OpenError::Broken),
                RangedAnswer::Unsatisfiable | RangedAnswer::OtherRefusal => return Err(refused(content, answer).await),
                RangedAnswer::Unusable => {
                    tracing::debug!(%content, status = %answer.status, "upstream does not serve the range, asking for the whole");
                }
            }
        }
        let answer = self.ask(content, None, known).await?;
        match answer.status {
            StatusCode::OK => opened_whole(content, answer, None).map_err(OpenError::Broken),
            StatusCode::PARTIAL_CONTENT => {
                // Some content networks answer every request so.
                match judge(&head_of(&answer), &AskedRange { start: 0, end: None, size: known.size }) {
                    RangedAnswer::Part { start: 0, end, size } if end == size => {
                        Ok(Opened::part(content, answer, None, 0, size))
                    }
                    _ => {
                        let why = "206 for the whole blob, without a Content-Range that tells its length";
                        Err(OpenError::Broken(FetchError::WrongLength { content: content.clone(), why }))
                    }
                }
            }
            _ => Err(refused(content, answer).await),
        }
    }

    async fn ask(
        &self,
        content: &ContentName,
        range: Option<ByteRange>,
        known: Known<'_>,
    ) -> Result<Answer, OpenError> {
        let operation = match (&self.path, content) {
            (SourcePath::Blobs(repository), ContentName::Digest(digest)) => {
                Operation::blob(Method::GET, repository, digest, range)
            }
            (SourcePath::Blobs(_), ContentName::Path(path)) => {
                Operation::artefact(path, &HeaderMap::new(), range, known.state, false)
            }
            (SourcePath::Artefact { path, headers }, _) => {
                Operation::artefact(path, headers, range, known.state, content.digest().is_some())
            }
        };
        self.upstream.execute(&self.registry, &operation, &self.credential).await.map_err(OpenError::Failed)
    }
}

impl Opened {
    /// The body is a part of content of `size` bytes.
    fn part(content: &ContentName, answer: Answer, asked: Option<ByteRange>, start: u64, size: u64) -> Self {
        Self { size: Some(size), start, is_part: true, ..Self::whole(content, answer, asked) }
    }

    fn whole(content: &ContentName, answer: Answer, asked: Option<ByteRange>) -> Self {
        let coding = text(&answer.headers, &CONTENT_ENCODING).and_then(coding::changing);
        Self {
            size: answer.content_length(),
            start: 0,
            is_part: false,
            // An artefact that is encoded is passed on as it is.
            coding: coding.filter(|_| content.digest().is_some()),
            is_registrys_word: answer.is_registrys_word(),
            is_page: answer.is_page(),
            host: answer.host.clone(),
            elapsed: answer.elapsed,
            answered_at: SystemTime::now(),
            asked,
            body: answer.body,
            headers: answer.headers,
        }
    }

    /// The validator of the state that the bytes are of. None if upstream told no strong one.
    pub fn validator(&self) -> Option<Validator> {
        validator(&self.headers)
    }

    /// Whether the body ends before its first byte. For a body whose length was not told.
    pub async fn is_empty(self) -> bool {
        let mut body = self.body;
        while let Some(frame) = body.frame().await {
            if frame.map_or(true, |frame| frame.data_ref().is_some_and(|bytes| !bytes.is_empty())) {
                return false;
            }
        }
        true
    }
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

/// The strong validator in the fields of an answer.
pub fn validator(headers: &HeaderMap) -> Option<Validator> {
    let field = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Validator::of(field(ETAG), field(LAST_MODIFIED), field(DATE))
}

fn opened_whole(content: &ContentName, answer: Answer, asked: Option<ByteRange>) -> Result<Opened, FetchError> {
    let opened = Opened::whole(content, answer, asked);
    let nothing = content.digest().map(|digest| Digest::of(digest.algorithm(), b""));
    if let Some(nothing) = nothing.filter(|nothing| opened.size == Some(0) && content.digest() != Some(nothing)) {
        // An empty body is complete with its head: there is no last byte to hold back.
        let (content, got) = (content.clone(), Box::new(nothing));
        return Err(FetchError::WrongDigest { content, got });
    }
    Ok(opened)
}

async fn refused(content: &ContentName, answer: Answer) -> OpenError {
    let status = answer.status;
    if answer.crossed && status.is_client_error() && status != StatusCode::RANGE_NOT_SATISFIABLE {
        // The registry's answer counts, and it was a redirect. So a refusal by the redirect's target is a failure on
        // the way.
        return OpenError::Broken(FetchError::Status { content: content.clone(), status: status.as_u16() });
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
