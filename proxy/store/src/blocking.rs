//! The edge between async callers and blocking work: the work runs on the blocking pool of the caller's runtime.

use tokio::task::spawn_blocking;
use tracing::Span;

use crate::errors::StoreError;

/// Runs blocking work. None only if the work panicked, which is a bug of ours and logged as such.
pub(crate) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    // The events of the work belong to the caller's request.
    let span = Span::current();
    let outcome = spawn_blocking(move || span.in_scope(run)).await;
    outcome.inspect_err(|error| tracing::error!("a store operation failed, please report this: {error}")).ok()
}

/// Runs blocking work that may fail. A panic becomes an error like any other.
pub(crate) async fn try_blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    blocking(run).await.unwrap_or(Err(StoreError::DiskThreadGone))
}
