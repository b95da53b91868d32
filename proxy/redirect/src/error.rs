//! The reasons why nothing is redirected. Each message is one line: what is missing, and what to do.

use std::io;
use std::path::PathBuf;

use entrepot_core::exit;
use entrepot_net::admin_socket::SocketError;

/// The reason why the agent does not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The configuration asks for something that cannot be done.
    #[error("{0}")]
    Plan(String),
    #[error(
        "{what} is missing: run this as root, or give the process CAP_BPF and CAP_NET_ADMIN (and, before Linux 5.8, CAP_SYS_ADMIN)"
    )]
    Permission { what: &'static str },
    #[error("this kernel ({release}) is too old: {mode} needs Linux {needed} or newer")]
    Kernel { release: String, mode: &'static str, needed: &'static str },
    #[error(
        "no cgroup2 file system is mounted, and the programs have to be attached to it; mount one: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NoCgroups,
    #[error("{path} is not a bpf file system, and enforcing has to keep the programs there; mount one: mount -t bpf bpf {path}", path = path.display())]
    NoPins { path: PathBuf },
    #[error("another agent answers on {socket}; stop it first", socket = socket.display())]
    Running { socket: PathBuf },
    /// `what` is a verb with its object.
    #[error("cannot {what}: {reason}")]
    Routing { what: &'static str, reason: String },
    #[error("the control group {path} cannot be opened: {source}; name one below {root}", path = path.display(), root = root.display())]
    Cgroup { path: PathBuf, root: PathBuf, source: io::Error },
    /// `reason` has the whole answer of the kernel's verifier.
    #[error("the kernel refuses the program {program}: {reason}")]
    Load { program: &'static str, reason: String },
    #[error("cannot attach {program} to {place}: {reason}")]
    Attach { program: &'static str, place: String, reason: String },
    #[error("the kernel's map {map} cannot be used: {reason}")]
    Map { map: &'static str, reason: String },
    /// The kernel does not send packets into interfaces.
    #[error("no proof that packets arrive can be made: {reason}")]
    Proof { reason: String },
    /// Threads, sockets, signals.
    #[error("the system gives no {what}: {source}")]
    System { what: &'static str, source: io::Error },
    #[error("the socket for the agent's status (redirect.socket) cannot be opened: {0}")]
    Socket(#[source] SocketError),
}

impl From<SocketError> for RedirectError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::InUse(socket) => Self::Running { socket },
            other => Self::Socket(other),
        }
    }
}

impl RedirectError {
    /// The exit code, from sysexits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Plan(_) | Self::Cgroup { .. } => exit::CONFIGURATION,
            Self::Permission { .. } => exit::PERMISSION,
            Self::Proof { .. } | Self::Kernel { .. } | Self::NoCgroups | Self::NoPins { .. } | Self::Running { .. } => {
                exit::UNAVAILABLE
            }
            Self::Load { .. } => exit::BUG,
            Self::Attach { .. } | Self::Routing { .. } | Self::Map { .. } | Self::System { .. } | Self::Socket(_) => {
                exit::IO
            }
        }
    }
}
