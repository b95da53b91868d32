//! What one run of set-up changes, and the way back to how the machine stood before that run: without any set-up, or with
//! an earlier one and its journal.
//!
//! Undo goes further, to before the first set-up; its neighbour `execute` has that.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::execute::{ExecuteError, Runner, Step, Told, current, missing_folders};
use super::host::Host;
use super::journal::{Before, Entry, Journal, sha256};
use super::plan::{Command, Plan};

/// A run's change, from before its first write on.
#[must_use = "it is the way back"]
pub struct Change {
    journal: Journal,
    earlier: Option<Journal>,
    files: Vec<Touched>,
    made_folders: Vec<String>,
}

/// A file that this run writes, or gives back because only an earlier set-up needed it.
struct Touched {
    path: String,
    was: Option<Before>,
    /// What this run makes of it.
    becomes_sha256: Option<String>,
}

/// How a run that failed left the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Aftermath {
    /// As it was before this run.
    AsBefore,
    /// So many steps could not be taken back.
    Left(usize),
    /// The way back failed too.
    Stuck(String),
}

impl Change {
    /// Notes how the machine stands. `journal` has all that this run and an earlier one wrote.
    pub(super) fn begin(
        host: &Host,
        plan: &Plan,
        journal: &Journal,
        abandoned: &[&Entry],
        earlier: Option<&Journal>,
    ) -> Result<Self, ExecuteError> {
        let planned = plan.files.iter().map(|file| (&file.path, Some(sha256(&file.content))));
        let given_back = abandoned.iter().map(|entry| (&entry.path, entry.before_sha256()));
        let files = planned.chain(given_back).map(|(path, becomes_sha256)| {
            let place = host.at(path);
            let was = Before::of(&place).map_err(|source| ExecuteError::Read { path: place, source })?;
            Ok(Touched { path: path.clone(), was, becomes_sha256 })
        });
        let files = files.collect::<Result<_, ExecuteError>>()?;
        let mut made_folders: Vec<String> = Vec::new();
        for folder in plan.files.iter().flat_map(|file| missing_folders(host, &file.path)) {
            if !made_folders.contains(&folder) {
                made_folders.push(folder);
            }
        }
        Ok(Self { journal: journal.clone(), earlier: earlier.cloned(), files, made_folders })
    }

    /// Puts the machine back as it was before this run; `told` hears what was left alone or failed.
    pub fn take_back(&self, host: &Host, run: Runner<'_>, told: Told<'_>) -> Aftermath {
        match self.restore(host, run, told) {
            Ok(0) => Aftermath::AsBefore,
            Ok(problems) => Aftermath::Left(problems),
            Err(error) => Aftermath::Stuck(error.to_string()),
        }
    }

    fn restore(&self, host: &Host, run: Runner<'_>, told: Told<'_>) -> Result<usize, ExecuteError> {
        let mut problems = 0;
        for file in self.files.iter().rev() {
            let restored = file.restore(host, told).map_err(|(path, source)| ExecuteError::Write { path, source })?;
            problems += usize::from(!restored);
        }
        for folder in self.made_folders.iter().rev() {
            // Somebody's files in it keep it.
            let _ = fs::remove_dir(host.at(folder));
        }
        problems += run_all(&self.commands_back(), run, told);
        match &self.earlier {
            Some(earlier) => earlier.save(host)?,
            None => self.journal.remove(host)?,
        }
        Ok(problems)
    }

    /// An earlier set-up is put into force by what set it up. Where that is commands alone, this run's are undone first.
    fn commands_back(&self) -> Vec<Command> {
        let undone = &self.journal.undo_commands;
        match &self.earlier {
            None => undone.clone(),
            Some(earlier) if self.files.is_empty() => undone.iter().chain(&earlier.commands).cloned().collect(),
            Some(earlier) => earlier.commands.clone(),
        }
    }
}

impl Touched {
    /// False where somebody has changed it meanwhile.
    fn restore(&self, host: &Host, told: Told<'_>) -> Result<bool, (PathBuf, io::Error)> {
        let path = host.at(&self.path);
        let now = current(host, &self.path);
        if now == self.was.as_ref().map(Before::sha256) {
            return Ok(true);
        }
        if now != self.becomes_sha256 {
            told(Step::LeftAlone(&self.path));
            return Ok(false);
        }
        let restored = match &self.was {
            Some(was) => was.restore(&path),
            None => fs::remove_file(&path),
        };
        restored.map_err(|source| (path, source))?;
        told(Step::Restored(&self.path));
        Ok(true)
    }
}

/// Runs them all, whichever fails. Returns how many did.
pub(super) fn run_all(commands: &[Command], run: Runner<'_>, told: Told<'_>) -> usize {
    let mut failed = 0;
    for command in commands {
        match run(command) {
            Ok(()) => told(Step::Ran(command)),
            Err(said) => {
                failed += 1;
                told(Step::CommandFailed(command, &said));
            }
        }
    }
    failed
}

impl std::fmt::Display for Aftermath {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AsBefore => formatter.write_str("everything is as it was before this run"),
            Self::Left(steps) => write!(formatter, "{steps} of the steps could not be taken back, as said above"),
            Self::Stuck(reason) => {
                write!(formatter, "going back failed too ({reason}): `entrepot client undo` goes on with it")
            }
        }
    }
}
