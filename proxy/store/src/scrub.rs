//! The scrub: all content is compared with its digests again and again, slowly, so that rot is found before a client
//! finds it. Bad content is treated as in `blobs::judged`: cached content goes and is fetched anew with its next pull;
//! pushed content is set aside.
//!
//! It goes by the files, in the order of their names, and notes where it is ([`Paths::scrub`]), so a restart goes on
//! there. After each blob it rests, so that a round over the whole store takes the time that is configured. While a blob
//! is read, clients go first, and what only the scrub has read leaves the page cache.

use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entrepot_core::digest::{Digest, Hasher};
use entrepot_kernel::residency;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::blobs::{Blobs, FileId};
use crate::blocking::{blocking, try_blocking};
use crate::disk;
use crate::errors::StoreError;
use crate::paths::{ALGORITHMS, Paths};
use crate::small_files;
use crate::space::Space;

/// Read at once.
const PIECE_BYTES: u64 = 1 << 20;
/// A blob is read no faster than this, in bytes a second.
const RATE_MAX: u64 = 64 << 20;
/// The scrub waits while clients were served so lately, but for no piece longer than [`WAIT_MAX`]: it must get on.
const LATELY: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// The place is noted this often.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);

/// The scrub of one store. One caller at a time advances it.
pub struct Scrub {
    paths: Paths,
    blobs: Arc<Blobs>,
    space: Arc<Space>,
    place: Mutex<Place>,
}

/// Where it is.
#[derive(Default)]
struct Place {
    /// Whether the note of an earlier process was read.
    is_known: bool,
    /// The last content that was compared. None at the beginning of a round.
    after: Option<Digest>,
    /// What comes next in the same folder, the last one first.
    queue: Vec<Digest>,
    noted_at: Option<Instant>,
}

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scrubbed {
    /// Content was compared: so many bytes.
    Compared(u64),
    /// Every blob was. The next step begins anew.
    Round,
}

impl Scrub {
    pub(crate) fn new(paths: Paths, blobs: Arc<Blobs>, space: Arc<Space>) -> Self {
        Self { paths, blobs, space, place: Mutex::default() }
    }

    /// Compares the next blob.
    pub async fn step(self: &Arc<Self>) -> Result<Scrubbed, StoreError> {
        let scrub = self.clone();
        let next = try_blocking(move || Ok(scrub.next())).await?;
        let Some(digest) = next else {
            self.note(None).await;
            return Ok(Scrubbed::Round);
        };
        let compared_bytes = self.compare(&digest).await?;
        self.note(Some(digest)).await;
        Ok(Scrubbed::Compared(compared_bytes))
    }

    /// How long to rest after so many bytes, if the whole store is to take `period`.
    pub fn rest_after(&self, bytes: u64, period: Duration) -> Duration {
        let held = self.space.ledger().held;
        rest(bytes, held.used_bytes.saturating_add(held.pinned_bytes), period)
    }

    /// The content after the last one that was compared.
    fn next(&self) -> Option<Digest> {
        let mut place = crate::lock(&self.place);
        if !place.is_known {
            place.is_known = true;
            let noted = small_files::read(&self.paths.scrub()).ok().flatten();
            place.after = noted.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
        }
        if let Some(next) = place.queue.pop() {
            return Some(next);
        }
        let after = place.after;
        for algorithm in ALGORITHMS {
            for first_byte in 0..=u8::MAX {
                let position = (algorithm.name(), first_byte);
                if after.is_some_and(|after| position < (after.algorithm().name(), after.bytes()[0])) {
                    continue;
                }
                let digests = disk::blobs_in(&self.paths, algorithm, first_byte).into_iter().map(|(digest, _)| digest);
                let is_next = |digest: &Digest| {
                    after.is_none_or(|after| after.algorithm() != algorithm || digest.bytes() > after.bytes())
                };
                place.queue = digests.filter(is_next).collect();
                place.queue.sort_unstable_by(|one, other| other.bytes().cmp(one.bytes()));
                if let Some(next) = place.queue.pop() {
                    return Some(next);
                }
            }
        }
        None
    }

    /// Reads content, which may leave the store meanwhile. A disk that does not give it is the next reader's error too.
    async fn compare(self: &Arc<Self>, digest: &Digest) -> Result<u64, StoreError> {
        let (path, asked) = (self.paths.blob(digest), *digest);
        let opened = try_blocking(move || {
            let Some(file) = disk::open(&path)? else { return Ok(None) };
            let known = file.metadata().map_err(|error| StoreError::from_io("measure", &path, error))?;
            Ok(Some((Arc::new(file), FileId::of(&known), known.len())))
        });
        let Some((file, id, size_bytes)) = opened.await? else { return Ok(0) };
        let (mut hasher, mut offset) = (Hasher::new(asked.algorithm()), 0);
        while offset < size_bytes {
            self.let_clients_go_first().await;
            let begun = Instant::now();
            let (file, length) = (file.clone(), PIECE_BYTES.min(size_bytes - offset));
            let hashed = blocking(move || {
                let hashed = hash_piece(&file, offset, length, &mut hasher);
                (hasher, hashed)
            });
            let Some((advanced, hashed)) = hashed.await else { return Err(StoreError::DiskThreadGone) };
            if let Err(error) = hashed {
                tracing::error!(%digest, offset, "content cannot be read ({error}); see the kernel log");
                self.blobs.unreadable(digest).await;
                return Ok(offset);
            }
            (hasher, offset) = (advanced, offset + length);
            tokio::time::sleep(rest(length, RATE_MAX, Duration::from_secs(1)).saturating_sub(begun.elapsed())).await;
        }
        if hasher.finish() != asked {
            let blobs = self.blobs.clone();
            blocking(move || blobs.throw_away(&asked, id)).await;
        }
        Ok(size_bytes)
    }

    async fn let_clients_go_first(&self) {
        let begun = Instant::now();
        while self.blobs.was_used_within(LATELY) && begun.elapsed() < WAIT_MAX {
            tokio::time::sleep(LATELY).await;
        }
    }

    /// Notes the place, for the next process too. The note is lost with a power cut or a full disk, and no harm is done.
    async fn note(self: &Arc<Self>, after: Option<Digest>) {
        let scrub = self.clone();
        let noted = try_blocking(move || {
            {
                let mut place = crate::lock(&scrub.place);
                place.after = after;
                if after.is_some() && place.noted_at.is_some_and(|at| at.elapsed() < NOTE_INTERVAL) {
                    return Ok(());
                }
                place.noted_at = Some(Instant::now());
            }
            match after {
                Some(digest) => small_files::put(&scrub.paths.scrub(), digest.to_string().as_bytes()),
                None => disk::unlink(&scrub.paths.scrub()).map(drop),
            }
        });
        if let Err(error) = noted.await {
            tracing::debug!("the scrub's place was not noted: {error}");
        }
    }
}

/// The time that so many bytes take if `total` take `period`.
fn rest(bytes: u64, total: u64, period: Duration) -> Duration {
    if total == 0 {
        return Duration::ZERO;
    }
    period.mul_f64((bytes as f64 / total as f64).min(1.0))
}

fn hash_piece(file: &File, offset: u64, length: u64, hasher: &mut Hasher) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut piece = vec![0; length as usize];
    let was_resident = residency::is_resident(file, offset, piece.len());
    file.read_exact_at(&mut piece, offset)?;
    hasher.update(&piece);
    if !was_resident && let (Ok(start), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        // Advice; without it the pages leave later.
        let _ = posix_fadvise(file, start, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_its_time_whatever_the_sizes() {
        let day = Duration::from_secs(86_400);
        for (sizes, total) in [(vec![1, 99, 900], 1000), (vec![1000], 1000), (vec![500, 500], 1000)] {
            let whole: Duration = sizes.iter().map(|bytes| rest(*bytes, total, day)).sum();
            assert!(whole.abs_diff(day) < Duration::from_millis(1), "{sizes:?}: {whole:?}");
        }
        assert_eq!(rest(5, 0, day), Duration::ZERO, "nothing is counted yet");
        assert_eq!(rest(500, 10, day), day, "more than was counted");
    }
}
