//! Collections of the registry, by request or by the clock: one at a time, with the outcome of the last ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::LocalRegistry;
use entrepot_config::ready::RegistrySettings;
use entrepot_store::{Collected, Step, StoreError, Sweep, Untagged};

/// A collection by the configuration.
pub fn sweep_of(settings: &RegistrySettings, dry_run: bool) -> Sweep {
    let untagged = settings.untagged.map_or(Untagged::Keep, Untagged::After);
    Sweep { grace: settings.grace, untagged, dry_run }
}

/// The collections since the process started.
#[derive(Clone, Default, Debug)]
pub struct Known {
    /// One that runs.
    pub running: Option<Running>,
    /// The last that took something away, or found nothing to take.
    pub last: Option<Ended>,
    /// The last that only counted.
    pub counted: Option<Ended>,
}

/// A collection that runs.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// Whether it only counts.
    pub dry_run: bool,
    /// Its latest step. None at its beginning.
    pub step: Option<Step>,
}

/// A collection that came to its end.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// The content that it deleted. After a dry run: that it would have deleted.
    pub collected: Collected,
}

/// Keeps the outcome of collections.
#[derive(Default)]
pub(super) struct Collections(Mutex<Known>);

impl Collections {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn to collect. None while another collection has it.
    fn begin(&self, dry_run: bool) -> Option<Turn<'_>> {
        let mut known = self.known();
        if known.running.is_some() {
            return None;
        }
        known.running = Some(Running { dry_run, step: None });
        Some(Turn(self))
    }
}

/// Gives the turn back, however the collection ended.
struct Turn<'c>(&'c Collections);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.known().running = None;
    }
}

impl LocalRegistry {
    /// Collects. None if another collection runs. It goes on to its end also if the caller no longer waits.
    pub async fn collect(
        self: &Arc<Self>,
        sweep: Sweep,
        progress: impl FnMut(Step) + Send + 'static,
    ) -> Result<Option<Collected>, StoreError> {
        let registry = self.clone();
        let collecting = tokio::spawn(async move { registry.collect_now(sweep, progress).await });
        collecting.await.unwrap_or(Err(StoreError::DiskThreadGone))
    }

    async fn collect_now(
        self: &Arc<Self>,
        sweep: Sweep,
        mut progress: impl FnMut(Step) + Send + 'static,
    ) -> Result<Option<Collected>, StoreError> {
        let Some(turn) = self.collections.begin(sweep.dry_run) else { return Ok(None) };
        let began = Instant::now();
        let registry = self.clone();
        let noted = move |step| {
            if let Some(running) = &mut registry.collections.known().running {
                running.step = Some(step);
            }
            progress(step);
        };
        let Some(collected) = self.store.repositories.collect(sweep, noted).await? else { return Ok(None) };
        let ended = Ended { at: SystemTime::now(), took: began.elapsed(), collected };
        let mut known = turn.0.known();
        if sweep.dry_run {
            known.counted = Some(ended);
        } else {
            // The counts from before no longer hold.
            (known.last, known.counted) = (Some(ended), None);
        }
        drop(known);
        Ok(Some(collected))
    }

    /// A collection whose outcome is only logged, if it did something.
    pub async fn collect_quietly(self: &Arc<Self>, sweep: Sweep) {
        match self.collect(sweep, |_| {}).await {
            Ok(Some(collected)) if collected.links + collected.blobs > 0 && !sweep.dry_run => {
                let Collected { links, blobs, bytes, .. } = collected;
                tracing::info!(links, blobs, bytes, "collected what no manifest of the registry names");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("the registry was not collected: {error}"),
        }
    }

    /// The collections so far.
    pub fn collections(&self) -> Known {
        self.collections.known().clone()
    }
}
