//! The way of log lines out of the process: a bounded queue and a thread of its own behind it.
//!
//! A pipe that is not read blocks that thread and nothing else: the queue fills, further lines are dropped and
//! counted. Standard streams are written through a duplicate of their descriptor, never through `std::io::stdout()`,
//! whose lock a stuck write would hold against the rest of the process and its exit.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait for the writer; more are dropped.
const QUEUE_LINES: usize = 4096;
/// Waiting lines are joined into writes of about this size.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the writer rests after a batch.
const GATHERING: Duration = Duration::from_millis(3);

/// A bounded, lossy way out for lines.
pub struct Sink {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

/// The target of lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SinkTarget {
    /// The process's standard output.
    Stdout,
    /// The process's standard error.
    Stderr,
    /// A file, appended to; its folder must exist.
    File(PathBuf),
}

/// Told once when writing begins to fail. The events' own sink has no one to tell and passes a function that does
/// nothing: an event about it would fail the same way.
pub type OnFailure = fn(&io::Error);

enum Message {
    Line(Vec<u8>),
    /// Nothing to write; the writer looks at its flags.
    Wake,
}

#[derive(Default)]
struct Shared {
    accepted: AtomicU64,
    dropped: AtomicU64,
    reopen: AtomicBool,
    /// Lines that the writer is done with, written or failed.
    settled: Mutex<u64>,
    changed: Condvar,
}

impl Sink {
    /// Opens the target and starts the writer, a thread called `name`.
    pub fn start(name: &str, target: SinkTarget, on_failure: OnFailure) -> io::Result<Self> {
        let output = target.open()?;
        let shared = Arc::new(Shared::default());
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let writer = Writer { target, output, on_failure, failing: false, shared: Arc::clone(&shared) };
        thread::Builder::new().name(name.to_owned()).spawn(move || writer.run(&lines))?;
        Ok(Self { queue, shared })
    }

    /// Queues one line, its newline included. Never blocks; the line is dropped and counted where the queue is full.
    pub fn send(&self, line: Vec<u8>) {
        match self.queue.try_send(Message::Line(line)) {
            Ok(()) => self.shared.accepted.fetch_add(1, Ordering::Release),
            Err(_) => self.shared.dropped.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Lines lost so far, to a full queue or a failed write.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Opens a file target anew before the next write (after log rotation). A full queue needs no wake-up.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        let _ = self.queue.try_send(Message::Wake);
    }

    /// Waits until everything queued so far is written, at most `deadline`; false where it was not. Blocks: for the
    /// end of the process, not for the event loop.
    pub fn flush(&self, deadline: Duration) -> bool {
        let (end, wanted) = (Instant::now() + deadline, self.shared.accepted.load(Ordering::Acquire));
        let mut settled = self.shared.settled.lock().unwrap_or_else(PoisonError::into_inner);
        while *settled < wanted {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            settled = self.shared.changed.wait_timeout(settled, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl SinkTarget {
    fn open(&self) -> io::Result<File> {
        match self {
            Self::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Self::Stderr => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            Self::File(path) => {
                // Opening a FIFO for writing alone would wait for its reader.
                let fifo = path.metadata().is_ok_and(|found| found.file_type().is_fifo());
                OpenOptions::new().append(true).create(true).read(fifo).mode(0o640).open(path)
            }
        }
    }
}

struct Writer {
    target: SinkTarget,
    output: File,
    on_failure: OnFailure,
    /// The last write failed, perhaps within a line.
    failing: bool,
    shared: Arc<Shared>,
}

impl Writer {
    /// Until the last sender is gone.
    fn run(mut self, queue: &Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH_BYTES);
        while let Ok(first) = queue.recv() {
            let mut lines = 0;
            let mut next = Some(first);
            while let Some(message) = next {
                if let Message::Line(line) = message {
                    batch.extend_from_slice(&line);
                    lines += 1;
                }
                next = if batch.len() < BATCH_BYTES { queue.try_recv().ok() } else { None };
            }
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            self.write(&batch, lines);
            batch.clear();
            // A caller does not have to wake this thread for each line: some gather meanwhile.
            thread::park_timeout(GATHERING);
        }
    }

    /// The old file stays in use where the new one cannot be opened.
    fn reopen(&mut self) {
        match self.target.open() {
            Ok(output) => self.output = output,
            Err(error) => (self.on_failure)(&error),
        }
    }

    fn write(&mut self, batch: &[u8], lines: u64) {
        if lines == 0 {
            return;
        }
        // A failed write may have ended within a line; the next one must not continue it.
        let separated = if self.failing { self.output.write_all(b"\n") } else { Ok(()) };
        match separated.and_then(|()| self.output.write_all(batch)) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
                if !self.failing {
                    (self.on_failure)(&error);
                }
                self.failing = true;
            }
        }
        *self.shared.settled.lock().unwrap_or_else(PoisonError::into_inner) += lines;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn to_file(path: &std::path::Path) -> Sink {
        Sink::start("test-sink", SinkTarget::File(path.to_owned()), |_| ()).expect("the sink starts")
    }

    #[test]
    fn lines_arrive_in_order_and_appended() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        fs::write(&path, "before\n").expect("written");
        let sink = to_file(&path);
        for number in 0..500 {
            sink.send(format!("{number}\n").into_bytes());
        }
        assert!(sink.flush(SOON));
        let text = fs::read_to_string(&path).expect("readable");
        let expected: String = (0..500).map(|number| format!("{number}\n")).collect();
        assert_eq!(text, format!("before\n{expected}"));
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
        let sink = to_file(&path);
        sink.send(b"old\n".to_vec());
        assert!(sink.flush(SOON));
        fs::rename(&path, &rotated).expect("renamed");
        sink.reopen();
        sink.send(b"new\n".to_vec());
        assert!(sink.flush(SOON));
        assert_eq!(fs::read_to_string(&rotated).expect("readable"), "old\n");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "new\n");
    }

    #[test]
    fn a_missing_folder_is_an_error_at_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = SinkTarget::File(folder.path().join("absent/log"));
        assert_eq!(Sink::start("test-sink", target, |_| ()).err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn a_blocked_pipe_blocks_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a FIFO");
        let sink = to_file(&path);
        let started = Instant::now();
        for _ in 0..QUEUE_LINES * 2 {
            sink.send(vec![b'x'; 1024]);
        }
        assert!(sink.dropped() > 0, "the queue is full and says so");
        assert!(!sink.flush(Duration::from_millis(200)), "the pipe holds less than what was queued");
        assert!(started.elapsed() < SOON, "neither sending nor flushing waited for the reader");
    }

    #[test]
    fn failed_writes_are_counted_and_told_once() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let full = SinkTarget::File("/dev/full".into());
        let sink = Sink::start("test-sink", full, |_| _ = TOLD.fetch_add(1, Ordering::Relaxed)).expect("starts");
        for _ in 0..3 {
            sink.send(b"lost\n".to_vec());
            assert!(sink.flush(SOON));
        }
        assert_eq!((sink.dropped(), TOLD.load(Ordering::Relaxed)), (3, 1));
    }
}
