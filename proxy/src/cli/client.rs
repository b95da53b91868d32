//! `entrepot client`: points a container runtime of this machine at an appliance, undoes that, and shows whether it
//! works.
//!
//! `entrepot_setup::client` decides and changes files. This file asks the person, runs commands, and chooses exit
//! codes.

mod set_up;

use std::fmt;
use std::io;
use std::process::{ExitCode, Stdio};

use clap::{Args, Subcommand};

use entrepot_core::exit;
use entrepot_setup::client::appliance::ApplianceError;
use entrepot_setup::client::change::Aftermath;
use entrepot_setup::client::execute::{ExecuteError, undo};
use entrepot_setup::client::host::Host;
use entrepot_setup::client::journal::{Journal, JournalError};
use entrepot_setup::client::plan::{Command, PlanError};
use entrepot_setup::client::status::{FileState, Status, status};
use entrepot_setup::client::steps::{Step, shown};
use entrepot_setup::client::{Mode, Runtime};

/// The actions on a container runtime's set-up.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Let a runtime of this machine pull through an appliance
    Setup(SetupOptions),
    /// Put everything back as it was before set-up, byte for byte
    Undo {
        /// Only this runtime
        #[arg(long)]
        runtime: Option<Runtime>,
    },
    /// Explain what is set up, and whether it works
    Status {
        /// Only this runtime
        #[arg(long)]
        runtime: Option<Runtime>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The runtime, the way of its pulls, and the appliance.
#[derive(Debug, Args)]
pub struct SetupOptions {
    /// The container runtime
    #[arg(long)]
    pub runtime: Runtime,
    /// The way by which its pulls come to the appliance
    #[arg(long, default_value = "proxy")]
    pub mode: Mode,
    /// The appliance's name or address, with the proxy's port unless it is 3128 [default: the one that answers mDNS]
    #[arg(long, value_name = "NAME|ADDRESS")]
    pub appliance: Option<String>,
    /// The SHA-256 fingerprint that its CA certificate must have [default: shown and asked]
    #[arg(long, value_name = "HEX")]
    pub ca_sha256: Option<String>,
    /// In mirror mode: a registry to mirror besides the usual ones, may be repeated
    #[arg(long, value_name = "HOST")]
    pub registry: Vec<String>,
    /// The image whose manifest is pulled to see that it works
    #[arg(long, value_name = "IMAGE", default_value = "docker.io/library/busybox:latest")]
    pub verify_image: String,
    /// Set up even if no manifest can be pulled yet
    #[arg(long)]
    pub no_verify: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("this changes files of the system and needs root: run it with sudo, or look first with --dry-run")]
    NotRoot,
    #[error(transparent)]
    Appliance(#[from] ApplianceError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{0:?} is not a SHA-256 fingerprint: 64 hex digits, with or without colons")]
    Fingerprint(String),
    #[error("{0:?} is not an image as in docker.io/library/busybox:latest")]
    Image(String),
    #[error(
        "nobody can be asked: compare SHA-256 {0} with what the appliance's console shows, and say --ca-sha256 {0}"
    )]
    Unconfirmed(String),
    #[error("nothing was changed")]
    Declined,
    #[error("no manifest comes through {proxy}: {reason}; {came_of_it}")]
    Unverified { proxy: std::net::SocketAddr, reason: String, came_of_it: CameOfIt },
    #[error("{0} of the steps could not be taken back, as said above; the rest is as it was")]
    Left(usize),
    #[error("cannot start: {0}")]
    Start(io::Error),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    #[error("the set-up is not in order, as shown")]
    NotInPlace,
    #[error("the appliance is not in order, as shown")]
    NotWell,
}

/// The outcome of a set-up through which no manifest could be pulled.
#[derive(Debug)]
enum CameOfIt {
    /// Nothing was changed.
    Unchanged,
    /// The set-up was in place before this run, and stays.
    Stays,
    /// The set-up was made, and taken back.
    WentBack(Aftermath),
}

impl fmt::Display for CameOfIt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALL_THE_SAME: &str = "(--no-verify sets up all the same)";
        match self {
            Self::Unchanged => write!(formatter, "nothing was changed {ALL_THE_SAME}"),
            Self::Stays => formatter.write_str("it was set up like this before, and stays (`entrepot client undo`)"),
            Self::WentBack(aftermath) => write!(formatter, "{aftermath} {ALL_THE_SAME}"),
        }
    }
}

/// Runs one command. A failure is printed on stderr.
pub fn run(command: &ClientCommand) -> ExitCode {
    let host = Host::new("/");
    let outcome = runtime().and_then(|runtime| match command {
        ClientCommand::Setup(options) => runtime.block_on(set_up::set_up(options, &host)),
        ClientCommand::Undo { runtime } => undo_all(*runtime, &host),
        ClientCommand::Status { runtime: which, json } => runtime.block_on(show_status(*which, *json, &host)),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("entrepot: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Start)
}

fn undo_all(only: Option<Runtime>, host: &Host) -> Result<(), ClientError> {
    require_root()?;
    let mut journals = Journal::all(host)?;
    let wanted = |journal: &Journal| only.is_none_or(|runtime| journal.runtime == runtime);
    let (mut problems, mut undone) = (0, false);
    while let Some(at) = journals.iter().position(wanted) {
        let journal = journals.remove(at);
        println!("undoing the set-up of {}", journal.runtime.word());
        problems += undo(host, &journal, &journals, &mut run_command, &mut tell)?;
        undone = true;
    }
    if !undone {
        println!("nothing is set up");
    }
    if problems == 0 { Ok(()) } else { Err(ClientError::Left(problems)) }
}

async fn show_status(only: Option<Runtime>, json: bool, host: &Host) -> Result<(), ClientError> {
    let mut all = Vec::new();
    for journal in Journal::all(host)?.iter().filter(|journal| only.is_none_or(|runtime| journal.runtime == runtime)) {
        all.push(status(host, journal).await);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all).map_err(io::Error::from)?);
    } else if all.is_empty() {
        println!("nothing is set up; `entrepot client setup --runtime …` does it");
    } else {
        all.iter().for_each(print);
    }
    match all.iter().all(Status::is_in_place) {
        false => Err(ClientError::NotInPlace),
        true if all.iter().all(Status::is_well) => Ok(()),
        true => Err(ClientError::NotWell),
    }
}

fn print(status: &Status) {
    println!("{} pulls through {} ({})", status.runtime.word(), status.appliance, status.mode.word());
    for file in &status.files {
        let state = match file.state {
            FileState::InPlace => "in place",
            FileState::Changed => "changed since; set it up again, or undo",
            FileState::Missing => "missing; set it up again, or undo",
        };
        println!("  {:<58} {state}", file.path);
    }
    let trusted = match status.trusted {
        Some(true) => "trusted by this machine",
        Some(false) => "not in this machine's trust store; set it up again",
        None => "not looked for",
    };
    println!("  CA SHA-256 {} {trusted}", status.ca_sha256);
    println!("  appliance  {}", status.health);
}

fn require_root() -> Result<(), ClientError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(ClientError::NotRoot) }
}

/// Runs a command of a plan. Its output is shown only if it fails.
fn run_command(command: &Command) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let output = std::process::Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("{} {}", output.status, last.trim()))
}

fn tell(step: Step<'_>) {
    match step {
        Step::Wrote(path) => println!("  wrote     {path}"),
        Step::Unchanged(path) => println!("  unchanged {path}"),
        Step::Ran(command) => println!("  ran       {}", shown(command)),
        Step::Restored(path) => println!("  restored  {path}"),
        Step::LeftAlone(path) => println!("  left      {path}: it was changed since it was set up"),
        Step::StaysFor(path, runtime) => println!("  stays     {path}: {} uses it", runtime.word()),
        Step::CommandFailed(command, said) => println!("  failed    {}: {said}", shown(command)),
    }
}

impl ClientError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Journal(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                exit::PERMISSION
            }
            Self::NotRoot | Self::Appliance(ApplianceError::WrongFingerprint { .. }) => exit::PERMISSION,
            Self::Appliance(ApplianceError::Name(_) | ApplianceError::Several(_))
            | Self::Fingerprint(_)
            | Self::Image(_)
            | Self::Unconfirmed(_)
            | Self::Declined => exit::USAGE,
            Self::Appliance(_) | Self::Unverified { .. } | Self::NotWell => exit::UNAVAILABLE,
            Self::Plan(PlanError::Host(_))
            | Self::Execute(ExecuteError::Read { .. } | ExecuteError::Write { .. })
            | Self::Execute(ExecuteError::Command { .. } | ExecuteError::TakenBack { .. })
            | Self::Journal(_)
            | Self::Left(_)
            | Self::Start(_)
            | Self::Output(_) => exit::IO,
            Self::Plan(_) | Self::Execute(_) | Self::NotInPlace => exit::CONFIGURATION,
        }
    }
}
