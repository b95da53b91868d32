//! `entrepot discover --console FILE`: keeps the text above the login prompt of an appliance's console true.
//!
//! A process of its own: it tells also that the server does not answer. It asks the server as any client does, so it needs
//! neither keys nor the administrator's socket. Neighbour: `setup::console` makes the text.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use entrepot_core::quantity::Size;
use nix::sys::statvfs::statvfs;
use tokio::time::interval;

use super::{exit, failed};
use entrepot_config::ready::Config;
use entrepot_setup::discovery::identity::Identity;
use entrepot_setup::discovery::probe;
use entrepot_setup::pages::console::{Console, Server, Short, text};

/// As often as mDNS compares addresses.
const LOOK: Duration = Duration::from_secs(2);
/// What numbers of free space are rounded to: they change all the time.
const ROUND_BYTES: u64 = 64 << 20;

/// Writes the file when its text changes, for ever; ends where it cannot be written.
pub fn run(file: &Path, config: &Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, exit::IO),
    };
    let Err(error) = runtime.block_on(keep(file, config));
    eprintln!("entrepot: cannot write {}: {error}", file.display());
    ExitCode::from(exit::IO)
}

/// Nothing else runs on this thread: what blocks here holds nobody up.
async fn keep(file: &Path, config: &Config) -> io::Result<Infallible> {
    let identity = Identity::default();
    let mut shown = String::new();
    let mut looks = interval(LOOK);
    loop {
        looks.tick().await;
        identity.refresh(&config.startup.mdns.interfaces);
        let (server, addresses) = (server(config).await, identity.addresses());
        let now = text(&Console { server, addresses, short: short(config) });
        if now != shown {
            put(file, &now)?;
            shown = now;
        }
    }
}

async fn server(config: &Config) -> Server {
    let Some(listening) = config.startup.proxy.listen.first() else { return Server::Down { port: 0 } };
    let ip = match listening.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    match probe::facts_and_name(SocketAddr::new(ip, listening.port())).await {
        Ok((facts, host)) => Server::Up { facts, host },
        Err(_) => Server::Down { port: listening.port() },
    }
}

/// Whether less is left than `cache.min_free`: the cache makes room by itself, so something else took it.
fn short(config: &Config) -> Option<Short> {
    let wanted = config.live.cache.min_free;
    let stat = statvfs(&config.startup.data_dir).ok()?;
    // The fields' widths differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    let free = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
    (free < wanted.0).then(|| Short { free: Size(free / ROUND_BYTES * ROUND_BYTES), wanted })
}

/// Whole or not at all, and shown at once where somebody waits at a prompt.
fn put(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)?;
    // Where there is no getty, nobody reads it yet.
    let _ = Command::new("agetty").arg("--reload").stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(())
}
