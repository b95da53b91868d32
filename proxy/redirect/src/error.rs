//! Why there is no redirection. Each error is one line that says what is missing and what to do.

use std::io;
use std::path::PathBuf;

use entrepot_core::exit;
use entrepot_net::admin_socket::SocketError;

/// Why the agent does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The plan cannot be carried out.
    #[error("{0}")]
    Plan(String),
    /// A right that this process does not have.
    #[error(
        "{what} is missing: run this as root, or give the process CAP_BPF and CAP_NET_ADMIN (and, before Linux 5.8, CAP_SYS_ADMIN)"
    )]
    Permission {
        /// Which one.
        what: &'static str,
    },
    /// The kernel is too old for what was asked.
    #[error("this kernel ({release}) is too old: {mode} needs Linux {needed} or newer")]
    Kernel {
        /// What runs.
        release: String,
        /// What was asked for.
        mode: &'static str,
        /// What it needs.
        needed: &'static str,
    },
    /// There is no unified control group hierarchy.
    #[error(
        "no cgroup2 file system is mounted, and the programs are attached there; mount one: mount -t cgroup2 none /sys/fs/cgroup"
    )]
    NoCgroups,
    /// Enforcing needs a place that outlives the process.
    #[error("{path} is no bpf file system, and enforcing keeps the programs there; mount one: mount -t bpf bpf {path}", path = path.display())]
    NoPins {
        /// Where it should be.
        path: PathBuf,
    },
    /// An agent runs already, or still.
    #[error("an agent runs and answers on {socket}; stop it first", socket = socket.display())]
    Running {
        /// Its socket.
        socket: PathBuf,
    },
    /// Rules and routes.
    #[error("cannot {what}: {reason}")]
    Routing {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// A control group that was named is not there.
    #[error("the control group {path} cannot be opened: {source}; name one below {root}", path = path.display(), root = root.display())]
    Cgroup {
        /// Which one.
        path: PathBuf,
        /// Where they all are.
        root: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused the programs.
    #[error("the kernel refuses the program {program}: {reason}")]
    Load {
        /// Which one.
        program: &'static str,
        /// What it said, all of it.
        reason: String,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program} to {place}: {reason}")]
    Attach {
        /// Which one.
        program: &'static str,
        /// Where.
        place: String,
        /// What the system said.
        reason: String,
    },
    /// A map cannot be read or written.
    #[error("the kernel's map {map} cannot be used: {reason}")]
    Map {
        /// Which one.
        map: &'static str,
        /// What the system said.
        reason: String,
    },
    /// Threads, sockets, signals.
    #[error("the system gives no {what}: {source}")]
    System {
        /// What was asked.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The socket for the status.
    #[error("no place for the agent's status, redirect.socket: {0}")]
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
            Self::Kernel { .. } | Self::NoCgroups | Self::NoPins { .. } | Self::Running { .. } => exit::UNAVAILABLE,
            Self::Load { .. } => exit::BUG,
            Self::Attach { .. } | Self::Routing { .. } | Self::Map { .. } | Self::System { .. } | Self::Socket(_) => {
                exit::IO
            }
        }
    }
}
