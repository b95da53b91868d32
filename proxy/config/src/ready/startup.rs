//! The part that is read once. The server binds it, opens it or starts threads by it. A changed value takes effect with
//! the next start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use entrepot_core::mdns_name::MdnsName;
use entrepot_core::quantity::Size;
use entrepot_core::secret::Secret;

/// The sections, and the parts of sections, that hold from the start of the server to its end.
pub struct Startup {
    /// The directory of blobs, partial blobs and the index. By default it also holds the CA and the sockets.
    pub data_dir: PathBuf,
    /// `[proxy]`
    pub proxy: ProxyListen,
    /// `[transparent]`: the sockets of the door for redirected connections.
    pub transparent: Listen,
    /// `[registry]`
    pub registry: RegistryListen,
    /// `[admin]`
    pub admin: AdminDoor,
    /// `[ca]`
    pub ca: CaFiles,
    /// `[data_plane]`
    pub data_plane: DataPlane,
    /// `[mdns]`
    pub mdns: Mdns,
    /// `[logging]`
    pub logging: LogOutput,
}

/// The sockets of the explicit proxy, and the most connections that all doors hold.
pub struct ProxyListen {
    /// At least one address.
    pub listen: Vec<SocketAddr>,
    /// The most connections that all doors hold at once. Beyond it, silent ones make room, or new ones wait.
    pub max_connections: usize,
    /// The most connections that are held at once for one client: an IPv4 address or a /64 of IPv6. More are closed.
    pub max_connections_per_client: usize,
}

/// The sockets of our own registry.
pub struct RegistryListen {
    /// Plain HTTP.
    pub http: Listen,
    /// TLS, with certificates of our authority.
    pub https: Listen,
    /// Docker Hub for Docker's `registry-mirrors`, plain and TLS. Empty switches it off.
    pub mirror: Vec<SocketAddr>,
}

/// The addresses of a door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// Empty switches the door off.
    pub addresses: Vec<SocketAddr>,
    /// True if the configuration does not name the addresses. Then the door stays shut if another program listens
    /// there.
    pub is_default: bool,
}

/// `[admin]`
pub struct AdminDoor {
    /// At most one TCP address, on loopback by default. Without one, TCP is off.
    pub listen: Listen,
    /// The unix socket, mode 0600. A process that may open it may change things.
    pub socket: PathBuf,
    /// The bearer token for changes over TCP. None if TCP allows no changes.
    pub token: Option<Secret>,
    /// Whether a program on this machine may clear the cache over TCP without the token.
    pub loopback_changes: bool,
}

/// `[ca]`
pub struct CaFiles {
    pub certificate: PathBuf,
    /// PEM, possibly encrypted.
    pub key: PathBuf,
    /// The passphrase of an encrypted key. `foobar`, docker-registry-proxy's passphrase, is tried too.
    pub passphrase: Option<Secret>,
    /// Validity of the leaves that are signed, from an hour to 7 days.
    pub leaf_lifetime: Duration,
    /// True if the configuration names the files. Then they are only read, never created.
    pub provided: bool,
}

/// `[data_plane]`
pub struct DataPlane {
    /// Threads that serve clients. Zero means one for each core.
    pub workers: usize,
    /// Threads that write to the disk.
    pub disk_threads: usize,
    /// The time that the disk may take. Clients go on without it afterwards.
    pub disk_timeout: Duration,
    /// Memory for bytes on their way from upstream to the disk.
    pub disk_buffers: Size,
    /// Whether io_uring is used if the kernel has it.
    pub io_uring: bool,
}

/// `[mdns]`
#[derive(Clone)]
pub struct Mdns {
    /// Whether this server announces itself.
    pub enabled: bool,
    /// The name it asks for. If another machine has it, `-2` is added.
    pub hostname: MdnsName,
    /// The interfaces to announce on. Empty means all of the local network.
    pub interfaces: Vec<String>,
}

/// The destination and the form of log lines.
pub struct LogOutput {
    /// The format of events and of the access log.
    pub format: LogFormat,
    /// The file of the access log. None means stdout.
    pub file: Option<PathBuf>,
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

impl RegistryListen {
    /// The ports at which our own registry answers.
    pub fn ports(&self) -> Vec<u16> {
        self.http.addresses.iter().chain(&self.https.addresses).map(SocketAddr::port).collect()
    }
}
