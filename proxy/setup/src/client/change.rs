//! The changes of one run of set-up, and the way back to the state before that run: no set-up at all, or an earlier
//! set-up with its journal.
//!
//! Undo goes further back, to the state before the first set-up; it is in `execute`, which uses this file.

use std::fs;

use super::host::{Host, HostError, sha256};
use super::journal::{Before, Entry, Journal};
use super::plan::{Command, Plan};
use super::steps::{Attendant, Step, run_all};

/// The changes of a run. It exists before the first write.
#[must_use = "it is the way back"]
pub struct Change {
    journal: Journal,
    earlier: Option<Journal>,
    files: Vec<Touched>,
    made_folders: Vec<String>,
}

/// A file that this run writes, or that it restores because only an earlier set-up needed it.
struct Touched {
    path: String,
    was: Option<Before>,
    /// The digest after this run. None if this run removes the file.
    becomes_sha256: Option<String>,
}

/// How a failed run left the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Aftermath {
    AsBefore,
    /// This many steps could not be taken back.
    Left(usize),
    /// The way back failed too, for this reason.
    Stuck(String),
}

impl Change {
    /// Notes the state of the machine. `journal` has everything that this run and an earlier one wrote.
    pub(super) fn begin(
        host: &Host,
        plan: &Plan,
        journal: &Journal,
        abandoned: &[&Entry],
        earlier: Option<&Journal>,
    ) -> Result<Self, HostError> {
        let planned = plan.files.iter().map(|file| (&file.path, Some(sha256(&file.content))));
        let restored = abandoned.iter().map(|entry| (&entry.path, entry.before_sha256()));
        let files = planned.chain(restored).map(|(path, becomes_sha256)| {
            let place = host.at(path);
            let was = Before::of(&place).map_err(|source| HostError::Read { path: place, source })?;
            Ok(Touched { path: path.clone(), was, becomes_sha256 })
        });
        let files = files.collect::<Result<_, HostError>>()?;
        let mut made_folders: Vec<String> = Vec::new();
        for folder in plan.files.iter().flat_map(|file| host.missing_folders(&file.path)) {
            if !made_folders.contains(&folder) {
                made_folders.push(folder);
            }
        }
        Ok(Self { journal: journal.clone(), earlier: earlier.cloned(), files, made_folders })
    }

    /// Puts the machine back to its state before this run. `attendant` hears of what was left alone or failed.
    pub fn take_back(&self, host: &Host, attendant: &mut dyn Attendant) -> Aftermath {
        match self.restore(host, attendant) {
            Ok(0) => Aftermath::AsBefore,
            Ok(problems) => Aftermath::Left(problems),
            Err(reason) => Aftermath::Stuck(reason),
        }
    }

    /// Returns how many steps could not be taken back.
    fn restore(&self, host: &Host, attendant: &mut dyn Attendant) -> Result<usize, String> {
        let mut problems = 0;
        for file in self.files.iter().rev() {
            let restored = file.restore(host, attendant).map_err(|error| error.to_string())?;
            problems += usize::from(!restored);
        }
        host.remove_if_empty(&self.made_folders);
        problems += run_all(&self.commands_back(), attendant);
        let noted = match &self.earlier {
            Some(earlier) => earlier.save(host),
            None => self.journal.remove(host),
        };
        noted.map(|()| problems).map_err(|error| error.to_string())
    }

    /// The commands of an earlier set-up put it into force again. A set-up that has no files (Kind) consists of its
    /// commands, so this run's commands are undone first.
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
    /// Returns false if the file has changed since this run.
    fn restore(&self, host: &Host, attendant: &mut dyn Attendant) -> Result<bool, HostError> {
        let path = host.at(&self.path);
        let now = host.sha256_of(&self.path);
        if now == self.was.as_ref().map(Before::sha256) {
            return Ok(true);
        }
        if now != self.becomes_sha256 {
            attendant.report(Step::LeftAlone(&self.path));
            return Ok(false);
        }
        let restored = match &self.was {
            Some(was) => was.restore(&path),
            None => fs::remove_file(&path),
        };
        restored.map_err(|source| HostError::Write { path, source })?;
        attendant.report(Step::Restored(&self.path));
        Ok(true)
    }
}

impl std::fmt::Display for Aftermath {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AsBefore => formatter.write_str("everything is as it was before this run"),
            Self::Left(steps) => write!(formatter, "{steps} steps could not be taken back, as listed above"),
            Self::Stuck(reason) => {
                write!(formatter, "taking it back failed too ({reason}); `entrepot client undo` continues it")
            }
        }
    }
}
