//! `entrepot redirect`: runs the agent in the foreground, and queries an agent that runs.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::admin_client::{AdminClient, AdminClientError};
use super::output::{complain, fail};
use entrepot_config::Loaded;
use entrepot_core::exit;
use entrepot_observe::events;
use entrepot_redirect::agent::Environment;
use entrepot_redirect::plan::Mode;
use entrepot_redirect::report::Report;
use entrepot_redirect::{RedirectError, agent, pins};
use entrepot_setup::discovery::browse::addresses;
use entrepot_upstream::dial::OWN_MARK;

/// The actions on the redirection.
#[derive(Debug, Subcommand)]
pub enum RedirectCommand {
    /// Redirect the connections of this machine's processes, in the foreground
    Host {
        /// Ports and networks
        #[command(flatten)]
        what: What,
        /// The appliance to redirect to, by name or address [default: the transparent door of this machine]
        #[arg(long, value_name = "HOST[:PORT]")]
        appliance: Option<String>,
        /// A control group whose processes are redirected, may be repeated [default: all]
        #[arg(long = "cgroup", value_name = "PATH")]
        cgroups: Vec<PathBuf>,
        /// A control group whose processes are left alone, may be repeated
        #[arg(long = "exempt-cgroup", value_name = "PATH")]
        exempt_cgroups: Vec<PathBuf>,
    },
    /// Redirect the connections that are routed through this machine, in the foreground
    Gateway {
        /// Ports and networks
        #[command(flatten)]
        what: What,
        /// An interface towards the clients, may be repeated
        #[arg(long = "interface", value_name = "NAME")]
        interfaces: Vec<String>,
    },
    /// Remove everything that an agent has left: programs that it enforced, rules and routes
    Off,
    /// Show whether the agent redirects, since when, what it has learned and counted
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The traffic that both forms redirect.
#[derive(Debug, Args)]
pub struct What {
    /// Another port that is redirected, may be repeated
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// A network that belongs to a registry, may be repeated
    #[arg(long = "prefix", value_name = "NETWORK")]
    prefixes: Vec<IpNet>,
    /// A resolver whose answers are learned from, may be repeated [default: those of this machine]
    #[arg(long = "resolver", value_name = "ADDRESS")]
    resolvers: Vec<IpAddr>,
    /// Redirect even if the door does not answer, and go on after this agent has ended, until `redirect off`
    #[arg(long)]
    enforce: bool,
}

/// Runs the command. A failure is one line on stderr.
pub fn run(command: RedirectCommand, loaded: Loaded) -> ExitCode {
    match command {
        RedirectCommand::Host { what, appliance, cgroups, exempt_cgroups } => {
            let mut loaded = loaded;
            let redirect = &mut loaded.config.redirect;
            what.add_to(redirect);
            redirect.cgroups.extend(cgroups);
            redirect.exempt_cgroups.extend(exempt_cgroups);
            match appliance.map(|text| entrepot_config::redirect_appliance(&text)).transpose() {
                Ok(appliance) => redirect.appliance = appliance.or(redirect.appliance.take()),
                Err(error) => {
                    complain(format_args!(
                        "--appliance: {error}; write for example docker-registry.local or 192.0.2.7:3129"
                    ));
                    return ExitCode::from(exit::USAGE);
                }
            }
            finish(run_agent(Mode::Host, &loaded))
        }
        RedirectCommand::Gateway { what, interfaces } => {
            let mut loaded = loaded;
            what.add_to(&mut loaded.config.redirect);
            loaded.config.redirect.interfaces.extend(interfaces);
            finish(run_agent(Mode::Gateway, &loaded))
        }
        RedirectCommand::Off => match agent::off(&loaded.config) {
            Ok(removed) => {
                print(&format!("{removed} pinned links removed, and rules and routes where there were any\n"))
            }
            Err(error) => fail(&error, error.exit_code()),
        },
        RedirectCommand::Status { json } => status(&loaded.config.redirect.socket, json),
    }
}

impl What {
    fn add_to(self, redirect: &mut entrepot_config::ready::Redirect) {
        redirect.ports.extend(self.ports);
        redirect.prefixes.extend(self.prefixes);
        redirect.resolvers.extend(self.resolvers.iter().map(IpAddr::to_canonical));
        redirect.enforce |= self.enforce;
    }
}

fn run_agent(mode: Mode, loaded: &Loaded) -> Result<(), RedirectError> {
    let (level, format) = (&loaded.config.live.logging.level, loaded.config.startup.logging.format);
    let events = events::init(level, format);
    let events = events.map_err(|error| RedirectError::Plan(error.to_string()))?;
    let environment = Environment { own_mark: OWN_MARK, find_by_mdns: addresses };
    let outcome = agent::run(mode, &loaded.config, environment);
    events.flush(LAST_LINES);
    outcome
}

/// The time for the last events to be written.
const LAST_LINES: std::time::Duration = std::time::Duration::from_secs(1);

fn finish(outcome: Result<(), RedirectError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, exit::IO),
    }
}

fn status(socket: &Path, json: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::from(exit::IO);
        }
    };
    let report: Result<Report, AdminClientError> = runtime.block_on(AdminClient::new(socket).get("/status"));
    let report = match report {
        Ok(report) => report,
        Err(AdminClientError::NotRunning { .. }) => {
            let pinned = match pins::count() {
                0 => "nothing is redirected".to_owned(),
                count => {
                    format!("{count} programs that it enforced still redirect: `entrepot redirect off` removes them")
                }
            };
            complain(format_args!("no agent answers on {}; {pinned}", socket.display()));
            return ExitCode::from(exit::UNAVAILABLE);
        }
        Err(error) => return fail(&error, error.exit_code()),
    };
    let text = if json { serde_json::to_string_pretty(&report).unwrap_or_default() + "\n" } else { report.to_string() };
    print(&text)
}
