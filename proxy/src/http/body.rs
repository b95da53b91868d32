//! The body of an answer: in memory, from upstream, from the store, or from a fill that is running.
//!
//! Invariant: a body that goes wrong ends in an error, which makes hyper cut the connection; it never just ends. HTTP/1.0
//! cannot tell that from an end where the length is unknown, so it gets no such body (`length.rs`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::fill::FillError;
use crate::fill::reader::FlightReader;
use crate::fill::through::Through;
use crate::pull::oversize::Oversize;
use crate::pull::stored::StoredReader;
use crate::upstream::body::TimedBody;
use crate::upstream::error::UpstreamError;

/// Where an answer's bytes come from.
pub enum ReplyBody {
    /// Memory.
    Full(Bytes),
    /// Upstream, as it comes.
    Upstream(TimedBody),
    /// Bytes that are produced one piece after another.
    Pieces(Pieces),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The blob could not be completed.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// Upstream's relayed body broke.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// A producer of pieces. Each knows how to make the next one.
pub enum Producer {
    /// A published blob.
    Stored(StoredReader),
    /// A running fill.
    Flight(FlightReader),
    /// Straight from upstream, checked.
    Through(Through),
    /// A manifest that is too large to be kept.
    Oversize(Oversize),
    /// What a task copies to the client and to the disk.
    Copied(mpsc::Receiver<Result<Bytes, FillError>>),
}

type Next = Pin<Box<dyn Future<Output = (Box<Producer>, Result<Option<Bytes>, BodyError>)> + Send>>;

/// A producer at work: the future of the next piece owns it and gives it back.
pub struct Pieces {
    next: Option<Next>,
}

impl From<Producer> for ReplyBody {
    fn from(producer: Producer) -> Self {
        ReplyBody::Pieces(Pieces { next: Some(produce(Box::new(producer))) })
    }
}

fn produce(mut producer: Box<Producer>) -> Next {
    Box::pin(async move {
        let piece = match producer.as_mut() {
            Producer::Stored(reader) => reader.next().await.map_err(BodyError::from),
            Producer::Flight(reader) => reader.next().await.map_err(BodyError::from),
            Producer::Through(reader) => reader.next().await.map_err(BodyError::from),
            Producer::Oversize(manifest) => manifest.next().await,
            Producer::Copied(receiver) => receiver.recv().await.transpose().map_err(BodyError::from),
        };
        (producer, piece)
    })
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ReplyBody::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            ReplyBody::Upstream(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
            }
            ReplyBody::Pieces(pieces) => pieces.poll(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Full(bytes) => bytes.is_empty(),
            ReplyBody::Upstream(body) => body.is_end_stream(),
            ReplyBody::Pieces(pieces) => pieces.next.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Upstream(body) => body.size_hint(),
            ReplyBody::Pieces(_) => SizeHint::default(),
        }
    }
}

impl Pieces {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (producer, piece) = ready!(next.as_mut().poll(context));
        self.next = matches!(piece, Ok(Some(_))).then(|| produce(producer));
        Poll::Ready(piece.transpose())
    }
}
