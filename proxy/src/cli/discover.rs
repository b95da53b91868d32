//! `entrepot discover`: lists the appliances of the local network that mDNS finds, with the health of each. With
//! `--console` it keeps the text on this appliance's console up to date (`console`).

mod console;

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

pub use console::run as run_console;

use super::output::{complain, fail};

use entrepot_core::exit;
use entrepot_setup::discovery::browse::{Found, browse};
use entrepot_setup::discovery::probe::{self, ProbeError};

/// The options of a search.
#[derive(Debug, Args)]
pub struct DiscoverOptions {
    /// How long to wait for answers, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub wait: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// For an appliance's console: keep its name, addresses, fingerprint and the line for clients in this file until
    /// ended; for example /run/issue.d/entrepot.issue, which getty shows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["wait", "json"])]
    pub console: Option<PathBuf>,
}

/// An appliance in the list.
#[derive(Serialize)]
struct Seen {
    name: String,
    addresses: Vec<IpAddr>,
    proxy_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry_http_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry_https_port: Option<u16>,
    ca_sha256: String,
    version: String,
    /// `ok`, or the problem.
    health: String,
}

/// Prints the appliances that answer; exit code 69 if none does.
pub fn run(options: &DiscoverOptions) -> ExitCode {
    let found = match browse(Duration::from_secs(options.wait), |_| false) {
        Ok(found) => found,
        Err(error) => return fail(&error, exit::UNAVAILABLE),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, exit::IO),
    };
    let seen: Vec<Seen> = runtime.block_on(futures_util::future::join_all(found.into_iter().map(look_at)));
    let mut out = io::stdout().lock();
    let written = if options.json { print_json(&seen, &mut out) } else { print(&seen, &mut out) };
    match written {
        Err(error) => fail(&error, exit::IO),
        Ok(()) if seen.is_empty() => {
            complain("no appliance answered; it is on another network, or multicast does not pass: its address works");
            ExitCode::from(exit::UNAVAILABLE)
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}

async fn look_at(found: Found) -> Seen {
    let health = health(&found).await;
    let Found { host, addresses, facts } = found;
    Seen {
        name: host,
        addresses,
        proxy_port: facts.proxy_port,
        registry_http_port: facts.registry_http_port,
        registry_https_port: facts.registry_https_port,
        ca_sha256: facts.ca_sha256,
        version: facts.version,
        health,
    }
}

async fn health(found: &Found) -> String {
    let Some(proxy) = found.proxy() else { return "only link-local addresses are known".to_owned() };
    match probe::ca_certificate(proxy).await {
        Ok(ca) if ca.sha256 == found.facts.ca_sha256 => "ok".to_owned(),
        Ok(ca) => format!("its certificate is another one than it announces: SHA-256 {}", ca.sha256),
        Err(error @ (ProbeError::Unreachable(..) | ProbeError::Foreign(..))) => error.to_string(),
    }
}

fn print_json(seen: &[Seen], out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, seen)?;
    writeln!(out)
}

fn print(seen: &[Seen], out: &mut impl Write) -> io::Result<()> {
    for appliance in seen {
        let addresses: Vec<String> = appliance.addresses.iter().map(ToString::to_string).collect();
        writeln!(out, "{}", appliance.name)?;
        writeln!(out, "  addresses    {}", addresses.join(", "))?;
        writeln!(out, "  proxy        port {}", appliance.proxy_port)?;
        let doors = [("http", appliance.registry_http_port), ("https", appliance.registry_https_port)];
        let doors: Vec<_> =
            doors.iter().filter_map(|(scheme, port)| Some(format!("{scheme} port {}", (*port)?))).collect();
        if !doors.is_empty() {
            writeln!(out, "  registry     {}", doors.join(", "))?;
        }
        writeln!(out, "  CA SHA-256   {}", appliance.ca_sha256)?;
        writeln!(out, "  version      {}", appliance.version)?;
        writeln!(out, "  health       {}", appliance.health)?;
    }
    Ok(())
}
