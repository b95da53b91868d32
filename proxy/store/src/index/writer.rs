//! The one thread that writes the index. It takes all waiting jobs into one transaction, which readers see at once. It
//! makes changes durable when the first of them has waited as long as it may (`queue::LAG`: a quarter of a second; a
//! second for mere uses), on request, and at the end. After a failure it opens the index anew or replaces it, and tries
//! again once a second until that works. Meanwhile jobs are dropped and counted.
//!
//! A crash can lose the changes of that time: a tag is held within a second of the answer that told it. Lost rows of
//! blobs are found again: `CHECK_FROM` is stored with every durable commit, and after the next start only folders
//! changed since then are looked at (see `rebuild`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use redb::{Database, Durability, Error};

use super::file::{self, ailment_of};
use super::opening::{self, Opened, Tried};
use super::queue::{Ailment, Job};
use super::rebuild;
use super::tables::{self, Tables};
use super::{Shared, write_lock};

/// The pause between attempts to heal the index.
const HEAL_INTERVAL: Duration = Duration::from_secs(1);
/// A thread with nothing to do wakes up this often all the same.
const IDLE_INTERVAL: Duration = Duration::from_secs(600);
/// A published file may be this much older than its row, if syncing its folder took long.
const CHECK_MARGIN: Duration = Duration::from_secs(60);
/// The clock of file times ticks this coarsely.
const CHECK_TICK: Duration = Duration::from_secs(1);
/// The share of the cache, in percent, that blobs used more than once may fill.
const PROTECTED_PERCENT: u64 = 80;

pub(super) struct Writer {
    shared: Arc<Shared>,
    rebuild: Option<JoinHandle<()>>,
    /// When the visible changes have to be durable. None if they all are.
    durable_by: Option<Instant>,
    /// The last job that is visible.
    visible: u64,
}

impl Writer {
    /// Starts with an index, or without one if it could not be opened.
    pub(super) fn new(shared: Arc<Shared>, tried: Tried) -> Self {
        let mut writer = Self { shared, rebuild: None, durable_by: None, visible: 0 };
        match tried {
            Tried::Opened(opened) => writer.install(opened),
            Tried::Refused(why) => writer.shared.set_refused(Some(why)),
        }
        writer
    }

    /// Runs until the queue is closed.
    pub(super) fn run(mut self) {
        loop {
            let batch = self.shared.queue.take(self.wake_at());
            if let Some(ailment) = batch.ailment {
                self.drop_index(ailment);
            }
            if !self.has_index() && !batch.closing {
                self.heal();
            }
            self.apply(batch.jobs);
            self.visible = batch.last;
            self.shared.queue.set_visible(batch.last);
            let due = self.durable_by.is_some_and(|by| by <= Instant::now());
            if due || batch.make_durable || batch.closing {
                self.make_durable(batch.closing);
            }
            if batch.closing {
                break;
            }
        }
        if let Some(rebuild) = self.rebuild.take() {
            let _ = rebuild.join();
        }
        let database = write_lock(&self.shared.database).take();
        if let Some(database) = database {
            file::close(database);
        }
    }

    fn wake_at(&self) -> Instant {
        match self.durable_by {
            _ if !self.has_index() => Instant::now() + HEAL_INTERVAL,
            Some(by) => by,
            None => Instant::now() + IDLE_INTERVAL,
        }
    }

    fn has_index(&self) -> bool {
        self.shared.with_database(|_| Ok(())).is_some()
    }

    fn apply(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let job_count = jobs.len() as u64;
        let durable_by = jobs.iter().map(|job| job.lag).min().map(|lag| Instant::now() + lag);
        let mut reservations = Vec::new();
        let limits = self.shared.space.ledger().limits;
        let protected_max_bytes = limits.max_size_bytes / 100 * PROTECTED_PERCENT;
        let (paths, memory) = (&self.shared.paths, &*self.shared.memory);
        let committed = self.shared.with_database(|database| {
            let (changes, held): (Vec<_>, Vec<_>) = jobs.into_iter().map(|job| (job.apply, job.reservation)).unzip();
            reservations = held;
            commit(database, |transaction| {
                let mut tables = Tables::open(transaction, paths, memory, protected_max_bytes)?;
                changes.into_iter().try_for_each(|change| change(&mut tables))?;
                tables.finish()
            })
        });
        match committed {
            Some(Ok((totals, stale))) => {
                self.shared.memory.forget(&stale);
                self.shared.space.set_used(totals.held());
                self.durable_by = self.durable_by.into_iter().chain(durable_by).min();
            }
            Some(Err(error)) => {
                self.count_dropped(job_count);
                self.judge(error);
            }
            None => self.count_dropped(job_count),
        }
    }

    /// A commit that survives a power cut. Quick repair makes the next start after a crash independent of the size.
    fn make_durable(&mut self, closing: bool) {
        let margin = if closing { CHECK_TICK } else { CHECK_MARGIN };
        let check_from = self.shared.is_reconciled().then(|| SystemTime::now() - margin);
        let committed = self.shared.with_database(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            if let Some(time) = check_from {
                tables::set_check_from(&transaction, time)?;
            }
            Ok(transaction.commit()?)
        });
        self.durable_by = None;
        if let Some(Err(error)) = committed {
            self.judge(error);
        }
        self.shared.queue.set_durable(self.visible);
    }

    fn count_dropped(&self, jobs: u64) {
        self.shared.counters.index_dropped.fetch_add(jobs, Ordering::Relaxed);
    }

    fn judge(&mut self, error: Error) {
        if matches!(error, Error::ValueTooLarge(_)) {
            // The index is well. The other changes of the transaction, refusals included, are lost all the same.
            self.shared.memory.clear();
            return;
        }
        tracing::warn!(%error, "a change of the cache's index failed; it will be opened anew");
        self.drop_index(ailment_of(&error));
    }

    fn drop_index(&mut self, ailment: Ailment) {
        let database = write_lock(&self.shared.database).take();
        if let Some(database) = database {
            file::close(database);
            if ailment == Ailment::Replace {
                opening::set_aside(&self.shared.paths);
            }
        }
        // Changes that were visible may be lost with the index.
        self.shared.memory.clear();
        self.durable_by = None;
    }

    fn heal(&mut self) {
        match opening::open(&self.shared.paths) {
            Ok(Tried::Opened(opened)) => {
                tracing::info!("the cache's index is open again");
                self.install(opened);
            }
            Ok(Tried::Refused(why)) => self.shared.set_refused(Some(why)),
            Err(error) => self.shared.set_refused(Some(error.to_string())),
        }
    }

    /// Puts an index to use, and has the folders looked at that may hold files unknown to it.
    fn install(&mut self, opened: Opened) {
        if let Some(earlier) = self.rebuild.take() {
            let _ = earlier.join();
        }
        self.shared.space.set_used(opened.totals.held());
        *write_lock(&self.shared.database) = Some(opened.database);
        self.shared.set_refused(None);
        self.shared.start_rebuilding();
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("store-rebuild".to_owned());
        let started = thread.spawn(move || {
            let complete = rebuild::reconcile(&shared, opened.check_from);
            shared.end_rebuilding(complete);
        });
        match started {
            Ok(thread) => self.rebuild = Some(thread),
            Err(error) => {
                tracing::warn!(%error, "the cache's files could not be compared with its index");
                self.shared.end_rebuilding(false);
            }
        }
    }
}

/// Makes one transaction. Readers see it at once; it becomes durable with the next durable one.
fn commit<T>(
    database: &Database,
    change: impl FnOnce(&redb::WriteTransaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::None)?;
    let changed = change(&transaction)?;
    transaction.commit()?;
    Ok(changed)
}
