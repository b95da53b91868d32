//! `entrepot discover --console FILE`: keeps the text above the login prompt of an appliance's console up to date.
//!
//! It is a separate process, so it can also report that the server does not answer. It asks the server as any client
//! does, so it needs neither keys nor the administrator's socket. `setup::console` makes the text.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use entrepot_core::quantity::Size;
use tokio::time::interval;

use super::exit;
use crate::cli::output::{complain, fail};
use entrepot_config::ready::Config;
use entrepot_setup::discovery::identity::Identity;
use entrepot_setup::discovery::probe;
use entrepot_setup::pages::console::{Console, Server, Short, text};
use entrepot_store::DiskSpace;

/// The interval between two looks. mDNS compares addresses as often.
const LOOK: Duration = Duration::from_secs(2);
/// Numbers of free space are rounded to this, because they change all the time.
const ROUND_BYTES: u64 = 64 << 20;

/// Writes the file whenever its text changes. It returns only if the file cannot be written.
pub fn run(file: &Path, config: &Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, exit::IO),
    };
    let Err(error) = runtime.block_on(keep(file, config));
    complain(format_args!("cannot write {}: {error}", file.display()));
    ExitCode::from(exit::IO)
}

/// Nothing else runs on this thread, so this function may block.
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

/// The shortage of space. None if `cache.min_free` is left. The cache makes room by itself, so a shortage has another
/// cause.
fn short(config: &Config) -> Option<Short> {
    let wanted = config.live.cache.min_free;
    let free = DiskSpace::of(&config.startup.data_dir).ok()?.free_bytes;
    (free < wanted.0).then(|| Short { free: Size(free / ROUND_BYTES * ROUND_BYTES), wanted })
}

/// Writes the file in one step, and has getty show it at once.
fn put(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)?;
    // A machine without getty needs no reload.
    let _ = Command::new("agetty").arg("--reload").stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(())
}
