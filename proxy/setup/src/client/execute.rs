//! Carries out a plan, and undoes it: journal, files, commands; the reverse order for undo. `change` is the way back
//! from a run that fails.
//!
//! Both can be interrupted at any point and run again. Each file is compared with the journal before it is touched. A
//! file whose content is neither the earlier one nor ours is left alone: a user or another program changed it.

use std::fs;
use std::io;
use std::path::Path;

use super::Runtime;
use super::change::{Aftermath, Change};
use super::host::{Host, HostError, replace, sha256};
use super::journal::{Before, Entry, Journal, JournalError};
use super::plan::{NewFile, Plan};
use super::steps::{Attendant, Step, run_all, shown};

/// The reason why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    #[error("{0} exists and is not ours; it stays as it is: remove it, or undo what made it, then run this again")]
    Foreign(String),
    #[error("{0} was changed since it was set up; it stays as it is: undo the set-up first, then run this again")]
    Changed(String),
    #[error("{path} belongs to the set-up of {runtime} with another appliance; `entrepot client undo --runtime {runtime}` first", runtime = runtime.word())]
    Shared { path: String, runtime: Runtime },
    #[error("{0}; nothing was changed")]
    Read(HostError),
    #[error(transparent)]
    Write(HostError),
    /// `said` is the error of [`Attendant::run`].
    #[error("`{command}` failed: {said}")]
    Command { command: String, said: String },
    #[error("interrupted")]
    Interrupted,
    /// A step failed, and the steps before it were taken back.
    #[error("{failure}; {aftermath}")]
    TakenBack { failure: Box<ExecuteError>, aftermath: Aftermath },
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Carries out `plan` and fills `journal`. `others` are the journals of other runtimes, `previous` is the journal of an
/// earlier run for this runtime. Returns None if everything was in place already. A run that fails half-way is taken
/// back.
pub fn apply(
    host: &Host,
    plan: &Plan,
    mut journal: Journal,
    previous: Option<&Journal>,
    others: &[Journal],
    attendant: &mut dyn Attendant,
) -> Result<Option<Change>, ExecuteError> {
    let known = |path: &str| previous.and_then(|journal| find(journal, path));
    for file in &plan.files {
        journal.files.push(entry(host, file, known(&file.path), others)?);
    }
    journal.made_folders = made_folders(host, plan, previous, others);
    (journal.commands, journal.undo_commands) = (plan.commands.clone(), plan.undo_commands.clone());
    let abandoned: Vec<&Entry> = previous
        .map_or(Vec::new(), |old| old.files.iter().filter(|entry| find(&journal, &entry.path).is_none()).collect());
    let as_planned = |entry: &Entry| host.sha256_of(&entry.path).as_deref() == Some(&entry.after_sha256);
    if previous.is_some() && abandoned.is_empty() && !journal.files.is_empty() && journal.files.iter().all(as_planned) {
        journal.files.iter().for_each(|entry| attendant.report(Step::Unchanged(&entry.path)));
        journal.save(host)?;
        return Ok(None);
    }
    // The way back to either state is on the disk before the first change.
    let mut whole = journal.clone();
    for entry in &mut whole.files {
        entry.earlier_sha256 = known(&entry.path).and_then(|_| host.sha256_of(&entry.path));
    }
    whole.files.extend(abandoned.iter().map(|entry| (*entry).clone()));
    let change = Change::begin(host, plan, &whole, &abandoned, previous).map_err(ExecuteError::Read)?;
    whole.save(host)?;
    let mut done = abandoned.iter().try_for_each(|entry| restore(host, entry, others, attendant).map(drop));
    done = done.and_then(|()| carry_out(host, plan, &journal, attendant));
    done = done.and_then(|()| go_on(attendant));
    match done.and_then(|()| journal.save(host).map_err(ExecuteError::from)) {
        Ok(()) => Ok(Some(change)),
        Err(failure) => {
            let (failure, aftermath) = (Box::new(failure), change.take_back(host, attendant));
            Err(ExecuteError::TakenBack { failure, aftermath })
        }
    }
}

/// Restores the files of the journal, runs its commands for undo, and removes the journal. Returns how many steps
/// failed or left something alone.
pub fn undo(
    host: &Host,
    journal: &Journal,
    others: &[Journal],
    attendant: &mut dyn Attendant,
) -> Result<usize, ExecuteError> {
    let mut problems = 0;
    for entry in journal.files.iter().rev() {
        problems += usize::from(!restore(host, entry, others, attendant)?);
    }
    host.remove_if_empty(&journal.made_folders);
    problems += run_all(&journal.undo_commands, attendant);
    journal.remove(host)?;
    Ok(problems)
}

fn carry_out(host: &Host, plan: &Plan, journal: &Journal, attendant: &mut dyn Attendant) -> Result<(), ExecuteError> {
    for (file, entry) in plan.files.iter().zip(&journal.files) {
        go_on(attendant)?;
        if host.sha256_of(&file.path).as_deref() == Some(&entry.after_sha256) {
            attendant.report(Step::Unchanged(&file.path));
            continue;
        }
        let path = host.at(&file.path);
        write(&path, file, entry).map_err(|source| ExecuteError::Write(HostError::Write { path, source }))?;
        attendant.report(Step::Wrote(&file.path));
    }
    for command in &plan.commands {
        go_on(attendant)?;
        attendant.run(command).map_err(|said| ExecuteError::Command { command: shown(command), said })?;
        attendant.report(Step::Ran(command));
    }
    Ok(())
}

fn go_on(attendant: &dyn Attendant) -> Result<(), ExecuteError> {
    if attendant.is_interrupted() { Err(ExecuteError::Interrupted) } else { Ok(()) }
}

/// Returns false if the file was left alone because it has changed since the set-up.
fn restore(
    host: &Host,
    entry: &Entry,
    others: &[Journal],
    attendant: &mut dyn Attendant,
) -> Result<bool, ExecuteError> {
    let path = host.at(&entry.path);
    if let Some(other) = others.iter().find(|journal| find(journal, &entry.path).is_some()) {
        attendant.report(Step::StaysFor(&entry.path, other.runtime));
        return Ok(true);
    }
    let now = host.sha256_of(&entry.path);
    if now == entry.before_sha256() {
        return Ok(true);
    }
    if !entry.wrote(now.as_deref()) {
        attendant.report(Step::LeftAlone(&entry.path));
        return Ok(false);
    }
    let restored = match &entry.before {
        Some(before) => before.restore(&path),
        None => fs::remove_file(&path),
    };
    restored.map_err(|source| ExecuteError::Write(HostError::Write { path, source }))?;
    attendant.report(Step::Restored(&entry.path));
    Ok(true)
}

/// The journal's entry for a file that is about to be written. An error if another runtime's set-up wrote the file with
/// other content, if the file was changed since this runtime's set-up, or if it is there without a set-up and the plan
/// does not extend it. A symbolic link to nowhere is an error too.
fn entry(host: &Host, file: &NewFile, known: Option<&Entry>, others: &[Journal]) -> Result<Entry, ExecuteError> {
    let after_sha256 = sha256(&file.content);
    let shared = others.iter().find_map(|journal| Some((journal.runtime, find(journal, &file.path)?)));
    let before = match (known, shared) {
        (_, Some((runtime, other))) if other.after_sha256 != after_sha256 => {
            return Err(ExecuteError::Shared { path: file.path.clone(), runtime });
        }
        (Some(entry), _) => {
            let now = host.sha256_of(&file.path);
            if now != entry.before_sha256() && !entry.wrote(now.as_deref()) {
                return Err(ExecuteError::Changed(file.path.clone()));
            }
            entry.before.clone()
        }
        (None, Some((_, entry))) => entry.before.clone(),
        (None, None) => {
            let path = host.at(&file.path);
            // The journal could not restore a symbolic link to nowhere.
            let dangles = path.is_symlink() && !path.exists();
            let before = Before::of(&path).map_err(|source| ExecuteError::Read(HostError::Read { path, source }))?;
            let differs = before.as_ref().is_some_and(|before| before.content() != file.content);
            if dangles || (differs && !file.extends) {
                return Err(ExecuteError::Foreign(file.path.clone()));
            }
            before
        }
    };
    Ok(Entry { path: file.path.clone(), before, after_sha256, earlier_sha256: None })
}

fn write(path: &Path, file: &NewFile, entry: &Entry) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match &entry.before {
        Some(before) => before.rewrite(path, &file.content),
        None => replace(path, &file.content, 0o644, None),
    }
}

/// The folders that are made for these files: in this run, in the earlier one, or for another runtime that shares the
/// file.
fn made_folders(host: &Host, plan: &Plan, previous: Option<&Journal>, others: &[Journal]) -> Vec<String> {
    let mut made = previous.map(|journal| journal.made_folders.clone()).unwrap_or_default();
    for file in &plan.files {
        let of_others = others.iter().flat_map(|journal| &journal.made_folders);
        let shared = of_others.filter(|folder| Path::new(&file.path).starts_with(folder)).cloned();
        let new: Vec<String> = shared.chain(host.missing_folders(&file.path)).collect();
        for folder in new {
            if !made.contains(&folder) {
                made.push(folder);
            }
        }
    }
    made
}

fn find<'a>(journal: &'a Journal, path: &str) -> Option<&'a Entry> {
    journal.files.iter().find(|entry| entry.path == path)
}
