//! Puts another configuration in force at a reload. If the new one cannot be used, the old one stays in force.
//!
//! A reload replaces [`LiveConfig`] and everything that was made from it. It cannot replace values that were read at
//! the start. The log warns about each such key that changed, and [`Reloader::effective`] shows both values.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cli;
use crate::doors::state::AppState;
use entrepot_cache::pull::ConfigSnapshot;
use entrepot_config::ready::{LiveConfig, RegistrySettings};
use entrepot_config::{ConfigError, Effective, Entry, Flags, HostFacts, Loaded, load};
use entrepot_net::workers::capabilities::sealing;
use entrepot_observe::events::EventsHandle;
use entrepot_observe::metrics::Metrics;
use entrepot_store::{Limits, Store};
use entrepot_upstream::http_client::HttpClient;
use entrepot_upstream::own::Ourselves;
use entrepot_upstream::registry_client::{RegistryClient, UpstreamMemory};
use tokio::runtime::Handle;

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

/// The message about a value that waits for a start. Of a file whose path is the same, the content has changed.
fn waiting(in_force: &Entry, in_file: &Entry) -> String {
    let Entry { key, value, .. } = in_force;
    let until = "stays in force until the server starts again";
    if *value == in_file.value {
        return format!("{key} is read at the start only: the content of {value} has changed, the old one {until}");
    }
    format!("{key} is read at the start only: {value} {until}, then {} holds", in_file.value)
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
        load(&self.flags, &cli::ProcessEnvironment, &HostFacts::real())
    }

    /// Returns the values that are in force afterwards.
    fn put_in_force(&self, loaded: Loaded, before: &Effective) -> Result<Effective, String> {
        let Loaded { config, effective, notices, .. } = loaded;
        self.events.set_level(&config.live.logging.level).map_err(|error| error.to_string())?;
        for notice in &notices {
            tracing::info!("{notice}");
        }
        for (in_force, in_file) in before.waiting_for_a_start(&effective) {
            tracing::warn!(key = in_force.key, "{}", waiting(in_force, in_file));
        }
        self.store.set_limits(Limits::from(&config.live));
        show_sealing(&self.memory.metrics, &config.live);
        let snapshot = snapshot(config.live, &self.ourselves, self.memory.clone());
        let (registry, settings) = (&self.state.registry.local, &snapshot.config.registry);
        registry.set_access(registry.access().renewed(settings.rights.clone()));
        registry.refresh_names(settings);
        registry.events.set_way_out(snapshot.upstream.clone());
        registry.events.set_address(registry_address(settings, self.registry_port));
        registry.events.set_receivers(&settings.notifications);
        self.state.set_snapshot(snapshot.clone());
        let local = registry.clone();
        // A reload runs on a thread of the runtime that serves.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { local.name_shadowed_repositories(snapshot).await });
        }
        Ok(before.after_reload(effective))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_waits_for_a_start_is_named_without_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let token = write("token", "canary-1");
        let file = |size: &str| format!("[admin]\ntoken_file = {token:?}\n[data_plane]\ndisk_buffers = \"{size}\"\n");
        let flags = Flags {
            config: Some(write("entrepot.toml", &file("64m"))),
            data_dir: Some(folder.path().to_owned()),
            ..Flags::default()
        };
        let read = || load(&flags, &|_: &str| None, &HostFacts::real()).expect("a good configuration").effective;
        let before = read();
        assert!(before.waiting_for_a_start(&read()).is_empty());
        write("token", "canary-2\n");
        write("entrepot.toml", &file("65m"));
        let after = read();
        let told: Vec<_> = before.waiting_for_a_start(&after).into_iter().map(|(old, new)| waiting(old, new)).collect();
        let token = format!(
            "admin.token_file is read at the start only: the content of \"{}\" has changed, the old one stays in force \
             until the server starts again",
            token.display()
        );
        let buffers = "data_plane.disk_buffers is read at the start only: \"64m\" stays in force until the server starts \
                       again, then \"65m\" holds";
        assert_eq!(told, [token.as_str(), buffers]);
        assert_eq!(before.after_reload(after).waiting_for_a_start(&read()).len(), 2, "they wait on");
    }
}
