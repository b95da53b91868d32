//! Puts another configuration in force at a reload. If the new one cannot be used, the old one stays in force.
//!
//! A reload replaces [`LiveConfig`] and everything that was made from it. It cannot replace values that were read at
//! the start. The log warns about each such key that changed, and [`Reloader::effective`] shows both values.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cli;
use crate::doors::state::AppState;
use entrepot_cache::pull::ConfigSnapshot;
use entrepot_config::ready::{LiveConfig, RegistrySettings};
use entrepot_config::{ConfigError, Effective, Flags, HostFacts, Loaded, load};
use entrepot_net::workers::capabilities::sealing;
use entrepot_observe::events::EventsHandle;
use entrepot_observe::metrics::Metrics;
use entrepot_store::{Limits, Store};
use entrepot_upstream::http_client::HttpClient;
use entrepot_upstream::own::Ourselves;
use entrepot_upstream::registry_client::{RegistryClient, UpstreamMemory};

/// Puts configurations in force.
pub(super) struct Reloader {
    pub(super) flags: Flags,
    pub(super) state: Arc<AppState>,
    pub(super) store: Arc<Store>,
    pub(super) events: EventsHandle,
    pub(super) ourselves: Ourselves,
    pub(super) memory: Arc<UpstreamMemory>,
    /// The first port of our registry. Zero if it has none.
    pub(super) registry_port: u16,
    pub(super) effective: Mutex<Effective>,
}

/// The configuration and the upstream client, as requests hold them. It reads the system's roots: not for the event
/// loop.
pub(super) fn snapshot(config: LiveConfig, ourselves: &Ourselves, memory: Arc<UpstreamMemory>) -> Arc<ConfigSnapshot> {
    let client = HttpClient::new(&config.upstream, &config.registries, ourselves);
    Arc::new(ConfigSnapshot { upstream: Arc::new(RegistryClient::new(client, memory)), config })
}

/// The address by which events name our registry.
pub(super) fn registry_address(settings: &RegistrySettings, port: u16) -> String {
    format!("{}:{port}", settings.hostname.name())
}

/// Shows in the metrics whether the kernel or this process encrypts TLS records.
pub(super) fn show_sealing(metrics: &Metrics, config: &LiveConfig) {
    let (now, other) = sealing(config.data_plane.ktls);
    metrics.hide_data_plane("sealing", other);
    metrics.show_data_plane("sealing", now);
}

impl Reloader {
    /// Reads the configuration again. After an error nothing has changed. The error is one line.
    pub(super) fn reload(&self) -> Result<(), String> {
        // Only one reload runs at a time, so the values of the last reader stay in force.
        let mut effective = self.effective.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome =
            self.read().map_err(|error| error.to_string()).and_then(|loaded| self.put_in_force(loaded, &effective));
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

    /// Every setting with the value in force, and with the file's value if that differs, or the error of a file that is
    /// bad now. Secrets are masked. Reads the file.
    pub(super) fn effective(&self) -> serde_json::Value {
        let effective = self.effective.lock().unwrap_or_else(PoisonError::into_inner).clone();
        effective.told(self.read().as_ref().map(|loaded| &loaded.effective))
    }

    fn read(&self) -> Result<Loaded, ConfigError> {
        load(&self.flags, &cli::environment, &HostFacts::real())
    }

    /// Returns the values that are in force afterwards.
    fn put_in_force(&self, loaded: Loaded, before: &Effective) -> Result<Effective, String> {
        let Loaded { config, effective, notices } = loaded;
        self.events.set_level(&config.live.logging.level).map_err(|error| error.to_string())?;
        for notice in &notices {
            tracing::info!("{notice}");
        }
        for (in_force, in_file) in before.waiting_for_a_start(&effective) {
            tracing::warn!(
                key = in_force.key,
                "{} is read at the start only: {} stays in force until the server starts again, then {} holds",
                in_force.key,
                in_force.value,
                in_file.value
            );
        }
        self.store.set_limits(Limits::from(&config.live.cache));
        show_sealing(&self.memory.metrics, &config.live);
        let snapshot = snapshot(config.live, &self.ourselves, self.memory.clone());
        let (registry, settings) = (&self.state.registry.local, &snapshot.config.registry);
        registry.set_access(registry.access().renewed(settings.rights.clone()));
        registry.refresh_names(settings);
        registry.events.set_way_out(snapshot.upstream.clone());
        registry.events.set_address(registry_address(settings, self.registry_port));
        registry.events.set_receivers(&settings.notifications);
        self.state.set_snapshot(snapshot);
        Ok(before.after_reload(effective))
    }
}
