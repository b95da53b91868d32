//! Helpers of this folder's tests.

use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use entrepot_kernel::mapping::MappedFile;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client_socket::ClientSocket;

/// A bound on operations that should take no time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Both ends of a connection over loopback.
pub(crate) async fn socket_pair(send_timeout: Duration) -> (ClientSocket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    client.set_nodelay(true).expect("an option");
    (ClientSocket::new(listener.accept().await.expect("accepted").0, send_timeout), client)
}

/// A mapped file on a disk. In a memory file system, content is never cold.
pub(crate) fn mapped_file(content: &[u8]) -> Arc<MappedFile> {
    let mut file = tempfile::tempfile_in(std::env::current_dir().expect("a folder")).expect("a file");
    file.write_all(content).expect("written");
    file.sync_all().expect("synced");
    MappedFile::new(Arc::new(file), content.len() as u64).expect("mapped")
}

/// Writes slices as hyper does: all remaining ones at once, until none is left.
pub(crate) async fn write_all(io: &mut (impl AsyncWrite + Unpin), mut slices: Vec<Bytes>) -> io::Result<()> {
    while !slices.is_empty() {
        let borrowed: Vec<_> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut written = io.write_vectored(&borrowed).await?;
        drop(borrowed);
        while let Some(first) = slices.first_mut().filter(|first| written > 0 || first.is_empty()) {
            let taken = written.min(first.len());
            first.advance(taken);
            written -= taken;
            if first.is_empty() {
                slices.remove(0);
            }
        }
    }
    io.flush().await
}
