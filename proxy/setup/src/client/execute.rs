//! Doing a plan, and undoing it: journal, files, commands; backwards for undo. Its neighbour `change` is the way back from
//! a run that fails.
//!
//! Both can be interrupted anywhere and be run again: each file is compared with the journal before it is touched, and
//! what is neither as it was nor as we wrote it is somebody's work since, and is left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Runtime;
use super::change::{Aftermath, Change, run_all};
use super::host::Host;
use super::journal::{Before, Entry, Journal, JournalError, replace, sha256};
use super::plan::{Command, NewFile, Plan};

/// Runs a command; the text is what it said, where it failed.
pub type Runner<'a> = &'a mut dyn FnMut(&Command) -> Result<(), String>;
/// Told of each step done.
pub type Told<'a> = &'a mut dyn FnMut(Step<'_>);

/// A step of set-up or undo, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// A file was written.
    Wrote(&'a str),
    /// A file is as it should be already.
    Unchanged(&'a str),
    /// A command ran.
    Ran(&'a Command),
    /// A file is as it was before.
    Restored(&'a str),
    /// A file was changed by somebody since, and is left alone.
    LeftAlone(&'a str),
    /// A file stays, because another runtime uses it.
    StaysFor(&'a str, Runtime),
    /// A command of undo failed; the rest goes on.
    CommandFailed(&'a Command, &'a str),
}

/// Why a plan was not done.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// A file of that name is somebody's.
    #[error(
        "{0} is there already and not ours; it is left as it is: remove it, or undo what made it, then run this again"
    )]
    Foreign(String),
    /// Somebody has worked on a file since the last run.
    #[error("{0} was changed since it was set up; it is left as it is: undo the set-up first, then run this again")]
    Changed(String),
    /// Another runtime's set-up has the file with other content.
    #[error("{path} belongs to the set-up of {runtime} with another appliance; `entrepot client undo --runtime {runtime}` first", runtime = runtime.word())]
    Shared {
        /// Which file.
        path: String,
        /// Whose.
        runtime: Runtime,
    },
    /// The disk, before anything was changed.
    #[error("cannot read {path}: {source}; nothing was changed", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The disk.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A command.
    #[error("`{command}` failed: {said}")]
    Command {
        /// Which.
        command: String,
        /// Its last words.
        said: String,
    },
    /// A step failed, and those before it were taken back.
    #[error("{failure}; {aftermath}")]
    TakenBack {
        /// What failed.
        failure: Box<ExecuteError>,
        /// What came of it.
        aftermath: Aftermath,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Does `plan` and fills `journal`. `others` are the journals of other runtimes, `previous` is this one's of an earlier
/// run. Returns the change; none where everything was in place already. What fails half-way is taken back.
pub fn apply(
    host: &Host,
    plan: &Plan,
    mut journal: Journal,
    previous: Option<&Journal>,
    others: &[Journal],
    run: Runner<'_>,
    told: Told<'_>,
) -> Result<Option<Change>, ExecuteError> {
    let known = |path: &str| previous.and_then(|journal| find(journal, path));
    for file in &plan.files {
        journal.files.push(entry(host, file, known(&file.path), others)?);
    }
    journal.made_folders = made_folders(host, plan, previous, others);
    (journal.commands, journal.undo_commands) = (plan.commands.clone(), plan.undo_commands.clone());
    let abandoned: Vec<&Entry> = previous
        .map_or(Vec::new(), |old| old.files.iter().filter(|entry| find(&journal, &entry.path).is_none()).collect());
    let as_planned = |entry: &Entry| current(host, &entry.path).as_deref() == Some(&entry.after_sha256);
    if previous.is_some() && abandoned.is_empty() && !journal.files.is_empty() && journal.files.iter().all(as_planned) {
        journal.files.iter().for_each(|entry| told(Step::Unchanged(&entry.path)));
        journal.save(host)?;
        return Ok(None);
    }
    // Both ways are on the disk before the first change.
    let mut whole = journal.clone();
    for entry in &mut whole.files {
        entry.earlier_sha256 = known(&entry.path).and_then(|_| current(host, &entry.path));
    }
    whole.files.extend(abandoned.iter().map(|entry| (*entry).clone()));
    let change = Change::begin(host, plan, &whole, &abandoned, previous)?;
    whole.save(host)?;
    let mut done = abandoned.iter().try_for_each(|entry| match restore(host, entry, others, told) {
        Ok(_) => Ok(()),
        Err(source) => Err(write_error(host, &entry.path, source)),
    });
    done = done.and_then(|()| carry_out(host, plan, &journal, run, told));
    match done.and_then(|()| journal.save(host).map_err(ExecuteError::from)) {
        Ok(()) => Ok(Some(change)),
        Err(failure) => {
            let (failure, aftermath) = (Box::new(failure), change.take_back(host, run, told));
            Err(ExecuteError::TakenBack { failure, aftermath })
        }
    }
}

/// Restores what the journal says, runs its commands, and takes the journal away. Returns what was left alone or failed.
pub fn undo(
    host: &Host,
    journal: &Journal,
    others: &[Journal],
    run: Runner<'_>,
    told: Told<'_>,
) -> Result<usize, ExecuteError> {
    let mut problems = 0;
    for entry in journal.files.iter().rev() {
        let restored = restore(host, entry, others, told).map_err(|source| write_error(host, &entry.path, source))?;
        problems += usize::from(!restored);
    }
    for folder in journal.made_folders.iter().rev() {
        // Somebody's files in it keep it.
        let _ = fs::remove_dir(host.at(folder));
    }
    problems += run_all(&journal.undo_commands, run, told);
    journal.remove(host)?;
    Ok(problems)
}

fn carry_out(host: &Host, plan: &Plan, journal: &Journal, run: Runner<'_>, told: Told<'_>) -> Result<(), ExecuteError> {
    for (file, entry) in plan.files.iter().zip(&journal.files) {
        if current(host, &file.path).as_deref() == Some(&entry.after_sha256) {
            told(Step::Unchanged(&file.path));
            continue;
        }
        let path = host.at(&file.path);
        write(&path, file, entry).map_err(|source| ExecuteError::Write { path, source })?;
        told(Step::Wrote(&file.path));
    }
    for command in &plan.commands {
        run(command).map_err(|said| ExecuteError::Command { command: shown(command), said })?;
        told(Step::Ran(command));
    }
    Ok(())
}

/// Whether the file is as it has to be now; false where it was left alone.
fn restore(host: &Host, entry: &Entry, others: &[Journal], told: Told<'_>) -> io::Result<bool> {
    let path = host.at(&entry.path);
    if let Some(other) = others.iter().find(|journal| find(journal, &entry.path).is_some()) {
        told(Step::StaysFor(&entry.path, other.runtime));
        return Ok(true);
    }
    let now = current(host, &entry.path);
    if now == entry.before_sha256() {
        return Ok(true);
    }
    if !entry.wrote(now.as_deref()) {
        told(Step::LeftAlone(&entry.path));
        return Ok(false);
    }
    match &entry.before {
        Some(before) => before.restore(&path)?,
        None => fs::remove_file(&path)?,
    }
    told(Step::Restored(&entry.path));
    Ok(true)
}

/// The journal's line for a file that is about to be written; refuses what is not ours to write.
fn entry(host: &Host, file: &NewFile, known: Option<&Entry>, others: &[Journal]) -> Result<Entry, ExecuteError> {
    let after_sha256 = sha256(&file.content);
    let shared = others.iter().find_map(|journal| Some((journal.runtime, find(journal, &file.path)?)));
    let before = match (known, shared) {
        (_, Some((runtime, other))) if other.after_sha256 != after_sha256 => {
            return Err(ExecuteError::Shared { path: file.path.clone(), runtime });
        }
        (Some(entry), _) => {
            let now = current(host, &file.path);
            if now != entry.before_sha256() && !entry.wrote(now.as_deref()) {
                return Err(ExecuteError::Changed(file.path.clone()));
            }
            entry.before.clone()
        }
        (None, Some((_, entry))) => entry.before.clone(),
        (None, None) => {
            let path = host.at(&file.path);
            // A link to nowhere would be lost without a trace.
            let dangles = path.is_symlink() && !path.exists();
            let before = Before::of(&path).map_err(|source| ExecuteError::Read { path, source })?;
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

/// The folders that are made for these files: now, in the run before, or for another runtime that shares the file.
fn made_folders(host: &Host, plan: &Plan, previous: Option<&Journal>, others: &[Journal]) -> Vec<String> {
    let mut made = previous.map(|journal| journal.made_folders.clone()).unwrap_or_default();
    for file in &plan.files {
        let of_others = others.iter().flat_map(|journal| &journal.made_folders);
        let shared = of_others.filter(|folder| Path::new(&file.path).starts_with(folder)).cloned();
        let new: Vec<String> = shared.chain(missing_folders(host, &file.path)).collect();
        for folder in new {
            if !made.contains(&folder) {
                made.push(folder);
            }
        }
    }
    made
}

/// The folders above `path` that are not there, the uppermost first.
pub(super) fn missing_folders(host: &Host, path: &str) -> Vec<String> {
    let above = Path::new(path).ancestors().skip(1);
    let missing = above.take_while(|folder| !host.at(folder).exists());
    let mut missing: Vec<String> = missing.map(|folder| folder.to_string_lossy().into_owned()).collect();
    missing.reverse();
    missing
}

fn find<'a>(journal: &'a Journal, path: &str) -> Option<&'a Entry> {
    journal.files.iter().find(|entry| entry.path == path)
}

/// The digest of what is there now.
pub(super) fn current(host: &Host, path: &str) -> Option<String> {
    host.read(path).ok().flatten().map(|content| sha256(&content))
}

fn write_error(host: &Host, path: &str, source: io::Error) -> ExecuteError {
    ExecuteError::Write { path: host.at(path), source }
}

/// A command for people: a script among the arguments is not spelt out.
pub fn shown(command: &Command) -> String {
    let words = command.iter().map(|word| if word.contains('\n') { "'(the set-up script)'" } else { word.as_str() });
    words.collect::<Vec<_>>().join(" ")
}
