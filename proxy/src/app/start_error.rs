//! The reasons for which a server does not start, and the exit code of each.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use entrepot_core::disk_refusal::DiskRefusal;
use entrepot_core::exit;
use entrepot_net::admin_socket::SocketError;
use entrepot_net::tls::error::CaError;
use entrepot_observe::access_log::AccessLogError;
use entrepot_observe::events::EventsError;
use entrepot_store::StoreError;

/// The reason why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The event log cannot be opened.
    #[error(transparent)]
    Events(#[from] EventsError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; {hint}")]
    Bind {
        /// The address and port that was wanted.
        address: SocketAddr,
        source: io::Error,
        hint: &'static str,
    },
    /// The admin socket cannot be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The data directory cannot be created.
    #[error("cannot create {path}: {source}; choose another place (data_dir, --data-dir)", path = path.display())]
    DataDir { path: PathBuf, source: io::Error },
    /// The key of the registry's tokens cannot be read or created.
    #[error("cannot read or make the key of the registry's tokens in {path}: {source}", path = path.display())]
    TokenKey {
        /// The data directory.
        path: PathBuf,
        source: io::Error,
    },
    /// The system gives no threads, signals or random bytes.
    #[error("the system gives no {what}: {source}")]
    System {
        /// The missing thing, in words.
        what: &'static str,
        source: io::Error,
    },
}

impl StartError {
    /// The exit code, from sysexits.
    pub fn exit_code(&self) -> u8 {
        let io = match self {
            Self::Ca(CaError::Unwritable { source, .. }) if DiskRefusal::of(source).is_some() => return exit::IO,
            Self::Events(_) | Self::Ca(_) => return exit::CONFIGURATION,
            Self::Store(StoreError::Locked { .. }) => return exit::UNAVAILABLE,
            Self::Store(StoreError::NewerFormat { .. }) => return exit::CONFIGURATION,
            Self::Bind { source, .. } | Self::DataDir { source, .. } => source.kind(),
            _ => return exit::IO,
        };
        match io {
            io::ErrorKind::PermissionDenied => exit::PERMISSION,
            io::ErrorKind::AddrInUse => exit::UNAVAILABLE,
            _ => exit::IO,
        }
    }
}
