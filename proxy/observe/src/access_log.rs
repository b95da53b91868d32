//! The access log: one line for each request, on stdout or in a file.
//!
//! The data path hands over an [`AccessRecord`] and goes on; [`Sink`] writes, or drops and counts.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::access_record::AccessRecord;
use super::sink::{Sink, SinkTarget};
use entrepot_config::ready::LogFormat;

/// The running log.
pub struct AccessLog {
    format: LogFormat,
    sink: Sink,
}

/// Why there is no access log.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The configured file.
    #[error("cannot open the access log {path}: {source}; its folder must exist and be writable (logging.file)")]
    File {
        /// As configured.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Standard output, or the thread.
    #[error("cannot start the access log on standard output: {0}")]
    Stdout(io::Error),
}

impl AccessLog {
    /// Opens `file`, or stdout where there is none, and starts the writer.
    pub fn start(format: LogFormat, file: Option<&Path>) -> Result<Self, AccessLogError> {
        let target = file.map_or(SinkTarget::Stdout, |path| SinkTarget::File(path.to_owned()));
        let started = Sink::start("access-log", target, |error| {
            tracing::error!(%error, "the access log cannot be written; its lines are dropped and counted");
        });
        let sink = started.map_err(|source| match file {
            Some(path) => AccessLogError::File { path: path.to_owned(), source },
            None => AccessLogError::Stdout(source),
        })?;
        Ok(Self { format, sink })
    }

    /// Queues the line of one request; never blocks.
    pub fn write(&self, record: &AccessRecord) {
        self.sink.send(match self.format {
            LogFormat::Json => record.json_line(),
            LogFormat::Text => record.text_line(),
        });
    }

    /// Lines lost so far.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Opens the file anew (SIGHUP, after rotation); the old one stays where that fails.
    pub fn reopen(&self) {
        self.sink.reopen();
    }

    /// Waits until all is written, at most `deadline`; false where something is left. Blocks the thread.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.sink.flush(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::super::access_record::tests::record;
    use super::*;

    #[test]
    fn writes_the_configured_format() {
        let folder = tempfile::tempdir().expect("a folder");
        for (format, line) in [(LogFormat::Json, record().json_line()), (LogFormat::Text, record().text_line())] {
            let path = folder.path().join(format!("{format:?}"));
            let log = AccessLog::start(format, Some(&path)).expect("the log starts");
            log.write(&record());
            assert!(log.flush(Duration::from_secs(10)));
            assert_eq!(std::fs::read(&path).expect("readable"), line);
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = AccessLog::start(LogFormat::Json, Some(Path::new("/nonexistent/access.log"))).err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("/nonexistent/access.log") && text.contains("folder must exist"), "{text}");
    }
}
