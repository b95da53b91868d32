//! The admin door's two entrances, TCP and the unix socket. Both serve the same API.
//!
//! It bounds the connections, the time and size of a head, and the time that open replies get at shutdown.
//! `axum::serve` has none of these bounds, so this file uses hyper directly.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::AdminState;
use super::gate::{Entrance, TcpRights};
use super::router::Api;
use entrepot_net::admin_socket::AdminSocket;
use entrepot_observe::labels::Door;

struct Limits {
    /// The most connections at once. More wait in the kernel's queue.
    connections: usize,
    /// The time to send a whole head, and the idle time between requests.
    header_timeout: Duration,
    /// A larger head is answered with 431.
    head_max_bytes: usize,
    /// The time that open answers get at shutdown.
    drain_timeout: Duration,
    /// The pause after a failure to accept a connection (no file descriptors are left).
    accept_pause: Duration,
}

const LIMITS: Limits = Limits {
    connections: 128,
    header_timeout: Duration::from_secs(10),
    head_max_bytes: 16 * 1024,
    drain_timeout: Duration::from_secs(1),
    accept_pause: Duration::from_millis(100),
};

/// Serves TCP until `shutdown`, then lets open answers end. `rights` are the changes that it allows.
pub async fn serve_tcp(
    listener: TcpListener,
    state: Arc<AdminState>,
    rights: TcpRights,
    shutdown: impl Future<Output = ()>,
) {
    serve(TcpEntrance { listener, rights }, &state, shutdown, &LIMITS).await;
}

/// Serves the unix socket until `shutdown`. Its file is removed afterwards.
pub async fn serve_unix(socket: AdminSocket, state: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    serve(socket, &state, shutdown, &LIMITS).await;
}

/// A listener, and the rights of the connections that it accepts.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Entrance)>> + Send;
}

struct TcpEntrance {
    listener: TcpListener,
    rights: TcpRights,
}

impl Accept for TcpEntrance {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Entrance)> {
        let (stream, peer) = self.listener.accept().await?;
        let local = stream.local_addr()?.ip();
        Ok((stream, Entrance::Tcp { local, peer: peer.ip(), rights: self.rights.clone() }))
    }
}

impl Accept for AdminSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Entrance)> {
        Ok((self.listener.accept().await?.0, Entrance::Unix))
    }
}

async fn serve(entrance: impl Accept, state: &Arc<AdminState>, shutdown: impl Future<Output = ()>, limits: &Limits) {
    let api = Api::new(Arc::clone(state));
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((slot, entrance.accept().await?))
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((slot, (stream, came_by))) => {
                let open = state.metrics.connection(Door::Admin);
                let served = connection(stream, came_by, api.clone(), stopping.clone(), limits);
                connections.spawn(async move {
                    served.await;
                    drop((open, slot));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin door cannot accept a connection");
                tokio::time::sleep(limits.accept_pause).await;
            }
        }
    }
    drop(stop);
    let drained = async { while connections.join_next().await.is_some() {} };
    // The connections that remain are aborted when the set is dropped.
    let _ = tokio::time::timeout(limits.drain_timeout, drained).await;
}

/// Serves the requests of one connection, until it closes or the door closes.
fn connection<S>(
    stream: S,
    entrance: Entrance,
    api: Api,
    mut stopping: watch::Receiver<()>,
    limits: &Limits,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(limits.head_max_bytes);
    async move {
        let answer = service_fn(|request| {
            let (api, entrance) = (api.clone(), entrance.clone());
            async move { Ok::<_, Infallible>(api.answer(request, entrance).await) }
        });
        let mut served = pin!(http.serve_connection(TokioIo::new(stream), answer));
        // A connection that the client breaks is not logged.
        tokio::select! {
            _ = &mut served => {}
            _ = stopping.changed() => {
                served.as_mut().graceful_shutdown();
                let _ = served.await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
