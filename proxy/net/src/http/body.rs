//! The body of a reply: bytes in memory, a relayed body, or pieces that are made one after another.
//!
//! This file does not know where pieces come from. The cache and the registry provide a stream of them.
//!
//! Invariant: a body that fails ends in an error, which makes hyper cut the connection. It never just ends. HTTP/1.0
//! cannot tell the two ends apart if the length is unknown, so it gets no such body (`length.rs`).

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

/// The body of a reply, by the origin of its bytes.
pub enum ReplyBody {
    /// Bytes in memory.
    Full(Bytes),
    /// The body of another server, at that server's speed.
    Relayed(UnsyncBoxBody<Bytes, BodyError>),
    /// Pieces that are made when the client has room for them.
    Pieces(Pieces),
}

/// The reason why a body broke off. The text says whether upstream, the client or we are at fault.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(Box<dyn std::error::Error + Send + Sync>);

impl BodyError {
    /// Breaks a body off because of `error`.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Makes the pieces of a body, in order.
pub trait PieceSource: Send + 'static {
    /// The next bytes. None after the last. An error if the client must not take the body for complete.
    fn piece(&mut self) -> impl Future<Output = Result<Option<Bytes>, BodyError>> + Send;
}

/// A source at work. None once it has ended or failed, and then it is not polled again.
pub struct Pieces(Option<Pin<Box<PieceStream>>>);

type PieceStream = dyn Stream<Item = Result<Bytes, BodyError>> + Send;

impl ReplyBody {
    /// Another server's body, relayed.
    pub fn relayed<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::Relayed(body.map_err(BodyError::new).boxed_unsync())
    }

    /// The pieces that `source` makes.
    pub fn pieces(source: impl PieceSource) -> Self {
        let pieces =
            stream::try_unfold(source, async |mut source| Ok(source.piece().await?.map(|bytes| (bytes, source))));
        Self::Pieces(Pieces(Some(Box::pin(pieces))))
    }
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
            ReplyBody::Relayed(body) => Pin::new(body).poll_frame(context),
            ReplyBody::Pieces(pieces) => pieces.poll(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ReplyBody::Full(bytes) => bytes.is_empty(),
            ReplyBody::Relayed(body) => body.is_end_stream(),
            ReplyBody::Pieces(pieces) => pieces.0.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ReplyBody::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ReplyBody::Relayed(body) => body.size_hint(),
            ReplyBody::Pieces(_) => SizeHint::default(),
        }
    }
}

impl Pieces {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        let piece = stream.as_mut().poll_next(context);
        if matches!(piece, Poll::Ready(None | Some(Err(_)))) {
            self.0 = None;
        }
        piece
    }
}
