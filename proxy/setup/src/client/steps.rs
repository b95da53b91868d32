//! The steps of a run, as the person at the terminal sees them, and running commands. Shared by `execute` and `change`.

use super::Runtime;
use super::plan::Command;

/// Runs a command. The error is one line for people: how the command failed, with the last line that it printed.
pub type Runner<'a> = &'a mut dyn FnMut(&Command) -> Result<(), String>;
/// Called for each step that was done.
pub type Report<'a> = &'a mut dyn FnMut(Step<'_>);

/// A step of set-up or undo. `&str` is a path, except in `CommandFailed`: there it is the error of the [`Runner`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    Wrote(&'a str),
    /// The file already has the wanted content.
    Unchanged(&'a str),
    Ran(&'a Command),
    /// The file is again as it was before the set-up, or before the run that is taken back.
    Restored(&'a str),
    /// The file has changed meanwhile, so it stays as it is.
    LeftAlone(&'a str),
    /// The file stays because another runtime uses it.
    StaysFor(&'a str, Runtime),
    /// A command failed while changes were taken back; the remaining steps go on.
    CommandFailed(&'a Command, &'a str),
}

/// Runs every command, even after one failed. Returns how many failed.
pub(super) fn run_all(commands: &[Command], run: Runner<'_>, report: Report<'_>) -> usize {
    let mut failed = 0;
    for command in commands {
        match run(command) {
            Ok(()) => report(Step::Ran(command)),
            Err(said) => {
                failed += 1;
                report(Step::CommandFailed(command, &said));
            }
        }
    }
    failed
}

/// A command for people. A script among the arguments is not written out.
pub fn shown(command: &Command) -> String {
    let words = command.iter().map(|word| if word.contains('\n') { "'(the set-up script)'" } else { word.as_str() });
    words.collect::<Vec<_>>().join(" ")
}
