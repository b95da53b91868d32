//! The product from outside. Each module tests one promise. Each test has its own world, so a failing test does not
//! disturb the others.

mod access;
mod admin;
mod bad_input;
mod client;
mod client_failures;
mod config;
mod config_edit;
mod crash;
mod direct;
mod discovery;
mod disk;
mod faults;
mod first_line;
mod hostile_tls;
mod image;
mod isolation;
mod large_blob;
mod logs;
mod mirror_files;
mod newer_clients;
mod notifications;
mod power_cut;
mod provision;
mod provision_container;
mod provision_recipes;
mod provision_restart;
mod provision_tree;
mod pulls;
mod push;
mod push_crash;
mod ranges;
mod redirect_arrival;
mod redirect_failures;
mod redirect_gateway;
mod redirect_host;
mod redirect_packets;
mod redirect_resolvers;
mod redirects;
mod registry;
mod registry_cli;
mod registry_open;
mod registry_page;
mod setup;
mod sharing;
mod stale;
mod strangers;
mod takeover;
mod transparent;
mod tunnel;
mod vagrantfile;

use std::sync::{Mutex, MutexGuard, PoisonError};

use entrepot_tests::images::{Blob, random};

/// A lock for tests that move hundreds of megabytes or run a hundred clients: one at a time.
fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blob of about this many random bytes.
fn blob(seed: u64, size: usize) -> Blob {
    random(seed, 1, size).layers()[0].clone()
}

/// The Accept header of a client that accepts Docker's manifests and lists.
const ACCEPT: (&str, &str) = (
    "accept",
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json",
);

/// The arguments by which an agent believes the internet's name server.
const RESOLVER: &[&str] = &["--resolver", "10.90.2.30"];

/// Asks the internet's name server for a new name, and connects as soon as it has answered. Returns whether the
/// connection was accepted. No machine has such an address, so only a redirected connection is. Blocks: for a thread of
/// a namespace.
fn ask_and_connect(number: u16) -> bool {
    use entrepot_tests::names;
    use std::net::{SocketAddr, TcpStream, UdpSocket};
    use std::time::Duration;
    let asking = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect(names::NAME_SERVER)?;
        socket.send(&names::query(number, &names::burst_name(number)))?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        let Some(address) = names::address_in(&answer[..length]) else { return Ok(false) };
        let address = SocketAddr::from((address, 443));
        TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .map(|stream| stream.peer_addr().ok() == Some(address))
    };
    asking().unwrap_or(false)
}
