//! The changes that a set-up makes to a machine, or the reason why it refuses: plain data between the functions of
//! `runtimes`, `execute` and `--dry-run`.

use super::host::HostError;
use super::target::NoMirror;
use super::{Mode, Runtime};

/// Files to write, commands to run after that, and the way back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// In the order of writing.
    pub files: Vec<NewFile>,
    /// They run after the files are written.
    pub commands: Vec<Command>,
    /// They run after the files are restored.
    pub(super) undo_commands: Vec<Command>,
    /// Notes for the person: limits, and steps that are left to do by hand.
    pub notes: Vec<String>,
}

/// A file to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFile {
    /// Absolute.
    pub path: String,
    /// The whole content, including the parts of the present file that are kept.
    pub content: Vec<u8>,
    /// Whether the content keeps what a present file has. If not, a present file that no set-up wrote and that has
    /// other content is not ours, and the plan is not carried out.
    pub(super) extends: bool,
}

/// A program and its arguments; no shell reads them.
pub type Command = Vec<String>;

/// The reason why a machine cannot be set up in this way. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The machine has a configuration of the same thing already.
    #[error("{path} {what}; it is left as it is: {hint}")]
    Foreign { path: String, what: String, hint: String },
    /// `missing` is the file or program that was looked for.
    #[error("{runtime} is not installed here: no {missing}", runtime = runtime.word())]
    NotInstalled { runtime: Runtime, missing: String },
    #[error("no known trust store: install the package ca-certificates, then run this again")]
    NoTrustStore,
    #[error(transparent)]
    NoMirror(#[from] NoMirror),
    /// `reason` says what to do instead.
    #[error("{runtime} cannot be set up with --mode {mode}: {reason}", runtime = runtime.word(), mode = mode.word())]
    Impossible { runtime: Runtime, mode: Mode, reason: &'static str },
    #[error(transparent)]
    Host(#[from] HostError),
}

pub(super) fn command(words: &[&str]) -> Command {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Plan {
    /// Adds a file that must not exist with other content.
    pub(super) fn write(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.files.push(NewFile { path: path.into(), content: content.into(), extends: false });
    }

    /// Adds a file that may exist; `content` has everything that it has now, and more.
    pub(super) fn extend(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.files.push(NewFile { path: path.into(), content: content.into(), extends: true });
    }

    /// Adds a command that runs at set-up and again at undo.
    pub(super) fn run_both_ways(&mut self, words: &[&str]) {
        self.commands.push(command(words));
        self.undo_commands.push(command(words));
    }
}
