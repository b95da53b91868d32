//! A thread's own io_uring, for reads that would wait for a disk. A read is submitted at once and completed by a task
//! that waits for the ring's descriptor; a serving thread never waits in the kernel.
//!
//! Invariant: memory that the kernel may still write to belongs to the ring's table of operations alone until its
//! completion was seen. The waiter for an answer may go; the memory stays. When the thread ends with operations under
//! way, their memory is leaked rather than freed while the kernel has it.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::buffers::Buffer;

/// Reads under way at once. More go to the blocking pool.
const ENTRIES: u32 = 256;

thread_local! {
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

struct Ring {
    uring: IoUring,
    operations: Vec<Option<Operation>>,
    free: Vec<usize>,
}

/// Everything that the kernel works with until the completion.
struct Operation {
    buffer: Buffer,
    /// Open for as long as the kernel reads from it.
    _file: Arc<File>,
    answer: oneshot::Sender<io::Result<Buffer>>,
}

/// Whether the kernel gives this process rings. The error says why not (`kernel.io_uring_disabled`, seccomp).
pub fn probe() -> io::Result<()> {
    let uring = IoUring::new(2)?;
    let mut probe = io_uring::Probe::new();
    uring.submitter().register_probe(&mut probe)?;
    if probe.is_supported(opcode::Read::CODE) { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Gives this thread a ring. The future completes its operations: run it on this thread for as long as it serves.
pub fn start() -> io::Result<impl Future<Output = ()>> {
    let uring = IoUring::new(ENTRIES)?;
    // SAFETY: the ring is open, and the borrow ends with the duplicate.
    let descriptor = unsafe { BorrowedFd::borrow_raw(uring.as_raw_fd()) }.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` always names the same descriptor, and keeps it open until the `AsyncFd` is dropped.
    let ready = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? };
    let operations = (0..ENTRIES).map(|_| None).collect();
    RING.set(Some(Ring { uring, operations, free: (0..ENTRIES as usize).collect() }));
    Ok(complete(ready))
}

async fn complete(ready: AsyncFd<OwnedFd>) {
    while let Ok(mut guard) = ready.readable().await {
        // Before the queue is drained, so that a completion meanwhile makes it ready again.
        guard.clear_ready();
        RING.with_borrow_mut(|ring| {
            if let Some(ring) = ring {
                ring.drain();
            }
        });
    }
}

/// Begins a read on this thread's ring. Gives the buffer back if there is no ring or it is full.
pub(crate) fn submit_read(
    file: &Arc<File>,
    offset: u64,
    length: usize,
    buffer: Buffer,
) -> Result<oneshot::Receiver<io::Result<Buffer>>, Buffer> {
    RING.with_borrow_mut(|ring| match ring {
        Some(ring) => ring.read(file, offset, length, buffer),
        None => Err(buffer),
    })
}

impl Ring {
    fn read(
        &mut self,
        file: &Arc<File>,
        offset: u64,
        length: usize,
        mut buffer: Buffer,
    ) -> Result<oneshot::Receiver<io::Result<Buffer>>, Buffer> {
        let (Some(slot), Ok(length)) = (self.free.pop(), u32::try_from(length)) else { return Err(buffer) };
        let address = buffer.room(length as usize).as_mut_ptr();
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), address, length)
            .offset(offset)
            .build()
            .user_data(slot as u64);
        let (answer, receiver) = oneshot::channel();
        self.operations[slot] = Some(Operation { buffer, _file: file.clone(), answer });
        // SAFETY: the entry's memory and descriptor are owned by `operations[slot]`, which gives them up only when the
        // completion with this number was seen (`drain`), or never (`drop`). A buffer's memory does not move with it.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        if pushed.is_err() {
            self.free.push(slot);
            return match self.operations[slot].take() {
                Some(operation) => Err(operation.buffer),
                None => Ok(receiver),
            };
        }
        // If the kernel is short of memory, the entry stays in the queue and leaves with the next one's submission.
        if let Err(error) = self.uring.submit()
            && !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy)
            && error.kind() != io::ErrorKind::Interrupted
        {
            // The entry was not taken and no completion will come. The waiter hears of it when the sender is dropped.
            self.give_up(slot);
        }
        // A read from the page cache is complete already.
        self.drain();
        Ok(receiver)
    }

    /// The ring refused its queue. It is unknown whether the kernel still uses the memory, so it is leaked.
    fn give_up(&mut self, slot: usize) {
        if let Some(Operation { buffer, .. }) = self.operations[slot].take() {
            std::mem::forget(buffer);
        }
    }

    fn drain(&mut self) {
        let Self { uring, operations, free } = self;
        for completion in uring.completion() {
            let slot = completion.user_data() as usize;
            let Some(Operation { mut buffer, answer, .. }) = operations.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            free.push(slot);
            let read = match usize::try_from(completion.result()) {
                Ok(filled) => {
                    buffer.set_filled(filled);
                    Ok(buffer)
                }
                Err(_) => Err(io::Error::from_raw_os_error(-completion.result())),
            };
            // A waiter that left wants no answer.
            let _ = answer.send(read);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
        for operation in self.operations.drain(..).flatten() {
            std::mem::forget(operation.buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn on_disk(content: &[u8]) -> Arc<File> {
        let folder = std::env::current_dir().expect("a folder");
        let mut file = tempfile::tempfile_in(folder).expect("a file");
        file.write_all(content).expect("written");
        file.sync_all().expect("synced");
        Arc::new(file)
    }

    fn drop_cache(file: &File) {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("dropped");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn cold_and_warm_reads_come_back_and_dropped_ones_harm_nobody() {
        probe().expect("io_uring");
        let completing = tokio::spawn(start().expect("a ring"));
        let content: Vec<u8> = (0..4_000_000u32).map(|n| (n / 7) as u8).collect();
        let file = on_disk(&content);
        for round in 0..3 {
            if round != 1 {
                drop_cache(&file);
            }
            let mut readings: Vec<_> = (0..40).map(|n| crate::read::start(&file, n * 100_000, 100_000)).collect();
            readings.truncate(30);
            for (n, reading) in readings.iter_mut().enumerate() {
                let bytes = reading.finish().await.expect("read");
                assert!(bytes == content[n * 100_000..(n + 1) * 100_000], "{n}");
            }
        }
        let end = crate::read::start(&file, 3_999_990, 100).finish().await.expect("read");
        assert_eq!(end, content[3_999_990..]);
        assert!(crate::read::start(&file, 4_000_000, 100).finish().await.expect("the end").is_empty());
        completing.abort();
    }

    #[tokio::test]
    async fn more_than_the_ring_holds_and_threads_without_one_read_all_the_same() {
        let content = vec![3; 1 << 20];
        let file = on_disk(&content);
        let without = crate::read::start(&file, 0, 1 << 20).finish().await.expect("read");
        assert_eq!(without, content);
        let completing = tokio::spawn(start().expect("a ring"));
        drop_cache(&file);
        let readings: Vec<_> = (0..2 * u64::from(ENTRIES)).map(|n| crate::read::start(&file, n * 512, 512)).collect();
        for mut reading in readings {
            assert_eq!(reading.finish().await.expect("read"), content[..512]);
        }
        completing.abort();
    }

    #[tokio::test]
    async fn an_error_of_the_file_is_the_readers() {
        let completing = tokio::spawn(start().expect("a ring"));
        let folder = Arc::new(File::open(".").expect("a folder"));
        let error = crate::read::start(&folder, 0, 100).finish().await.expect_err("a folder has no bytes");
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        completing.abort();
    }
}
