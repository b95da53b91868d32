//! The bodies of requests that must be complete before anything is done with them: manifests, forms. Clients send them
//! at their own speed, so they rest here meanwhile, and there is one budget for all of them.
//!
//! A body rests in memory while the budget lasts, and in a temporary file beyond it. A complete body is read back for
//! the time that it is worked on, within a second budget, of which one client has half. So a hundred slow clients cost
//! a hundred files, and an honest client beside them waits for none of them.
//!
//! Invariants: the bodies that rest in memory have [`RESTING_MAX_BYTES`] at most, and files that were read back
//! [`AT_WORK_MAX_BYTES`]. A body in a file has one unwritten piece in memory besides, as a connection has its buffer. A
//! temporary file has no name, so nothing is left of it, whatever ends the process.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use entrepot_core::client::{ClientKey, ClientShare, ClientShares};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The place and the budget of bodies that rest. Clones share them.
#[derive(Clone)]
pub struct HeldBodies {
    shared: Arc<Shared>,
}

struct Shared {
    /// The folder of temporary files.
    folder: PathBuf,
    resting: Arc<Semaphore>,
    at_work: Arc<Semaphore>,
    on_disk: Arc<Semaphore>,
    /// Turns at the disk.
    turns: Arc<Semaphore>,
    /// The bytes of each client, in memory and in files.
    clients: ClientShares,
    /// Each client's part of `at_work`.
    clients_at_work: ClientShares,
}

/// A complete body. Its place in the budget is given back when it is dropped.
pub struct HeldBody {
    bytes: Bytes,
    _memory: Memory,
    _client: ClientShare,
}

/// The part of a budget that a complete body has.
enum Memory {
    /// Of the resting bodies'. None for a body without bytes.
    Rested { _room: Option<OwnedSemaphorePermit> },
    /// Of the memory for files that were read back.
    AtWork { _room: OwnedSemaphorePermit, _client: ClientShare },
}

/// The reason why a body was not held to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotHeld {
    /// It is longer than it may be.
    #[error("the body is too large")]
    TooLarge,
    /// The client left or broke its framing.
    #[error("the body broke off")]
    BrokeOff,
    /// The client took too long.
    #[error("the client stopped sending in the middle of its body")]
    Stalled,
    /// This client has too much here already, or everybody together has.
    #[error("too much is being received at the moment")]
    Busy,
    /// The disk has no room for it, or failed.
    #[error("the disk failed")]
    Disk,
}

/// The memory of bodies that rest, in all.
pub const RESTING_MAX_BYTES: usize = 16 << 20;
/// The memory of bodies that rested in a file and are complete, in all.
pub const AT_WORK_MAX_BYTES: usize = 16 << 20;
/// The temporary files, in all.
const ON_DISK_MAX_BYTES: usize = 1 << 30;
/// The most bytes of one client, in memory and in files together.
const PER_CLIENT_MAX_BYTES: u64 = 512 << 20;
/// The most bytes of one client among the files that were read back. A body may be worked on at a slow upstream's speed.
const AT_WORK_PER_CLIENT_MAX_BYTES: usize = AT_WORK_MAX_BYTES / 2;
/// The memory of a body that rests is taken in pieces of this size, and a file is written in them.
const PIECE_BYTES: usize = 16 * 1024;
/// The most threads that read and write temporary files.
const TURNS: usize = 4;

impl HeldBodies {
    /// Bodies with their temporary files in this folder, which exists.
    pub fn new(folder: PathBuf) -> Self {
        let budget = |size| Arc::new(Semaphore::new(size));
        let shared = Shared {
            folder,
            resting: budget(RESTING_MAX_BYTES),
            at_work: budget(AT_WORK_MAX_BYTES),
            on_disk: budget(ON_DISK_MAX_BYTES),
            turns: budget(TURNS),
            clients: ClientShares::new(PER_CLIENT_MAX_BYTES),
            clients_at_work: ClientShares::new(AT_WORK_PER_CLIENT_MAX_BYTES as u64),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Receives a client's body of at most `max_bytes`, within `patience`.
    pub async fn receive<B>(
        &self,
        client: ClientKey,
        body: B,
        max_bytes: usize,
        patience: Duration,
    ) -> Result<HeldBody, NotHeld>
    where
        B: Body<Data = Bytes>,
    {
        timeout(patience, self.receive_patiently(client, body, max_bytes)).await.unwrap_or(Err(NotHeld::Stalled))
    }

    async fn receive_patiently<B>(&self, client: ClientKey, body: B, max_bytes: usize) -> Result<HeldBody, NotHeld>
    where
        B: Body<Data = Bytes>,
    {
        let mut body = pin!(body);
        let mut share = self.shared.clients.take(client, 0).ok_or(NotHeld::Busy)?;
        let (mut resting, mut length) = (Resting::new(self.shared.clone()), 0);
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame.map_err(|_| NotHeld::BrokeOff)?.into_data() else { continue };
            length += bytes.len();
            if length > max_bytes {
                return Err(NotHeld::TooLarge);
            }
            if !share.grow(bytes.len() as u64) {
                return Err(NotHeld::Busy);
            }
            resting.add(bytes).await?;
        }
        let (bytes, memory) = resting.complete(client, length).await?;
        Ok(HeldBody { bytes, _memory: memory, _client: share })
    }

    /// The memory that bodies take now, complete ones included.
    pub fn memory_bytes(&self) -> usize {
        let Shared { resting, at_work, .. } = &*self.shared;
        RESTING_MAX_BYTES + AT_WORK_MAX_BYTES - resting.available_permits() - at_work.available_permits()
    }
}

impl HeldBody {
    /// The body's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// A body that arrives.
struct Resting {
    shared: Arc<Shared>,
    /// All of it, or what is not in the file yet, in pieces: one buffer that grows would take twice as much.
    pieces: Vec<Vec<u8>>,
    memory: Option<OwnedSemaphorePermit>,
    spooled: Option<Spooled>,
}

struct Spooled {
    file: Temporary,
    room: OwnedSemaphorePermit,
}

/// A file without a name. Its blocks are freed on a thread that may block.
struct Temporary(Option<File>);

impl Resting {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, pieces: Vec::new(), memory: None, spooled: None }
    }

    async fn add(&mut self, bytes: Bytes) -> Result<(), NotHeld> {
        let fits = self.spooled.is_none() && self.remember(bytes.len());
        self.keep(&bytes);
        // The connection's buffer is not held while the disk is waited for.
        drop(bytes);
        if !fits && (self.spooled.is_none() || self.pieces.len() > 1) {
            self.spool().await?;
        }
        Ok(())
    }

    fn keep(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.pieces.last().is_none_or(|piece| piece.len() == PIECE_BYTES) {
                // It grows with what arrives: a body of a few bytes takes no whole piece.
                self.pieces.push(Vec::new());
            }
            let Some(piece) = self.pieces.last_mut() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - piece.len()));
            piece.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Takes memory of the budget for so many bytes more. False if there is none.
    fn remember(&mut self, count: usize) -> bool {
        let Some(more) = permits(&self.shared.resting, count) else { return false };
        match &mut self.memory {
            Some(memory) => memory.merge(more),
            None => self.memory = Some(more),
        }
        true
    }

    /// Moves the pieces to the file, which is made if there is none.
    async fn spool(&mut self) -> Result<(), NotHeld> {
        let pieces = std::mem::take(&mut self.pieces);
        let more = permits(&self.shared.on_disk, pieces.iter().map(Vec::len).sum()).ok_or(NotHeld::Busy)?;
        let (file, room) = match self.spooled.take() {
            Some(Spooled { file, mut room }) => {
                room.merge(more);
                (file, room)
            }
            None => (Temporary(None), more),
        };
        let folder = self.shared.folder.clone();
        let written = move |mut file: Temporary| {
            let open = match &mut file.0 {
                Some(open) => open,
                none => none.insert(tempfile::tempfile_in(folder)?),
            };
            pieces.iter().try_for_each(|piece| open.write_all(piece))?;
            Ok(file)
        };
        let file = self.at_the_disk(file, written).await?;
        self.memory = None;
        self.spooled = Some(Spooled { file, room });
        Ok(())
    }

    async fn complete(mut self, client: ClientKey, length: usize) -> Result<(Bytes, Memory), NotHeld> {
        let Some(Spooled { file, room }) = self.spooled.take() else {
            return Ok((self.pieces.concat().into(), Memory::Rested { _room: self.memory.take() }));
        };
        let wanted = length.min(AT_WORK_PER_CLIENT_MAX_BYTES);
        let share = self.shared.clients_at_work.take(client, wanted as u64).ok_or(NotHeld::Busy)?;
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let at_work = self.shared.at_work.clone().acquire_many_owned(wanted).await.map_err(|_| NotHeld::Busy)?;
        let rest = std::mem::take(&mut self.pieces);
        let read = move |mut file: Temporary| {
            let mut bytes = Vec::with_capacity(length);
            if let Some(open) = &mut file.0 {
                open.rewind()?;
                open.read_to_end(&mut bytes)?;
            }
            rest.iter().for_each(|piece| bytes.extend_from_slice(piece));
            Ok(Bytes::from(bytes))
        };
        let bytes = self.at_the_disk(file, read).await?;
        drop(room);
        Ok((bytes, Memory::AtWork { _room: at_work, _client: share }))
    }

    /// Runs `job` on a thread that may block, in its turn.
    async fn at_the_disk<T: Send + 'static>(
        &self,
        file: Temporary,
        job: impl FnOnce(Temporary) -> io::Result<T> + Send + 'static,
    ) -> Result<T, NotHeld> {
        let turn = self.shared.turns.clone().acquire_owned().await.map_err(|_| NotHeld::Disk)?;
        let working = tokio::task::spawn_blocking(move || {
            let done = job(file);
            drop(turn);
            done
        });
        let done = working.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|error| {
            tracing::warn!("a request's body cannot be kept in a temporary file: {error}");
            NotHeld::Disk
        })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let Some(file) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(file))),
            // The process ends.
            Err(_) => drop(file),
        }
    }
}

/// So many bytes of a budget, if it has them.
fn permits(budget: &Arc<Semaphore>, count: usize) -> Option<OwnedSemaphorePermit> {
    budget.clone().try_acquire_many_owned(u32::try_from(count).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use std::convert::Infallible;
    use tokio::sync::mpsc;

    const MAX_BYTES: usize = 4 << 20;
    const SECONDS: Duration = Duration::from_secs(10);

    fn client(number: u8) -> ClientKey {
        ClientKey::of([192, 0, 2, number].into())
    }

    fn held() -> (HeldBodies, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        (HeldBodies::new(folder.path().to_owned()), folder)
    }

    /// A body whose pieces the test sends.
    fn slow() -> (mpsc::UnboundedSender<Bytes>, impl Body<Data = Bytes, Error = Infallible> + Send) {
        let (sender, mut pieces) = mpsc::unbounded_channel();
        let stream = futures_util::stream::poll_fn(move |context| {
            pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
        });
        (sender, StreamBody::new(stream))
    }

    async fn eventually(what: &str, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SECONDS, waiting).await.unwrap_or_else(|_| panic!("{what}"));
    }

    /// The hundred slow bodies of the stranger, of 4 MiB each, and an honest one beside them.
    #[tokio::test]
    async fn a_hundred_slow_bodies_rest_on_disk_and_hold_up_nobody() {
        let (bodies, _folder) = held();
        let piece = Bytes::from(vec![7; 64 * 1024]);
        let mut slow_ones = Vec::new();
        for _ in 0..100 {
            let (sender, body) = slow();
            let bodies = bodies.clone();
            let receiving = tokio::spawn(async move { bodies.receive(client(1), body, MAX_BYTES, SECONDS * 6).await });
            for _ in 1..MAX_BYTES / piece.len() {
                sender.send(piece.clone()).expect("received");
            }
            slow_ones.push((sender, receiving));
        }
        let on_disk = || ON_DISK_MAX_BYTES - bodies.shared.on_disk.available_permits();
        let sent = 100 * (MAX_BYTES - piece.len());
        eventually("what is beyond the budget rests on disk", || {
            on_disk() + bodies.memory_bytes() >= sent - 100 * PIECE_BYTES
        })
        .await;
        assert!(bodies.memory_bytes() <= RESTING_MAX_BYTES, "{}", bodies.memory_bytes());
        let manifest = Bytes::from(vec![1; MAX_BYTES]);
        let honest = bodies.receive(client(2), Full::new(manifest.clone()), MAX_BYTES, SECONDS).await;
        assert_eq!(honest.expect("received beside the slow ones").bytes(), &manifest);
        // The slow ones end well too.
        for (sender, receiving) in slow_ones {
            sender.send(piece.clone()).expect("received");
            drop(sender);
            let body = receiving.await.expect("no panic").expect("received");
            assert!(body.bytes().len() == MAX_BYTES && body.bytes().iter().all(|byte| *byte == 7));
            assert!(bodies.memory_bytes() <= RESTING_MAX_BYTES + AT_WORK_MAX_BYTES);
        }
        eventually("everything is given back", || bodies.memory_bytes() == 0 && on_disk() == 0).await;
        assert_eq!(bodies.shared.clients.clients(), 0);
    }

    /// A stranger's upstream hangs, so its complete bodies stay. There is memory left for the others.
    #[tokio::test]
    async fn complete_bodies_that_stay_hold_up_no_other_client() {
        let (bodies, _folder) = held();
        let _all = permits(&bodies.shared.resting, RESTING_MAX_BYTES).expect("the budget");
        let body = || Full::new(Bytes::from(vec![3; MAX_BYTES]));
        let mut stay = Vec::new();
        for _ in 0..AT_WORK_MAX_BYTES / MAX_BYTES {
            stay.push(bodies.receive(client(1), body(), MAX_BYTES, SECONDS).await);
        }
        let refused = stay.iter().filter(|held| held.as_ref().is_err_and(|why| *why == NotHeld::Busy)).count();
        assert_eq!(refused, stay.len() / 2);
        let honest = bodies.receive(client(2), body(), MAX_BYTES, SECONDS).await;
        assert_eq!(honest.expect("received beside the stranger's").bytes().len(), MAX_BYTES);
        drop(stay);
        bodies.receive(client(1), body(), MAX_BYTES, SECONDS).await.expect("received again");
        assert_eq!(bodies.shared.clients_at_work.clients(), 0);
    }

    #[tokio::test]
    async fn too_long_too_slow_and_too_much_are_told_apart() {
        let (bodies, folder) = held();
        let long = Full::new(Bytes::from(vec![0; 11]));
        let refused = |outcome: Result<HeldBody, NotHeld>| outcome.map(|body| body.bytes().len()).expect_err("refused");
        assert_eq!(refused(bodies.receive(client(1), long, 10, SECONDS).await), NotHeld::TooLarge);
        let (_sender, never) = slow();
        assert_eq!(refused(bodies.receive(client(1), never, 10, Duration::from_millis(1)).await), NotHeld::Stalled);
        let _share = bodies.shared.clients.take(client(1), PER_CLIENT_MAX_BYTES).expect("all of it");
        let body = || Full::new(Bytes::from_static(b"{}"));
        assert_eq!(refused(bodies.receive(client(1), body(), 10, SECONDS).await), NotHeld::Busy);
        assert_eq!(bodies.receive(client(2), body(), 10, SECONDS).await.expect("another client").bytes(), "{}");
        // Without a folder there are no files, and what fits the budget is still received.
        folder.close().expect("removed");
        assert_eq!(bodies.receive(client(2), body(), 10, SECONDS).await.expect("in memory").bytes(), "{}");
        let _all = permits(&bodies.shared.resting, RESTING_MAX_BYTES).expect("the budget");
        assert_eq!(refused(bodies.receive(client(2), body(), 10, SECONDS).await), NotHeld::Disk);
    }
}
