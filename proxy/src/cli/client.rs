//! `entrepot client`: points a container runtime of this machine at an appliance, undoes that, and shows whether it
//! works.
//!
//! `entrepot_setup::client` decides and changes files. This file asks the person, runs commands, and chooses exit
//! codes.

mod interrupts;
mod set_up;

use std::fmt;
use std::io::{self, StdoutLock};
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};

use clap::{Args, Subcommand};
use nix::sys::signal::Signal;

use super::output::{Output, fail};
use entrepot_core::exit;
use entrepot_setup::client::appliance::ApplianceError;
use entrepot_setup::client::change::Aftermath;
use entrepot_setup::client::execute::{ExecuteError, undo};
use entrepot_setup::client::host::Host;
use entrepot_setup::client::journal::{Journal, JournalError};
use entrepot_setup::client::plan::{Command, PlanError};
use entrepot_setup::client::status::{FileState, Status, status};
use entrepot_setup::client::steps::{Attendant, Step, shown};
use entrepot_setup::client::{Mode, Runtime};
use interrupts::Interrupts;

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
    /// A signal asked for the end.
    #[error("ended by {signal}; {aftermath}")]
    Interrupted { signal: Signal, aftermath: Aftermath },
    /// A signal asked for the end of an undo before the set-ups of these runtimes were undone.
    #[error("ended by {signal}; still set up: {left}")]
    UndoInterrupted { signal: Signal, left: String },
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

/// Runs one command. A failure is printed on stderr. Output that fails changes nothing about the work, only the exit
/// code.
pub fn run(command: &ClientCommand) -> ExitCode {
    let mut out = Output::new(io::stdout().lock());
    let outcome = carry_out(command, &Host::new("/"), &mut out);
    match outcome.and(out.finish().map_err(ClientError::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn carry_out(command: &ClientCommand, host: &Host, out: &mut Out) -> Result<(), ClientError> {
    match command {
        ClientCommand::Setup(options) => {
            let interrupts = Interrupts::watch().map_err(ClientError::Start)?;
            runtime()?.block_on(set_up::set_up(options, host, &interrupts, out))
        }
        ClientCommand::Undo { runtime } => {
            undo_all(*runtime, host, &Interrupts::watch().map_err(ClientError::Start)?, out)
        }
        ClientCommand::Status { runtime: which, json } => runtime()?.block_on(show_status(*which, *json, host, out)),
    }
}

type Out = Output<StdoutLock<'static>>;

fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Start)
}

/// A signal ends it between two runtimes. Half an undo would be of no use.
fn undo_all(only: Option<Runtime>, host: &Host, interrupts: &Interrupts, out: &mut Out) -> Result<(), ClientError> {
    require_root()?;
    let mut journals = Journal::all(host)?;
    let wanted = |journal: &Journal| only.is_none_or(|runtime| journal.runtime == runtime);
    let (mut problems, mut undone) = (0, false);
    interrupts.begin("this undo goes on to its end");
    while let Some(at) = journals.iter().position(wanted) {
        if let Some(signal) = interrupts.caught() {
            let left: Vec<_> =
                journals.iter().filter(|journal| wanted(journal)).map(|left| left.runtime.word()).collect();
            return Err(ClientError::UndoInterrupted { signal, left: left.join(", ") });
        }
        let journal = journals.remove(at);
        out.line(format_args!("undoing the set-up of {}", journal.runtime.word()));
        problems += undo(host, &journal, &journals, &mut AtWork { interrupts: None, out })?;
        undone = true;
    }
    let _ = interrupts.end();
    if !undone {
        out.line("nothing is set up");
    }
    if problems == 0 { Ok(()) } else { Err(ClientError::Left(problems)) }
}

async fn show_status(only: Option<Runtime>, json: bool, host: &Host, out: &mut Out) -> Result<(), ClientError> {
    let mut all = Vec::new();
    for journal in Journal::all(host)?.iter().filter(|journal| only.is_none_or(|runtime| journal.runtime == runtime)) {
        all.push(status(host, journal).await);
    }
    if json {
        out.line(serde_json::to_string_pretty(&all).map_err(io::Error::from)?);
    } else if all.is_empty() {
        out.line("nothing is set up; `entrepot client setup --runtime …` does it");
    } else {
        all.iter().for_each(|status| print(status, out));
    }
    match all.iter().all(Status::is_in_place) {
        false => Err(ClientError::NotInPlace),
        true if all.iter().all(Status::is_well) => Ok(()),
        true => Err(ClientError::NotWell),
    }
}

fn print(status: &Status, out: &mut Out) {
    out.line(format_args!("{} pulls through {} ({})", status.runtime.word(), status.appliance, status.mode.word()));
    for file in &status.files {
        let state = match file.state {
            FileState::InPlace => "in place",
            FileState::Changed => "changed since; set it up again, or undo",
            FileState::Missing => "missing; set it up again, or undo",
        };
        out.line(format_args!("  {:<58} {state}", file.path));
    }
    let trusted = match status.trusted {
        Some(true) => "trusted by this machine",
        Some(false) => "not in this machine's trust store; set it up again",
        None => "not looked for",
    };
    out.line(format_args!("  CA SHA-256 {} {trusted}", status.ca_sha256));
    out.line(format_args!("  appliance  {}", status.health));
}

fn require_root() -> Result<(), ClientError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(ClientError::NotRoot) }
}

/// Runs a command of a plan. Its output is shown only if it fails.
fn run_command(command: &Command) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    // A group of its own: Ctrl-C at the terminal is for this program, which waits for the command.
    let output = std::process::Command::new(program).args(arguments).stdin(Stdio::null()).process_group(0).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("{} {}", output.status, last.trim()))
}

/// The person at the terminal, and the signals from there.
struct AtWork<'a> {
    /// None if the work is not to be interrupted.
    interrupts: Option<&'a Interrupts>,
    out: &'a mut Out,
}

impl Attendant for AtWork<'_> {
    fn run(&mut self, command: &Command) -> Result<(), String> {
        run_command(command)
    }

    fn report(&mut self, step: Step<'_>) {
        match step {
            Step::Wrote(path) => self.out.line(format_args!("  wrote     {path}")),
            Step::Unchanged(path) => self.out.line(format_args!("  unchanged {path}")),
            Step::Ran(command) => self.out.line(format_args!("  ran       {}", shown(command))),
            Step::Restored(path) => self.out.line(format_args!("  restored  {path}")),
            Step::LeftAlone(path) => {
                self.out.line(format_args!("  left      {path}: it was changed since it was set up"));
            }
            Step::StaysFor(path, runtime) => {
                self.out.line(format_args!("  stays     {path}: {} uses it", runtime.word()));
            }
            Step::CommandFailed(command, said) => {
                self.out.line(format_args!("  failed    {}: {said}", shown(command)));
            }
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupts.is_some_and(|interrupts| interrupts.caught().is_some())
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
            Self::Interrupted { signal, .. } | Self::UndoInterrupted { signal, .. } => ended_by(*signal),
            Self::Plan(PlanError::Host(_))
            | Self::Execute(ExecuteError::Read { .. } | ExecuteError::Write { .. })
            | Self::Execute(
                ExecuteError::Command { .. } | ExecuteError::Interrupted | ExecuteError::TakenBack { .. },
            )
            | Self::Journal(_)
            | Self::Left(_)
            | Self::Start(_)
            | Self::Output(_) => exit::IO,
            Self::Plan(_) | Self::Execute(_) | Self::NotInPlace => exit::CONFIGURATION,
        }
    }
}

/// The exit code of a shell's command that a signal ended.
fn ended_by(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(exit::IO)
}
