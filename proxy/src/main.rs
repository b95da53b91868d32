//! The command `entrepot`: its subcommands and their exit codes.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use entrepot::app::serve;
use entrepot::cli::output::{self, fail};
use entrepot::cli::{self, ca, cache, check, client, config, discover, redirect, registry};
use entrepot_config::{Flags, HostFacts, Loaded, load};
use entrepot_core::exit;

/// Keeps freed memory for the next answer: large sealed pieces come and go, and the C library would give each back to
/// the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A caching proxy for container images: every Docker host, Kubernetes node and build machine pulls through it,
/// without changing an image name.
#[derive(Parser)]
#[command(name = "entrepot", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every door that the configuration switches on
    Serve {
        #[command(flatten)]
        flags: Flags,
    },
    /// Validate the configuration and print it, secrets masked, with what a running server has in force
    Check {
        #[command(flatten)]
        flags: Flags,
        /// Print only the keys that do not have their default, and those that a running server has otherwise in force
        #[arg(long)]
        changed: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a key of the configuration, or change it in the file
    Config {
        /// The configuration file [default: $ENTREPOT_CONFIG, else /etc/entrepot/entrepot.toml]
        #[arg(long = "config", value_name = "FILE", global = true)]
        file: Option<PathBuf>,
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Redirect connections to registries by eBPF, so that no client needs a proxy setting
    Redirect {
        #[command(flatten)]
        flags: Flags,
        #[command(subcommand)]
        command: redirect::RedirectCommand,
    },
    /// Show, export, import or rotate the certificate authority
    Ca {
        #[command(flatten)]
        flags: Flags,
        #[command(subcommand)]
        command: ca::CaCommand,
    },
    /// Show or change the cache of a running server
    Cache {
        #[command(flatten)]
        flags: Flags,
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: cache::CacheCommand,
    },
    /// Point a container runtime of this machine at an appliance, and back
    Client {
        #[command(subcommand)]
        command: client::ClientCommand,
    },
    /// List the appliances of this local network
    Discover {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        options: discover::DiscoverOptions,
    },
    /// Show or change the push registry of a running server
    Registry {
        #[command(flatten)]
        flags: Flags,
        #[command(flatten)]
        server: registry::AdminAddress,
        /// Print JSON
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: registry::RegistryCommand,
    },
}

fn main() -> ExitCode {
    output::end(command())
}

fn command() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let printed = error.print();
            return match (error.use_stderr(), printed) {
                (true, _) => ExitCode::from(exit::USAGE),
                (false, Ok(())) => ExitCode::SUCCESS,
                (false, Err(error)) => fail(&error, exit::IO),
            };
        }
    };
    match arguments.command {
        Command::Check { flags, changed, json } => check::run(&flags, changed, json),
        Command::Client { command } => client::run(&command),
        Command::Config { file, command } => match config::run(file, &command, &mut io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, error.exit_code()),
        },
        Command::Discover { flags, options } => match options.console {
            Some(file) => with_configuration(&flags, |loaded| discover::run_console(&file, &loaded.config)),
            None => discover::run(&options),
        },
        Command::Serve { flags } => with_configuration(&flags.clone(), |loaded| match serve::run(loaded, flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, error.exit_code()),
        }),
        Command::Redirect { flags, command } => with_configuration(&flags, |loaded| redirect::run(command, loaded)),
        Command::Ca { flags, command } => with_configuration(&flags, |loaded| {
            match ca::run(&command, &loaded.config.startup.ca, &mut io::stdout().lock()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, error.exit_code()),
            }
        }),
        Command::Cache { flags, json, command } => {
            with_configuration(&flags, |loaded| cache::run(&command, &loaded.config.startup.admin.socket, json))
        }
        Command::Registry { flags, server, json, command } => with_configuration(&flags, |loaded| {
            registry::run(&command, &server, &loaded.config.startup.admin.socket, json)
        }),
    }
}

fn with_configuration(flags: &Flags, run: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    match load(flags, &cli::ProcessEnvironment, &HostFacts::real()) {
        Ok(loaded) => run(loaded),
        Err(error) => fail(&error, exit::CONFIGURATION),
    }
}
