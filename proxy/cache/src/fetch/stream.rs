//! Bytes of a blob or an artefact from upstream, in order from one offset. It mends every break: with back-off, a fresh
//! redirect, a Range from the byte after the last good one, and the next source when one is refused. Bytes of an artefact
//! go on only in the same state of it; without a validator nothing tells that, and a break is the end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::validator::Validator;
use http::StatusCode;
use http_body_util::BodyExt;

use crate::fetch::FetchError;
use crate::fetch::source::{BlobSource, Known, OpenError, Opened};
use entrepot_store::ContentName;
use entrepot_upstream::error::UpstreamError;
use entrepot_upstream::operation::ByteRange;
use entrepot_upstream::timed_body::TimedBody;

/// Bytes `position..limit` of some content.
pub struct BlobStream {
    content: ContentName,
    /// The state of an artefact that the bytes are of. None if it is not known yet, or has no validator.
    state: Option<Validator>,
    sources: VecDeque<BlobSource>,
    body: Option<TimedBody>,
    /// How the body ended, cleanly or with an error, if that was not dealt with yet.
    ended: Option<Option<UpstreamError>>,
    /// Bytes of the body that come before `position`, because upstream ignored our Range.
    skip: u64,
    position: u64,
    limit: Option<u64>,
    size: Option<u64>,
    /// The coding that upstream said the bytes have.
    coding: Option<&'static str>,
    /// Failures since the last byte.
    failures: u32,
    /// How many answers went on after a failure and are not reported yet.
    resumed: u64,
}

/// Failures without one byte of progress after which a fetch gives up.
const FAILURES_MAX: u32 = 6;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);

impl BlobStream {
    /// A stream from `position` up to `limit`, or to the blob's end. No answer is open yet.
    pub fn new(
        content: ContentName,
        sources: Vec<BlobSource>,
        position: u64,
        limit: Option<u64>,
        size: Option<u64>,
    ) -> Self {
        Self {
            content,
            state: None,
            sources: sources.into(),
            body: None,
            ended: None,
            skip: 0,
            position,
            limit,
            size,
            coding: None,
            failures: 0,
            resumed: 0,
        }
    }

    /// The same stream of an artefact that was in this state when its first bytes came.
    pub fn of_state(self, state: Option<Validator>) -> Self {
        Self { state, ..self }
    }

    /// The same stream, with the answer that opened the blob.
    pub fn with_opened(mut self, opened: Opened) -> Self {
        self.skip = self.position.saturating_sub(opened.start);
        self.size = self.size.or(opened.size);
        self.state = self.state.or_else(|| opened.validator());
        self.coding = opened.coding;
        self.body = Some(opened.body);
        self
    }

    /// The coding that upstream said the bytes have. None if it said none. Only the digest shows whether that is true.
    pub fn coding(&self) -> Option<&'static str> {
        self.coding
    }

    /// The blob's length. None until upstream told it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next byte to come.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How often the stream went on after a break, since the last call.
    pub fn take_resumed(&mut self) -> u64 {
        std::mem::take(&mut self.resumed)
    }

    /// The stream's end, as far as known. A limit may lie behind the blob's end, because clients may ask for more
    /// bytes.
    fn end(&self) -> Option<u64> {
        self.limit.into_iter().chain(self.size).min()
    }

    /// The next bytes. None after the last. It is safe to drop this and call it again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            if self.is_at_end() {
                return Ok(None);
            }
            match self.ended.take() {
                Some(None) if self.size.is_none() => {
                    // Without a length, the blob ends where upstream's body ends; the digest decides.
                    self.size = Some(self.position);
                    continue;
                }
                Some(error) => {
                    let in_full =
                        |error| FetchError::Upstream { content: self.content.clone(), error: Arc::new(error) };
                    let error = error.map(in_full);
                    self.broke(error).await?;
                }
                None => {}
            }
            if self.body.is_none() {
                self.reopen().await?;
            }
            if let Some(bytes) = self.more().await {
                return Ok(Some(bytes));
            }
        }
    }

    /// The next bytes of the open answer. None if it gives no more; [`BlobStream::next`] then finds the end or another
    /// answer. It never asks upstream for anything, so it is cheap to drop and call again.
    pub async fn more(&mut self) -> Option<Bytes> {
        while !self.is_at_end() && self.ended.is_none() {
            match self.body.as_mut()?.frame().await {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.into_data().ok().and_then(|bytes| self.take(bytes)) {
                        return Some(bytes);
                    }
                }
                Some(Err(error)) => self.ended = Some(Some(error)),
                None => self.ended = Some(None),
            }
        }
        None
    }

    fn is_at_end(&self) -> bool {
        self.end().is_some_and(|end| self.position >= end)
    }

    /// Cuts off bytes at either end that were not asked for.
    fn take(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        if self.skip > 0 {
            let skipped = self.skip.min(bytes.len() as u64);
            bytes = bytes.slice(skipped as usize..);
            self.skip -= skipped;
        }
        if let Some(end) = self.end() {
            let left = end.saturating_sub(self.position);
            if bytes.len() as u64 > left {
                bytes.truncate(left as usize);
            }
        }
        self.position += bytes.len() as u64;
        (!bytes.is_empty()).then(|| {
            self.failures = 0;
            bytes
        })
    }

    async fn broke(&mut self, error: Option<FetchError>) -> Result<(), FetchError> {
        self.body = None;
        self.failures += 1;
        let may_go_on = self.position == 0 || self.content.digest().is_some() || self.state.is_some();
        if self.failures > FAILURES_MAX || !may_go_on {
            let why = if may_go_on { "it ends early, again and again" } else { "it ends early" };
            let short = FetchError::WrongLength { content: self.content.clone(), why };
            return Err(error.unwrap_or(short));
        }
        let backoff = BACKOFF_FIRST.saturating_mul(1 << (self.failures - 1).min(8)).min(BACKOFF_LONGEST);
        tracing::debug!(content = %self.content, position = self.position, failures = self.failures, "upstream broke off, resuming");
        tokio::time::sleep(backoff).await;
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), FetchError> {
        let Some(source) = self.sources.front() else {
            return Err(FetchError::WrongLength { content: self.content.clone(), why: "nobody is left to ask" });
        };
        // The last try asks for the whole: an upstream that breaks every answer to a range refuses ranges as well.
        let whole = (self.position == 0 && self.limit.is_none()) || self.failures == FAILURES_MAX;
        let range = (!whole).then_some(ByteRange { start: self.position, end: self.limit });
        match source.open(&self.content, range, Known { size: self.size, state: self.state.as_ref() }).await {
            Ok(opened) => self.resume(opened),
            // A redirect's target refused. The next try gets a fresh redirect.
            Err(OpenError::Broken(error @ FetchError::Status { .. })) => self.broke(Some(error)).await,
            Err(OpenError::Broken(error)) => Err(error),
            Err(OpenError::Failed(error)) => {
                let error = FetchError::Upstream { content: self.content.clone(), error: Arc::new(error) };
                self.broke(Some(error)).await
            }
            Err(OpenError::Refused(refusal)) => {
                let error = FetchError::Status { content: self.content.clone(), status: refusal.status.as_u16() };
                let transient = refusal.status.is_server_error() || refusal.status == StatusCode::TOO_MANY_REQUESTS;
                if transient {
                    return self.broke(Some(error)).await;
                }
                // A token ran out, or rights were taken away. The next source may still have them.
                self.sources.pop_front();
                if self.sources.is_empty() { Err(error) } else { Ok(()) }
            }
        }
    }

    fn resume(&mut self, opened: Opened) -> Result<(), FetchError> {
        if let (Some(known), Some(told)) = (self.size, opened.size)
            && known != told
        {
            return Err(FetchError::WrongLength {
                content: self.content.clone(),
                why: "it changed between two answers",
            });
        }
        if self.content.digest().is_none() {
            let told = opened.validator();
            match &self.state {
                Some(state) if !state.holds(told.as_ref(), opened.is_part) => {
                    return Err(FetchError::Changed { content: self.content.clone() });
                }
                Some(_) => {}
                None => self.state = told,
            }
        }
        self.size = self.size.or(opened.size);
        self.skip = self.position.saturating_sub(opened.start);
        self.coding = self.coding.or(opened.coding);
        self.resumed += u64::from(self.failures > 0);
        self.body = Some(opened.body);
        Ok(())
    }
}
