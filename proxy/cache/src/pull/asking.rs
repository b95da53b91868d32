//! Asking upstream: whether it serves something to this request, and the sources of bytes. Every answer says something
//! about the right to the content, so each goes through `rights`, which alone makes a [`Right`].

use std::sync::Arc;
use std::time::Duration;

use entrepot_core::error::ErrorCode;
use entrepot_core::media::ManifestType;
use entrepot_core::name::RepositoryName;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::fetch::source::{BlobSource, Known, OpenError, SourcePath, UpstreamRefusal};
use crate::pull::error::{PullError, is_denial, is_transient};
use crate::pull::request::BlobRequest;
use crate::pull::rights::{Object, Right};
use crate::pull::{Pull, RequestContext};
use entrepot_observe::labels::{Proof, UpstreamOutcome};
use entrepot_observe::trail::Decision;
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::operation::{ByteRange, Operation};
use entrepot_upstream::registry_client::{Answer, failure_of, outcome_of};

/// Upstream's answer, by what it says about the right to the content.
pub(super) enum Asked {
    /// Upstream serves it to this credential.
    Allowed(Box<Answer>, Right),
    /// It led elsewhere, or takes no HEAD: only the content itself can tell.
    Unproven(Box<Answer>),
    /// It refused.
    Refused(PullError),
    /// It could not be asked, or was not in a state to say.
    Down(PullError),
}

/// The answer of the client's own registry about a blob that is here already.
pub(super) enum Probed {
    /// It serves it to this credential, of the same length.
    Serves(Right),
    /// It may; only its bytes will tell.
    Unclear,
}

/// The content that is asked for. It tells when an answer shows that the registry itself gives it to this credential. A
/// redirect shows nothing, and neither does a page: both are ways to ask for a login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    Manifest,
    /// Content of this length. None if the length is not known.
    Content(Option<u64>),
}

impl Pull {
    /// Asks upstream, and remembers what its answer says about the right to the repository.
    pub(super) async fn ask(
        &self,
        request: &RequestContext,
        repository: &RepositoryName,
        operation: &Operation,
        wanted: Wanted,
    ) -> Asked {
        self.ask_about(request, &Object::Repository(request.place(repository)), operation, wanted).await
    }

    /// The same about any object.
    pub(super) async fn ask_about(
        &self,
        request: &RequestContext,
        object: &Object,
        operation: &Operation,
        wanted: Wanted,
    ) -> Asked {
        let answer = request.execute(operation).await;
        self.weigh(request, object, operation, wanted, answer).await
    }

    /// What an answer says, which is remembered.
    pub(super) async fn weigh(
        &self,
        request: &RequestContext,
        object: &Object,
        operation: &Operation,
        wanted: Wanted,
        answer: Result<Answer, UpstreamError>,
    ) -> Asked {
        match answer {
            Ok(answer) if wanted.is_shown_by(&answer) => {
                Asked::Allowed(Box::new(answer), self.approve(request, object))
            }
            Ok(answer) if wanted != Wanted::Manifest && is_foreign_page(&answer) => {
                request.trail.record(Decision::Right { proof: Proof::Unknown, age: Duration::ZERO });
                Asked::Down(PullError::NoContent { host: answer.host, what: "a page".to_owned(), wanted: "content" })
            }
            Ok(answer) if is_open_question(&answer) => Asked::Unproven(Box::new(answer)),
            Ok(answer) if is_transient(answer.status) => {
                request.trail.record(Decision::Right { proof: Proof::Unknown, age: Duration::ZERO });
                Asked::Down(PullError::answered(UpstreamRefusal::read(answer).await.worded(operation.unknown)))
            }
            Ok(answer) => {
                request.trail.record(Decision::Right { proof: Proof::Denied, age: Duration::ZERO });
                if !answer.crossed && is_denial(answer.status) {
                    self.deny(request, object, answer.status, &answer.headers).await;
                }
                Asked::Refused(self.refused_by_upstream(request, answer, operation.unknown).await)
            }
            Err(error) => {
                request.trail.record(Decision::Right { proof: Proof::Unknown, age: Duration::ZERO });
                Asked::Down(self.unreachable(request, Arc::new(error)))
            }
        }
    }

    /// Asks the client's own registry by HEAD. Where that is answered by a redirect, one byte is fetched, or all of an
    /// empty blob, which has none: the page that asks for a login has another length than the blob.
    pub(super) async fn probe(&self, blob: &BlobRequest<'_>, size: Option<u64>) -> Result<Probed, PullError> {
        let operation = Operation::probe(blob.repository, &blob.digest);
        let asked = match self.heads_lie(blob.request) {
            true => None,
            false => Some(self.ask(blob.request, blob.repository, &operation, Wanted::Content(size)).await),
        };
        match asked {
            Some(Asked::Allowed(answer, right)) => {
                let told = answer.content_length();
                let is_alike = told.is_none() || size.is_none() || told == size;
                Ok(if is_alike { Probed::Serves(right) } else { Probed::Unclear })
            }
            None | Some(Asked::Unproven(_)) => {
                let first_byte = (size != Some(0)).then_some(ByteRange { start: 0, end: Some(1) });
                match self.blob_source(blob).open(&blob.digest.into(), first_byte, Known::default()).await {
                    Ok(opened) => {
                        blob.request.record_upstream(&opened.host, UpstreamOutcome::Ok, Some(opened.elapsed));
                        let told = match opened.size {
                            None if size == Some(0) => opened.is_empty().await.then_some(0),
                            told => told,
                        };
                        if told.is_none() || told != size {
                            return Ok(Probed::Unclear);
                        }
                        Ok(Probed::Serves(self.approve(blob.request, &Object::Repository(blob.place()))))
                    }
                    Err(OpenError::Broken(_)) => Ok(Probed::Unclear),
                    Err(error) => Err(self.not_opened(blob, error).await),
                }
            }
            Some(Asked::Refused(error) | Asked::Down(error)) => Err(error),
        }
    }

    /// Upstream's refusal, its challenge made one that the client can answer here where need be.
    pub(super) async fn refused_by_upstream(
        &self,
        request: &RequestContext,
        answer: Answer,
        unknown: ErrorCode,
    ) -> PullError {
        if answer.crossed {
            return PullError::RedirectTarget { host: answer.host, status: answer.status };
        }
        PullError::answered(self.challenged(request, UpstreamRefusal::read(answer).await.worded(unknown)))
    }

    /// Upstream could not be asked. That is said once for each request.
    pub(super) fn unreachable(&self, request: &RequestContext, error: Arc<UpstreamError>) -> PullError {
        let (registry, path) = (&request.registry.origin, request.path());
        match error.client_fault() {
            Some(_) => tracing::info!(client = %request.connection.client, %registry, path, "{error}"),
            None => tracing::warn!(%registry, path, "{error}"),
        }
        PullError::Unreachable(error)
    }

    /// The error of a blob that upstream did not open. A refusal ends the rights that it speaks about.
    pub(super) async fn not_opened(&self, blob: &BlobRequest<'_>, error: OpenError) -> PullError {
        match error {
            OpenError::Refused(refusal) => {
                let host = blob.request.registry.host();
                blob.request.record_upstream(host, outcome_of(refusal.status), None);
                if is_denial(refusal.status) {
                    let object = Object::Repository(blob.place());
                    self.deny(blob.request, &object, refusal.status, &refusal.headers).await;
                }
                PullError::answered(self.challenged(blob.request, refusal.worded(ErrorCode::BlobUnknown)))
            }
            OpenError::Failed(error) => self.fetch_failed(blob.request, Arc::new(error)),
            OpenError::Broken(error) => PullError::Broken(error),
        }
    }

    /// The error of content whose fetch found no upstream.
    pub(super) fn fetch_failed(&self, request: &RequestContext, error: Arc<UpstreamError>) -> PullError {
        request.record_upstream(request.registry.host(), failure_of(&error), None);
        self.unreachable(request, error)
    }

    /// A source of a request's bytes.
    pub(super) fn source(&self, request: &RequestContext, path: SourcePath) -> BlobSource {
        BlobSource {
            upstream: request.snapshot.upstream.clone(),
            registry: request.registry.clone(),
            path,
            credential: request.credential.clone(),
            is_public: self.is_public_answer(request),
        }
    }

    /// A source of a blob's bytes for this request.
    pub(super) fn blob_source(&self, blob: &BlobRequest<'_>) -> BlobSource {
        self.source(blob.request, SourcePath::Blobs(blob.repository.clone()))
    }
}

impl Wanted {
    /// Whether the head names a manifest's type.
    pub(super) fn is_typed(answer: &Answer) -> bool {
        let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        content_type.is_some_and(|content_type| ManifestType::of(content_type).is_some())
    }

    fn is_shown_by(self, answer: &Answer) -> bool {
        let is_it = || match self {
            Self::Manifest => Self::is_typed(answer),
            Self::Content(size) => size.is_none() || answer.content_length() == size,
        };
        answer.status.is_success() && answer.is_registrys_word() && (answer.digest.is_some() || is_it())
    }
}

/// Whether a page for people was sent as content. A captive network sends its own for everything, and a registry may send
/// one that asks for a login. Neither says anything about the content. For a manifest, its GET tells.
fn is_foreign_page(answer: &Answer) -> bool {
    answer.status == StatusCode::OK && answer.digest.is_none() && answer.is_page()
}

fn is_open_question(answer: &Answer) -> bool {
    answer.status.is_success()
        || answer.status.is_redirection()
        || matches!(answer.status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
        || (answer.crossed && answer.status.is_client_error())
}
