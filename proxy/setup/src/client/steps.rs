//! The steps of a run, and the caller that attends it: it runs the commands, hears of the steps, and may ask for the end.
//! Shared by `execute` and `change`.

use super::Runtime;
use super::plan::Command;

/// The caller of a run. A function that runs commands is one that neither hears of steps nor asks for the end.
pub trait Attendant {
    /// Runs a command. The error is one line for people: how the command failed, with the last line that it printed.
    fn run(&mut self, command: &Command) -> Result<(), String>;

    /// Hears of a step that was done.
    fn report(&mut self, _step: Step<'_>) {}

    /// Whether a set-up shall end and be taken back. It is asked between two steps, and never on the way back.
    fn is_interrupted(&self) -> bool {
        false
    }
}

impl<F: FnMut(&Command) -> Result<(), String>> Attendant for F {
    fn run(&mut self, command: &Command) -> Result<(), String> {
        self(command)
    }
}

/// A step of set-up or undo. `&str` is a path, except in `CommandFailed`: there it is the error of the command.
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
pub(super) fn run_all(commands: &[Command], attendant: &mut dyn Attendant) -> usize {
    let mut failed = 0;
    for command in commands {
        match attendant.run(command) {
            Ok(()) => attendant.report(Step::Ran(command)),
            Err(said) => {
                failed += 1;
                attendant.report(Step::CommandFailed(command, &said));
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
