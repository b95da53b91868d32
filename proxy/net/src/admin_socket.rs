//! The admin unix socket as a file: its mode is 0600 from its first moment, and it is removed when this process ends.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// A bound socket. Its file is removed when this is dropped, unless a successor has put its own there.
pub struct AdminSocket {
    pub listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// The reason why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another entrepot answers on it.
    #[error("another process already serves the admin socket {0}; stop it, or set admin.socket")]
    InUse(PathBuf),
    /// A file of another kind is in the way.
    #[error("{0} is in the way of the admin socket and is not a socket; remove it, or set admin.socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot make the admin socket {path}: {source} (admin.socket)")]
    Io { path: PathBuf, source: io::Error },
}

const BACKLOG: i32 = 128;

impl AdminSocket {
    /// Binds `path`, replacing a stale socket. A missing folder is made. Call it within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        check_free(path)?;
        let bound = listen(path).map_err(|source| SocketError::Io { path: path.to_owned(), source })?;
        Ok(Self { listener: bound.0, path: path.to_owned(), file: identity(&bound.1) })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Checks that the path can be taken. If the socket's process is gone, connections are refused, and the path is free.
/// Any other file there is in use or not ours to remove.
fn check_free(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    // A listener with a full backlog must not block us.
    probe.set_nonblocking(true).map_err(failed)?;
    match probe.connect(&SockAddr::unix(path).map_err(failed)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

/// Binds the socket under another name, sets its mode, lets it listen, and then renames it. So no client can connect
/// before the mode is right, and no client finds the path empty.
fn listen(path: &Path) -> io::Result<(UnixListener, Metadata)> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let mut unready = path.as_os_str().to_owned();
    unready.push(".new");
    let unready = PathBuf::from(unready);
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&unready)?)?;
    fs::set_permissions(&unready, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    fs::rename(&unready, path)?;
    let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
    Ok((UnixListener::from_std(listener)?, fs::symlink_metadata(path)?))
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn is_private_and_gone_afterwards() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/entrepot/admin.sock");
        let socket = AdminSocket::bind(&path).expect("bound");
        let mode = fs::symlink_metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a killed process leaves its file");
        let live = AdminSocket::bind(&path).expect("the stale file is no obstacle");
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::InUse(_))));
        assert!(UnixStream::connect(&path).is_ok(), "the live one was not harmed");
        drop(live);
    }

    #[tokio::test]
    async fn files_of_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        fs::write(&path, "precious").expect("written");
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
        fs::remove_file(&path).expect("removed");

        let first = AdminSocket::bind(&path).expect("bound");
        fs::remove_file(&path).expect("removed");
        let second = AdminSocket::bind(&path).expect("bound");
        drop(first);
        assert!(UnixStream::connect(&path).is_ok(), "a successor's file outlives its predecessor");
        drop(second);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x".repeat(200));
        let error = AdminSocket::bind(&path).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("admin.socket"), "{error}");
    }
}
