//! The output of a command: results on stdout, failures and questions on stderr.
//!
//! `println!` and `eprintln!` panic if the stream is closed or full, so no command uses them. A command that changes
//! something does its work to the end even if nobody can read about it, and then exits with 74. stderr that cannot be
//! written is no reason for anything.

use std::error::Error;
use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use entrepot_core::exit;

/// A stream of lines. Its first failure is kept, and nothing is written after it.
pub(crate) struct Output<W> {
    out: W,
    failure: Option<io::Error>,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, failure: None }
    }

    /// Writes a line, if no line has failed before.
    pub(crate) fn line(&mut self, line: impl fmt::Display) {
        if self.failure.is_none() {
            self.failure = writeln!(self.out, "{line}").err();
        }
    }

    /// The first failure of all lines. Ok if everything was written.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.failure.take().map_or_else(|| self.out.flush(), Err)
    }
}

/// The exit code of a command: `code` if it was given, 74 if stdout does not take what is still to be written.
pub fn end(code: ExitCode) -> ExitCode {
    match io::stdout().flush() {
        Err(error) if code == ExitCode::SUCCESS => fail(&error, exit::IO),
        _ => code,
    }
}

/// The exit code of a failed command. The failure is one line on stderr, unless the reader of stdout has left
/// (`| head`) and nothing else is wrong.
pub fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    if code != exit::IO || !is_closed_pipe(error) {
        complain(error);
    }
    ExitCode::from(code)
}

/// Writes one line to stderr, if stderr takes it.
pub(crate) fn complain(what: impl fmt::Display) {
    say(format_args!("entrepot: {what}\n"));
}

/// Writes to stderr, if stderr takes it.
pub(crate) fn say(what: impl fmt::Display) {
    // There is no other place to tell of a failure.
    let _ = write!(io::stderr(), "{what}");
}

/// Asks the person at the terminal for yes or no. None if there is no terminal to ask.
pub(crate) fn ask(question: &str) -> Option<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return None;
    }
    say(format_args!("{question} [y/N] "));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that takes this many bytes.
    struct Small(usize);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_first_failure_is_kept_and_ends_the_output() {
        let mut output = Output::new(Small(8));
        ["one", "two", "a longer line", "x"].into_iter().for_each(|line| output.line(line));
        assert_eq!(output.out.0, 0, "nothing follows the failure");
        assert_eq!(output.finish().map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
        assert!(Output::new(Small(0)).finish().is_ok());
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the output: {0}")]
    struct Failed(#[from] io::Error);

    #[test]
    fn a_reader_that_left_is_found_in_the_chain() {
        for (kind, expected) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)] {
            assert_eq!(is_closed_pipe(&io::Error::from(kind)), expected);
            assert_eq!(is_closed_pipe(&Failed::from(io::Error::from(kind))), expected);
        }
    }
}
