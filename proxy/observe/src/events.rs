//! Events: what happened besides requests, by `tracing`, on stderr so that stdout stays the access log.
//!
//! They leave through a [`Sink`] like the access log: a stuck stderr blocks no caller. A bare level is about this
//! program; the libraries below it stay at `warn`, because their trace levels were not written with secrets in mind.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::sink::{Sink, SinkTarget};
use entrepot_config::ready::LogFormat;

/// Changes the running set-up, and ends it.
pub struct EventsHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    sink: Arc<Sink>,
}

/// Why events cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// `logging.level` says nothing that exists.
    #[error("logging.level: {0:?} is neither a level (off, error, warn, info, debug, trace) nor target=level,…")]
    Level(String),
    /// Standard error or the writer's thread.
    #[error("cannot write events to standard error: {0}")]
    Stderr(#[from] io::Error),
    /// Somebody was faster.
    #[error("events are already set up in this process")]
    AlreadySet,
    /// The subscriber is gone.
    #[error("events are no longer set up")]
    Gone,
}

/// The reader of standard error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A person.
    Terminal,
    /// systemd's journal, which knows the time and takes the level in front of the line.
    Journal,
    /// A file or a program.
    Other,
}

/// Sets up events for the whole process, once.
pub fn init(level: &str, format: LogFormat) -> Result<EventsHandle, EventsError> {
    let sink = Arc::new(Sink::start("events", SinkTarget::Stderr, |_| ())?);
    let reader = Reader::of_stderr();
    let (subscriber, filter) = subscriber(level, format, reader, Outlet { sink: Arc::clone(&sink), reader })?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| EventsError::AlreadySet)?;
    Ok(EventsHandle { filter, sink })
}

impl EventsHandle {
    /// Takes another level over, as reloading does; a bad one changes nothing.
    pub fn set_level(&self, level: &str) -> Result<(), EventsError> {
        let filter = parse_filter(level)?;
        self.filter.reload(filter).map_err(|_| EventsError::Gone)
    }

    /// Events lost so far.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }

    /// Waits until all is written, at most `deadline`. Blocks the thread.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.sink.flush(deadline)
    }
}

/// Checks `logging.level` without setting anything up.
pub fn check_level(level: &str) -> Result<(), EventsError> {
    parse_filter(level).map(|_| ())
}

type FilterHandle = reload::Handle<EnvFilter, Registry>;

fn subscriber<W>(
    level: &str,
    format: LogFormat,
    reader: Reader,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, FilterHandle), EventsError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse_filter(level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match (format, reader) {
        (LogFormat::Json, Reader::Journal) => {
            lines.json().flatten_event(true).with_span_list(false).without_time().boxed()
        }
        (LogFormat::Json, _) => lines.json().flatten_event(true).with_span_list(false).boxed(),
        (LogFormat::Text, Reader::Journal) => lines.with_ansi(false).with_level(false).without_time().boxed(),
        (LogFormat::Text, _) => lines.with_ansi(reader == Reader::Terminal).boxed(),
    };
    Ok((Registry::default().with(filter).with(lines), handle))
}

/// Lets the span of a request through (`entrepot_net::http::exchange`), so that each event that is shown has the id of
/// its request. It is the last of a list, so it replaces what the list says about this target.
const REQUEST_SPAN: &str = "entrepot_request=error";

/// A bare level, or a list of `target=level` in tracing's syntax. A bare word that is no level would be taken for the
/// name of a target by tracing, and a mistyped level would silence everything; it is refused. The bare levels let the
/// span of a request through by `entrepot=`, which stands for every target that begins so; `off` shows no event either.
fn parse_filter(level: &str) -> Result<EnvFilter, EventsError> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let refused = || EventsError::Level(level.to_owned());
    let word = level.trim().to_ascii_lowercase();
    if LEVELS.contains(&word.as_str()) {
        let others = if matches!(word.as_str(), "off" | "error") { &word } else { "warn" };
        return EnvFilter::try_new(format!("{others},entrepot={word}")).map_err(|_| refused());
    }
    let directive = |part: &str| part.contains('=') || LEVELS.contains(&part.trim().to_ascii_lowercase().as_str());
    if !level.split(',').all(directive) {
        return Err(refused());
    }
    EnvFilter::try_new(format!("{level},{REQUEST_SPAN}")).map_err(|_| refused())
}

impl Reader {
    fn of_stderr() -> Self {
        let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
        if io::stderr().is_terminal() {
            Self::Terminal
        } else if identity(io::stderr().as_fd()).is_some_and(|own| own == stream) {
            Self::Journal
        } else {
            Self::Other
        }
    }
}

/// A stream as the journal names it to the processes that it listens to: a child whose stderr leads elsewhere has the
/// variable too.
fn identity(stream: BorrowedFd<'_>) -> Option<String> {
    let metadata = File::from(stream.try_clone_to_owned().ok()?).metadata().ok()?;
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// A level as syslog numbers it.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Collects one event and sends it as one line.
struct Outlet {
    sink: Arc<Sink>,
    reader: Reader,
}

struct Event<'a> {
    line: Vec<u8>,
    sink: &'a Sink,
}

impl<'a> MakeWriter<'a> for Outlet {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event { line: Vec::new(), sink: &self.sink }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Event<'a> {
        let front = if self.reader == Reader::Journal { priority(*event.level()) } else { "" };
        Event { line: front.into(), sink: &self.sink }
    }
}

impl Write for Event<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.sink.send(std::mem::take(&mut self.line));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn events(path: &Path, level: &str, format: LogFormat, emit: impl FnOnce(&FilterHandle)) -> String {
        events_for(Reader::Other, path, level, format, emit)
    }

    fn events_for(
        reader: Reader,
        path: &Path,
        level: &str,
        format: LogFormat,
        emit: impl FnOnce(&FilterHandle),
    ) -> String {
        let sink = Arc::new(Sink::start("test-events", SinkTarget::File(path.to_owned()), |_| ()).expect("starts"));
        let (subscriber, handle) =
            subscriber(level, format, reader, Outlet { sink: Arc::clone(&sink), reader }).expect("the set-up is right");
        tracing::subscriber::with_default(subscriber, || emit(&handle));
        assert!(sink.flush(Duration::from_secs(10)));
        std::fs::read_to_string(path).expect("readable")
    }

    #[test]
    fn a_bare_level_is_about_this_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = events(&folder.path().join("text"), "debug", LogFormat::Text, |_| {
            tracing::debug!("ours");
            tracing::trace!("too fine");
            tracing::debug!(target: "hyper::proto", "theirs");
            tracing::warn!(target: "rustls", "their warning");
        });
        assert!(text.contains("ours") && text.contains("their warning"), "{text}");
        assert!(!text.contains("theirs") && !text.contains("too fine"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn every_event_that_is_shown_has_the_id_of_its_request() {
        let folder = tempfile::tempdir().expect("a folder");
        let emit = |_: &FilterHandle| {
            let request = tracing::error_span!(target: "entrepot_request", "request", request_id = "00c0ffee");
            request.in_scope(|| tracing::error!(target: "entrepot_cache::pull", "seen"));
        };
        for (number, level) in [
            "error",
            "warn",
            "debug",
            "entrepot_cache=debug",
            "entrepot_cache=debug,warn",
            "off,entrepot_cache=error",
            "entrepot=off,entrepot_cache=info",
            "entrepot_request=off,entrepot_cache=info",
        ]
        .into_iter()
        .enumerate()
        {
            let text = events(&folder.path().join(format!("{number}.text")), level, LogFormat::Text, emit);
            assert!(text.contains("seen") && text.contains("request_id=\"00c0ffee\""), "{level}: {text}");
            let json = events(&folder.path().join(format!("{number}.json")), level, LogFormat::Json, emit);
            let event: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(
                (&event["message"], &event["span"]["request_id"]),
                (&"seen".into(), &"00c0ffee".into()),
                "{level}"
            );
        }
        assert_eq!(events(&folder.path().join("off"), "off", LogFormat::Text, emit), "");
    }

    #[test]
    fn json_events_are_one_object_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = events(&folder.path().join("json"), "info", LogFormat::Json, |_| {
            tracing::info!(registry = "ghcr.io", "line\nbreak");
        });
        let event: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&event["message"], &event["registry"]), (&"line\nbreak".into(), &"ghcr.io".into()));
    }

    #[test]
    fn the_journal_gets_levels_and_no_second_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let emit = |_: &FilterHandle| tracing::warn!("disk is full");
        let text = events_for(Reader::Journal, &folder.path().join("text"), "info", LogFormat::Text, emit);
        assert_eq!(text, "<4>entrepot_observe::events::tests: disk is full\n");
        let json = events_for(Reader::Journal, &folder.path().join("json"), "info", LogFormat::Json, emit);
        let event: serde_json::Value = serde_json::from_str(json.strip_prefix("<4>").expect("a level")).expect("JSON");
        assert_eq!((event.get("timestamp"), &event["message"]), (None, &"disk is full".into()));
    }

    #[test]
    fn the_level_changes_while_running() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = events(&folder.path().join("text"), "warn", LogFormat::Text, |handle| {
            tracing::info!("before");
            handle.reload(parse_filter("info").expect("a level")).expect("reloaded");
            tracing::info!("after");
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn levels_that_exist() {
        for good in ["info", "DEBUG", " warn ", "off", "entrepot=trace,hyper=info", "info,entrepot_cache::pull=debug"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["", "verbose", "inf", "info,verbose", "entrepot=loud", "info,"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}
