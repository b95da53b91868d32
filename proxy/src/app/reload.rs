//! What a configuration puts in force, made anew at each reload. A configuration that cannot be used leaves the one
//! before it in force.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cli;
use crate::doors::state::AppState;
use entrepot_cache::pull::ConfigSnapshot;
use entrepot_config::ready::Config;
use entrepot_config::{Effective, Flags, HostFacts, Loaded, load};
use entrepot_observe::events::EventsHandle;
use entrepot_store::{Limits, Store};
use entrepot_upstream::client::UpstreamClient;
use entrepot_upstream::exchange::{Memory, Upstream};
use entrepot_upstream::own::Ourselves;

/// Puts configurations in force.
pub(super) struct Reloader {
    pub(super) flags: Flags,
    pub(super) state: Arc<AppState>,
    pub(super) store: Arc<Store>,
    pub(super) events: EventsHandle,
    pub(super) ourselves: Ourselves,
    pub(super) memory: Arc<Memory>,
    pub(super) effective: Mutex<Effective>,
}

/// Keys that are read once: what is bound or opened with them stays as it is.
const READ_AT_START: [&str; 12] = [
    "data_dir",
    "proxy.listen",
    "proxy.max_connections",
    "proxy.max_connections_per_client",
    "registry.http",
    "registry.https",
    "admin.",
    "ca.",
    "mdns.",
    "logging.file",
    "logging.format",
    "proxy.drain_timeout",
];

/// The way out and the configuration, as requests hold them. Reads the system's roots: not for the event loop.
pub(super) fn snapshot(config: Config, ourselves: &Ourselves, memory: Arc<Memory>) -> Arc<ConfigSnapshot> {
    let client = UpstreamClient::new(&config.upstream, &config.registries, ourselves);
    Arc::new(ConfigSnapshot { upstream: Arc::new(Upstream::new(client, memory)), config })
}

impl Reloader {
    /// Reads the configuration anew. On an error nothing has changed, and the error is one line.
    pub(super) fn reload(&self) -> Result<(), String> {
        // One reload at a time: the one that reads last is the one that holds.
        let mut effective = self.effective.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = load(&self.flags, &cli::environment, &HostFacts::real())
            .map_err(|error| error.to_string())
            .and_then(|loaded| self.put_in_force(loaded, &effective));
        self.state.log.access_log.reopen();
        match outcome {
            Ok(now) => {
                *effective = now;
                tracing::info!("configuration reloaded");
                Ok(())
            }
            Err(error) => {
                tracing::error!("the configuration is bad, the last good one stays in force: {error}");
                Err(error)
            }
        }
    }

    fn put_in_force(&self, loaded: Loaded, before: &Effective) -> Result<Effective, String> {
        self.events.set_level(&loaded.config.logging.level).map_err(|error| error.to_string())?;
        for notice in &loaded.notices {
            tracing::info!("{notice}");
        }
        for entry in &loaded.effective.entries {
            let fixed =
                READ_AT_START.iter().any(|key| entry.key == *key || (key.ends_with('.') && entry.key.starts_with(key)));
            let same = before.entries.iter().any(|old| old.key == entry.key && old.value == entry.value);
            if fixed && !same {
                tracing::warn!("{} changes with the next start only", entry.key);
            }
        }
        self.store.set_limits(Limits::from(&loaded.config.cache));
        let snapshot = snapshot(loaded.config, &self.ourselves, self.memory.clone());
        let (registry, door) = (&self.state.registry.local, &snapshot.config.registry);
        registry.set_access(registry.access().renewed(door.rights.clone()));
        registry.events.set_way_out(snapshot.upstream.clone());
        registry.events.set_receivers(&door.notifications);
        self.state.set_snapshot(snapshot);
        Ok(loaded.effective)
    }

    /// The configuration in force, secrets masked.
    pub(super) fn effective(&self) -> serde_json::Value {
        self.effective.lock().unwrap_or_else(PoisonError::into_inner).to_json()
    }
}
