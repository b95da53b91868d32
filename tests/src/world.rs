//! A test world: three network namespaces in a row.
//!
//! ```text
//! client 10.90.1.2 ──── 10.90.1.1 proxy 10.90.2.1 ──── 10.90.2.11 … internet
//! ```
//!
//! The client has no route to the internet and no name server, so a pull that works went through the proxy. No address
//! is in 127/8, where dockerd would not check certificates.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::authority::Authority;
use crate::namespace::{Bind, Namespace};

/// The proxy's address for its clients.
pub const PROXY_ADDRESS: &str = "10.90.1.1";

/// The name of the product's own registry on the network.
pub const REGISTRY: &str = "docker-registry.local";

/// The names of this internet, each with its own address.
pub const HOSTS: &[(&str, &str)] = &[
    ("registry-1.docker.io", "10.90.2.11"),
    ("auth.docker.io", "10.90.2.12"),
    ("ghcr.io", "10.90.2.13"),
    ("quay.io", "10.90.2.14"),
    ("reg.private.test", "10.90.2.15"),
    ("plain.test", "10.90.2.16"),
    ("cdn.test", "10.90.2.17"),
    ("fake.test", "10.90.2.18"),
    ("outside.test", "10.90.2.19"),
    ("cdn2.test", "10.90.2.20"),
    ("auth.hijack.test", "10.90.2.21"),
    ("eu.pkg.dev", "10.90.2.22"),
    ("unshared.test", "10.90.2.23"),
    ("index.docker.io", "10.90.2.11"),
];

/// Names whose addresses the proxy must never connect to: the proxy itself, loopback, link-local.
const TRAPS: &[(&str, &str)] =
    &[("self.test", "10.90.2.1"), ("loopback.test", "127.0.0.1"), ("linklocal.test", "169.254.1.1")];

/// The three namespaces, the authority that issued the internet servers' certificates, and a directory that is removed
/// with the world.
pub struct World {
    /// Container runtimes and other clients.
    pub client: Namespace,
    /// The product.
    pub proxy: Namespace,
    /// Registries, token servers, a CDN.
    pub internet: Namespace,
    /// The authority that the proxy trusts for the internet.
    pub authority: Authority,
    directory: TempDir,
}

impl World {
    /// A fresh world in which nothing runs.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests make network namespaces and need root: run tests/run");
        let directory = tempfile::Builder::new().prefix("ent-").tempdir_in("/tmp").expect("a directory");
        let names = HOSTS.iter().chain(TRAPS).map(|(name, address)| format!("{address} {name}\n"));
        let own = format!("127.0.0.1 localhost\n{PROXY_ADDRESS} {REGISTRY}\n");
        let names = names.fold(own, |all, line| all + &line);
        std::fs::write(directory.path().join("hosts"), names).expect("hosts");
        std::fs::write(directory.path().join("resolv.conf"), "nameserver 127.0.0.1\n").expect("resolv.conf");
        let make = |name| Namespace::new(name, binds(directory.path(), name));
        let (client, proxy, internet) = (make("client"), make("proxy"), make("internet"));
        connect(&client, &proxy, &internet);
        let authority = Authority::new("Test Internet CA");
        std::fs::write(directory.path().join("internet-ca.pem"), authority.certificate_pem()).expect("CA file");
        Self { client, proxy, internet, authority, directory }
    }

    /// Makes the proxy's host the router of the client's network: from now on the client reaches the internet.
    pub fn route_clients(&self) {
        self.proxy.run(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").expect("forwarding");
            }
        });
        self.client.ip("route add default via 10.90.1.1\nroute add default via fd90:1::1\n");
        self.internet.ip("route add 10.90.1.0/24 via 10.90.2.1\nroute add fd90:1::/64 via fd90:2::1\n");
    }

    /// A path in the world's directory; its parent exists.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A fresh directory in the world's directory.
    pub fn make_directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// The authority of the internet's servers as a PEM file.
    pub fn internet_ca(&self) -> PathBuf {
        self.path("internet-ca.pem")
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The address of a name in this internet.
pub fn address_of(host: &str) -> &'static str {
    HOSTS.iter().find(|(name, _)| *name == host).unwrap_or_else(|| panic!("{host} is not in world::HOSTS")).1
}

/// Directories of which a machine has one of each. Each namespace has its own, empty when the test begins.
const FIXED_PLACES: &[&str] = &[
    "/dev/shm",
    "/etc/cni",
    "/etc/containers",
    "/etc/docker",
    "/run/avahi-daemon",
    "/run/containerd",
    "/run/containers",
    "/run/dbus",
    "/run/docker",
    "/var/lib/containers",
];

/// skopeo and podman pull nothing without a policy.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// The names for every namespace, and separate directories for the runtimes, so that tests do not share them.
fn binds(directory: &Path, namespace: &str) -> Vec<Bind> {
    let mut binds = vec![
        Bind { source: directory.join("hosts"), target: "/etc/hosts".into() },
        Bind { source: directory.join("resolv.conf"), target: "/etc/resolv.conf".into() },
    ];
    for target in FIXED_PLACES {
        let name = target.replace('/', "-");
        let source = directory.join(format!("{namespace}{name}"));
        std::fs::create_dir_all(&source).expect("a directory");
        std::fs::create_dir_all(target).expect("a mount point");
        if *target == "/etc/containers" {
            std::fs::write(source.join("policy.json"), POLICY).expect("a file");
        }
        binds.push(Bind { source, target: target.into() });
    }
    binds
}

fn connect(client: &Namespace, proxy: &Namespace, internet: &Namespace) {
    let (to_client, to_internet) = (client.net_path().display(), internet.net_path().display());
    proxy.ip(&format!(
        "link add down0 type veth peer name eth0 netns {to_client}\n\
         link add up0 type veth peer name eth0 netns {to_internet}\n\
         addr add 10.90.1.1/24 dev down0\n\
         addr add 10.90.2.1/24 dev up0\n\
         addr add fd90:1::1/64 dev down0 nodad\n\
         addr add fd90:2::1/64 dev up0 nodad\n\
         link set down0 up\n\
         link set up0 up\n"
    ));
    client.ip("addr add 10.90.1.2/24 dev eth0\naddr add fd90:1::2/64 dev eth0 nodad\nlink set eth0 up\n");
    let addresses = (11..40).map(|last| format!("addr add 10.90.2.{last}/24 dev eth0\n")).collect::<String>();
    internet.ip(&format!("{addresses}addr add fd90:2::11/64 dev eth0 nodad\nlink set eth0 up\n"));
}
